"""What a queue does to given arrivals, and what theory says of it: the truth of the tests."""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def poisson(rate: float, seconds: float, rng: np.random.Generator) -> Floats:
    """Arrivals of independent callers in [0, `seconds`), ascending."""
    return np.sort(rng.uniform(0, seconds, rng.poisson(rate * seconds)))


def departures(arrivals: Floats, service: Floats) -> Floats:
    """When each request leaves a single server that takes them in order.

    Args:
        arrivals: Shape (n,), seconds, ascending.
        service: Shape (n,), seconds each.

    Returns:
        Shape (n,): D[i] = max(A[i], D[i-1]) + S[i], Lindley's recursion, here without a loop: the
        departure is all the work from some request on, the one that makes it latest.
    """
    work = np.cumsum(service)
    return np.maximum.accumulate(arrivals - (work - service)) + work


def latencies(
    rate: float,
    seconds: float,
    service: Callable[[int], Floats],
    rng: np.random.Generator,
    warm_up: float = 2.0,
) -> Floats:
    """Waiting and service of the arrivals after the warm-up, in seconds."""
    arrivals = poisson(rate, warm_up + seconds, rng)
    left = departures(arrivals, service(len(arrivals)))
    return (left - arrivals)[arrivals >= warm_up]


def percentile(values: Floats, percent: float) -> float:
    """The smallest value that `percent` % of all do not exceed."""
    return float(np.sort(values)[math.ceil(round(percent / 100 * len(values), 6)) - 1])


def mean_latency(rate: float, mean_service: float, service_variance: float = 0.0) -> float:
    """Pollaczek and Khinchine's mean time in an M/G/1 queue, in seconds."""
    load = rate * mean_service
    second_moment = service_variance + mean_service**2
    return mean_service + rate * second_moment / (2 * (1 - load))
