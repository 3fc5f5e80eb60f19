"""Every rule by which a run is invalid because of its load generator."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loadtest import summary
from loadtest.series import Series

MakeRun = Callable[..., Path]
RawResult = Callable[..., dict[str, Any]]
COUNT = 1000


@pytest.fixture
def judged(make_run: MakeRun, raw_result: RawResult) -> Callable[..., list[str]]:
    """Why an open loop's run of 1,000 arrivals is invalid."""

    def judge(
        lags_us: list[float] | None = None,
        requests: int = COUNT,
        late: int = 0,
        cpu_s: float = 2.0,
    ) -> list[str]:
        raw = raw_result("rest", [2000.0] * requests, cpu_s=cpu_s, measured_s=10.0)
        lag = Series()
        for us in lags_us or [50.0] * requests:
            lag.record(us)
        raw["series"]["lag"] = lag.encode()
        raw["offered"] = {"arrivals": COUNT, "unanswered": 0, "late_for_want_of_a_thread": late}
        figures = summary.summarise(make_run(raw=[raw], settings={"max_in_flight": 64}))
        assert figures["valid"] is not bool(figures["invalid_because"])
        return list(figures["invalid_because"])

    return judge


def test_a_generator_that_kept_up_is_valid(judged: Callable[..., list[str]]) -> None:
    assert judged() == []
    assert judged(requests=990) == []
    assert judged(cpu_s=8.5) == []
    assert judged(lags_us=[50.0] * 990 + [5000.0] * 10) == []


def test_a_busy_generator_is_invalid(judged: Callable[..., list[str]]) -> None:
    (why,) = judged(cpu_s=8.6)
    assert "CPU utilization is 86 %, expected at most 85 %; use more" in why


def test_missing_answers_are_invalid(judged: Callable[..., list[str]]) -> None:
    (why,) = judged(requests=989)
    assert "completed share is 98.9 % of 1,000 arrivals, expected at least 99 %; use" in why


def test_the_in_flight_limit_is_invalid(judged: Callable[..., list[str]]) -> None:
    (why,) = judged(late=1)
    assert "delayed by --max-in-flight is 1, expected 0; raise the limit of 64" in why


def test_sending_late_is_invalid_where_the_generator_was_not_busy(
    judged: Callable[..., list[str]],
) -> None:
    late = [50.0] * 989 + [1100.0] * 11
    (why,) = judged(lags_us=late)
    assert "dispatch lag p99 is 1.10 ms, expected at most 1 ms; stop" in why
    assert judged(lags_us=late, cpu_s=6.0) == []
    later = [50.0] * 989 + [5100.0] * 11
    (why,) = judged(lags_us=later, cpu_s=6.0)
    assert "dispatch lag p99 is 5.10 ms, expected at most 5 ms; stop" in why


def test_a_closed_loop_is_judged_by_its_cpu_alone(make_run: MakeRun) -> None:
    assert summary.summarise(make_run(cpu_s=8.4))["valid"]
    assert not summary.summarise(make_run(cpu_s=8.6))["valid"]
