import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from loadtest import tables
from loadtest.calibration import CALIBRATION, FLOOR_RATE, calibrate, measure
from loadtest.runner import run_load_test


def figures(rate: float, valid: bool = True) -> Mapping[str, Any]:
    return {
        "valid": valid,
        "invalid_because": [] if valid else [f"too fast at {rate:g}"],
        "failures": 0,
        "failures_by_reason": {},
        "requests": round(rate * 5),
        "measured_s": 5.0,
        "client_cpu": {"cores_used": rate * 0.0002},
        "latency_ms": {"client": {"p50": 0.2, "p99": 1.0}, "lag": {"p99": 0.1}},
    }


def test_the_highest_rate_is_the_last_one_kept() -> None:
    asked: list[float] = []

    def at(rate: float) -> Mapping[str, Any]:
        asked.append(rate)
        return figures(rate, valid=rate < 900)

    found = measure(at, (500, 800, 1000, 2000))
    assert asked == [FLOOR_RATE, 500, 800, 1000, 1000]
    assert found["highest_rate"] == 800
    assert found["ended_by"] == ["too fast at 1000"]
    assert found["cpu_ms_per_request"] == 0.2
    assert found["floor"]["p99"] == 1.0


def test_a_rate_that_is_kept_the_second_time_is_kept() -> None:
    asked: list[float] = []

    def at(rate: float) -> Mapping[str, Any]:
        asked.append(rate)
        return figures(rate, valid=asked.count(rate) > 1 or rate == FLOOR_RATE)

    assert measure(at, (500, 800))["highest_rate"] == 800


@pytest.mark.truth
def test_a_calibration_measures_both_protocols(tmp_path: Path) -> None:
    told: list[str] = []
    folder = calibrate(tmp_path, run_load_test, rates=(), seconds=1, notify=told.append)
    document = json.loads((folder / CALIBRATION).read_text())
    for protocol in ("rest", "grpc"):
        floor = document[protocol]["floor"]
        assert 0 < floor["p50"] <= floor["p99"]
        assert document[protocol]["cpu_ms_per_request"] > 0
    assert told == ["rest: 200 arrivals/s", "grpc: 200 arrivals/s"]
    assert len(tables.of_calibration(document).rows) == 5
