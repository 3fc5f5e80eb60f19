import numpy as np
import pytest

from loadtest.attribution import (
    CLIENT_AND_NETWORK,
    DISPATCH_LAG,
    GATEWAY,
    INFERENCE,
    QUEUE,
    Row,
    attribute,
    merge,
)

TOTALS = {"mean": 1.0, "p50": 1.0, "p90": 1.0, "p99": 1.0}


def test_the_parts_at_a_percentile_are_those_of_requests_that_took_as_long() -> None:
    # Nine in ten compute for long; one in ten is held up by the gateway instead.
    rows = [Row(2000 + n, 0, 100, 1500, 1400, 200, 1000) for n in range(900)]
    rows += [Row(9000 + n, 0, 8000, 500, 400, 100, 200) for n in range(100)]
    np.random.default_rng(1).shuffle(rows)
    found = attribute(rows, {"mean": 3.149, "p50": 2.5, "p90": 2.9, "p99": 9.09})
    assert found["p50"].parts_ms[INFERENCE] == 1
    assert found["p50"].parts_ms[GATEWAY] == 0.1
    assert found["p99"].parts_ms[INFERENCE] == 0.2
    assert found["p99"].parts_ms[GATEWAY] == 8
    assert found["mean"].parts_ms[QUEUE] == pytest.approx(0.19)
    assert found["p99"].rows == 11
    assert abs(found["p50"].residual_ms) < 0.01
    assert abs(found["p99"].residual_ms) < 0.01


def test_what_was_sent_late_is_not_the_networks() -> None:
    rows = [Row(5000, 3000, 500, 1000, 900, 0, 800)] * 20
    parts = attribute(rows, TOTALS)["mean"].parts_ms
    assert parts[DISPATCH_LAG] == 3
    assert parts[CLIENT_AND_NETWORK] == 0.5


def test_a_handful_of_requests_tells_nothing() -> None:
    assert attribute([Row(1, 0, 0, 1, 1, 0, 1)] * 19, TOTALS) == {}


def test_the_samples_of_several_processes_weigh_as_many_requests_each() -> None:
    # The first has seen ten times as many requests as it could keep.
    rows = merge([["a"] * 100, ["b"] * 100, []], [1000, 100, 0])
    assert (rows.count("a"), rows.count("b")) == (100, 10)
