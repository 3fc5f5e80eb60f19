"""How near a percentile read from the buckets is to the exact one."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.utils import floatToGoString

from monitoring import histograms
from monitoring.metrics import DURATION_BUCKETS, REQUEST_DURATION, ServingMetrics

Seconds = NDArray[np.float64]
SAMPLES = 4_000


def lognormal(random: np.random.Generator) -> Seconds:
    return random.lognormal(0, 0.5, SAMPLES)


def long_tail(random: np.random.Generator) -> Seconds:
    return 1 + random.pareto(2.5, SAMPLES)


def narrow(random: np.random.Generator) -> Seconds:
    """As of a machine that does nothing else: two thirds lie within 7 % of the mean."""
    return random.gamma(200, 1 / 200, SAMPLES)


def two_kinds(random: np.random.Generator) -> Seconds:
    """Three in a hundred are four times as slow."""
    slow = random.random(SAMPLES) < 0.03
    return random.lognormal(np.where(slow, np.log(4), 0), 0.2)


def queued(random: np.random.Generator) -> Seconds:
    """One server that takes the same time for each, four fifths busy, Poisson arrivals: M/D/1."""
    arrived = np.cumsum(random.exponential(1 / 0.8, SAMPLES))
    ended = np.arange(1, SAMPLES + 1) + np.maximum.accumulate(arrived - np.arange(SAMPLES))
    return ended - arrived


def counted(durations: Seconds) -> histograms.Buckets:
    """The servers' cumulative buckets of these durations, without a call for each."""
    bounds = [*DURATION_BUCKETS, math.inf]
    counts = np.searchsorted(np.sort(durations), bounds, side="right")
    return dict(zip(map(floatToGoString, bounds), counts.astype(float).tolist(), strict=True))


def observed(durations: Seconds) -> histograms.Buckets:
    """The same, as a server counts them and Prometheus reads them."""
    registry = CollectorRegistry()
    served = ServingMetrics(registry, "rest", "m", "1")
    for duration in durations.tolist():
        served.observe("c", "v", "200", duration)
    text = generate_latest(registry).decode()
    return histograms.by_protocol(text, REQUEST_DURATION)["rest"]


def test_a_server_counts_each_duration_in_its_bucket() -> None:
    durations = long_tail(np.random.default_rng(1)) / 1000
    durations[: len(DURATION_BUCKETS)] = DURATION_BUCKETS  # a bound belongs to its own bucket
    assert observed(durations) == counted(durations)


@pytest.mark.parametrize("shape", [lognormal, long_tail, narrow, two_kinds, queued])
@pytest.mark.parametrize("q", [0.5, 0.99])
def test_a_percentile_is_within_5_per_cent_from_half_a_millisecond_to_200(
    shape: Callable[[np.random.Generator], Seconds], q: float
) -> None:
    random = np.random.default_rng(7)
    # So many that the percentile lies everywhere within its bucket.
    for exact in np.geomspace(0.5e-3, 200e-3, 40):
        durations = shape(random)
        durations *= exact / np.quantile(durations, q)
        found = histograms.quantile(counted(durations), q)
        assert found is not None
        assert found.s == pytest.approx(exact, rel=0.05)


def test_alike_to_the_microsecond_a_percentile_is_only_as_near_as_its_bucket() -> None:
    found = histograms.quantile(counted(np.full(100, 0.0046)), 0.99)
    assert found is not None
    low, high = found.bucket_s
    assert low < 0.0046 <= high <= low * 1.101
