"""The simulated queue against theory: what the other tests call the truth is true."""

import math

import numpy as np
import pytest
from queue_simulation import departures, latencies, mean_latency, percentile, poisson

SERVICE_S = 0.005


def constant(count: int) -> np.ndarray:
    return np.full(count, SERVICE_S)


def test_departures_are_lindleys() -> None:
    rng = np.random.default_rng(3)
    arrivals = poisson(150, 5, rng)
    assert len(arrivals) > 600  # 750 on average
    service = rng.exponential(SERVICE_S, len(arrivals))
    left = -math.inf
    for arrived, takes, found in zip(arrivals, service, departures(arrivals, service), strict=True):
        left = max(arrived, left) + takes
        assert found == pytest.approx(left, rel=1e-9)


def test_a_stall_is_a_line_that_falls() -> None:
    arrivals = np.array([0.0, 0.001, 0.002, 1.0])
    found = departures(arrivals, constant(4)) - arrivals
    assert found == pytest.approx([0.005, 0.009, 0.013, 0.005])


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_the_mean_is_pollaczek_and_khinchines(load: float) -> None:
    rng = np.random.default_rng(7)
    rate = load / SERVICE_S
    found = latencies(rate, 4_000, constant, rng).mean()
    assert found == pytest.approx(mean_latency(rate, SERVICE_S), rel=0.02)
    drawn = latencies(rate, 4_000, lambda n: rng.exponential(SERVICE_S, n), rng).mean()
    assert drawn == pytest.approx(mean_latency(rate, SERVICE_S, SERVICE_S**2), rel=0.04)


def test_five_milliseconds_at_eighty_percent_take_fifteen() -> None:
    assert mean_latency(160, SERVICE_S) == pytest.approx(0.015)


def test_percentiles_of_exponential_service_are_known() -> None:
    """In M/M/1 the time in the system is exponential with the rate that is left."""
    rng = np.random.default_rng(9)
    found = latencies(120, 8_000, lambda n: rng.exponential(SERVICE_S, n), rng)
    for percent in (50, 90, 99):
        known = -math.log(1 - percent / 100) / (1 / SERVICE_S - 120)
        assert percentile(found, percent) == pytest.approx(known, rel=0.05)
