"""The window: what starts within it is measured, whenever it ends."""

import time

import pytest

from loadtest.answers import GatewayTiming, ServerTiming
from loadtest.recorder import NS_PER_S, Outcome, Recorder, Window


class Clock:
    now_s = 100.0

    def __call__(self) -> int:
        return round(self.now_s * NS_PER_S)


def outcome(started_s: float, took_s: float = 0.002, **more: object) -> Outcome:
    started = round(started_s * NS_PER_S)
    return Outcome(started, started + round(took_s * NS_PER_S), **more)  # type: ignore[arg-type]


def test_only_what_starts_within_the_window_is_measured() -> None:
    clock = Clock()
    recorder = Recorder("locust", "rest", None, None, clock)
    recorder.record(outcome(99.0), 0)
    recorder.open(10)
    recorder.record(outcome(99.999, took_s=1), 0)  # began as warm-up
    recorder.record(outcome(100.0), 0)
    recorder.record(outcome(109.999, took_s=5), 0)  # ended after the window
    recorder.record(outcome(110.0), 0)
    clock.now_s = 112
    assert recorder.over
    recorder.close()
    result = recorder.result()
    assert (result["requests"], result["warm_up_requests"]) == (2, 2)
    assert result["series"]["client"]["count"] == 2
    assert result["series"]["client"]["max_us"] == 5_000_000
    assert result["measured_s"] == 10
    assert result["digits"] is None


def test_a_run_cut_short_measures_until_then() -> None:
    clock = Clock()
    recorder = Recorder("locust", "rest", None, None, clock)
    recorder.open(10)
    clock.now_s = 104
    recorder.close()
    clock.now_s = 105
    recorder.record(outcome(104.5), 0)
    assert recorder.result()["measured_s"] == 4
    assert recorder.result()["requests"] == 0


def test_a_run_that_never_measured_has_a_result() -> None:
    recorder = Recorder("locust", "grpc", (0,), frozenset(), Clock())
    recorder.close()
    result = recorder.result()
    assert (result["measured_s"], result["requests"], result["cpu_s"]) == (0, 0, 0)
    assert result["started"]


def test_failures_are_counted_by_reason_and_are_in_no_series() -> None:
    recorder = Recorder("locust", "grpc", None, None, Clock())
    recorder.open(10)
    timing = ServerTiming(0.25, 1.5, 2.0)
    recorder.record(outcome(100, failure="INTERNAL"), 0)
    recorder.record(outcome(101, failure="INTERNAL"), 0)
    recorder.record(outcome(102, server=timing), 0)
    recorder.record(outcome(103), 0)  # no timing
    result = recorder.result()
    assert result["requests"] == 4
    assert result["failures"] == {"INTERNAL": 2}
    assert result["series"]["client"]["count"] == 2
    for name, us in (("total", 2000), ("queue", 250), ("compute", 1500)):
        series = result["series"][f"server_{name}"]
        assert (series["count"], series["sum_us"]) == (1, us)


def test_digits_are_scored_against_the_model() -> None:
    recorder = Recorder("locust", "rest", (7, 8, 9), frozenset({1}), Clock())
    recorder.open(10)
    recorder.record(outcome(100, predicted=(7,)), 0)
    recorder.record(outcome(101, predicted=(3,)), 1)  # the model tells this one wrong
    recorder.record(outcome(102, predicted=(9,)), 2)
    recorder.record(outcome(103, failure="closed"), 2)
    assert recorder.result()["digits"] == {"scored": 3, "correct": 2, "expected_correct": 2}


def test_without_a_model_nothing_is_expected() -> None:
    recorder = Recorder("locust", "rest", (7,), None, Clock())
    recorder.open(10)
    recorder.record(outcome(100, predicted=(7,)), 0)
    assert recorder.result()["digits"] == {"scored": 1, "correct": 1, "expected_correct": None}


def test_each_block_has_its_own_series_and_what_is_between_is_warm_up() -> None:
    clock = Clock()
    recorder = Recorder("locust", "rest", None, None, clock)
    ns = NS_PER_S
    recorder.open_windows([Window(101 * ns, 102 * ns, 0), Window(104 * ns, 106 * ns, 3)])
    for started_s in (100.5, 101.0, 101.9, 102.0, 103.5, 104.0, 105.0, 105.9, 106.0):
        recorder.record(outcome(started_s), 0)
    clock.now_s = 107
    recorder.close()
    result = recorder.result()
    assert [block["number"] for block in result["blocks"]] == [0, 3]
    assert [block["series"]["count"] for block in result["blocks"]] == [2, 3]
    assert result["requests"] == result["series"]["client"]["count"] == 5
    assert result["warm_up_requests"] == 3  # 100.5, 102.0 and 103.5; 106.0 came too late
    assert result["measured_s"] == 3


def test_with_a_schedule_latency_counts_from_when_it_was_due() -> None:
    recorder = Recorder("locust", "rest", None, None, Clock())
    recorder.open(10)
    due_ns = round(101 * NS_PER_S)
    recorder.record(outcome(103.0, took_s=0.5, intended_ns=due_ns), 0)
    # Due before the window: warm-up, though it was sent in it.
    recorder.record(outcome(103.0, intended_ns=round(99 * NS_PER_S)), 0)
    series = recorder.result()["series"]
    assert recorder.warm_up_requests == 1
    assert (series["client"]["sum_us"], series["sent"]["sum_us"]) == (2_500_000, 500_000)
    assert series["lag"]["sum_us"] == 2_000_000


def test_the_parts_of_a_request_stay_together() -> None:
    recorder = Recorder("locust", "rest", None, None, Clock())
    recorder.open(10)
    server, gateway = ServerTiming(0.25, 1.5, 2.0), GatewayTiming(300, 2400)
    recorder.record(outcome(101, took_s=0.004, server=server, gateway=gateway), 0)
    due_ns = round(102.9 * NS_PER_S)
    recorder.record(outcome(103, took_s=0.004, server=server, intended_ns=due_ns), 0)
    result = recorder.result()
    assert [list(row) for row in result["rows"]] == [
        [4000, 0, 300, 2400, 2000, 250, 1500],
        [104_000, 100_000, 0, 2000, 2000, 250, 1500],  # by way of no gateway
    ]
    assert result["rows_of"] == 2
    assert result["series"]["gateway"]["sum_us"] == 300
    assert result["series"]["upstream"]["sum_us"] == 2400


def test_the_rows_are_a_uniform_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loadtest.recorder.MAX_ROWS", 200)
    recorder = Recorder("locust", "rest", None, None, Clock())
    recorder.open(10_000)
    timing = {"server": ServerTiming(0, 0, 0), "gateway": GatewayTiming(0, 0)}
    for number in range(2000):
        recorder.record(outcome(100 + number, took_s=number / 1e6, **timing), 0)
    rows = recorder.result()["rows"]
    assert len({row[0] for row in rows}) == 200
    # The mean of 200 out of 0 to 1999 is within five standard errors of the middle.
    assert abs(sum(row[0] for row in rows) / 200 - 999.5) < 5 * 577 / 200**0.5


def test_the_cpu_is_that_of_the_time_between_opening_and_closing() -> None:
    recorder = Recorder("locust", "rest", None, None)
    burn(0.2)
    recorder.open(0.05)
    burn(0.1)
    recorder.close()
    burn(0.2)
    recorder.close()
    result = recorder.result()
    assert 0.09 < result["cpu_s"] <= result["cpu_over_s"] + 0.001


@pytest.mark.truth
def test_a_generator_that_works_all_its_turns_is_busy_though_it_rests_in_others() -> None:
    recorder = Recorder("locust", "rest", None, None)
    now = time.perf_counter_ns()
    ms = 1_000_000
    recorder.open_windows(
        [Window(now, now + 60 * ms, 0), Window(now + 160 * ms, now + 220 * ms, 3)]
    )
    began, burnt, rests = time.perf_counter(), 0.0, []
    while not recorder.over:
        at, cpu_at = time.perf_counter(), time.process_time()
        if recorder._window_of(time.perf_counter_ns()):
            burn(0.002)
            burnt += time.process_time() - cpu_at
        else:
            time.sleep(0.002)
            rests.append(time.perf_counter() - at)
        recorder.sample_cpu()
    elapsed = time.perf_counter() - began
    recorder.close()
    result = recorder.result()
    # Whatever else the machine does: all that was worked, and no rest but the one that ends a turn.
    assert burnt > 0
    assert result["cpu_s"] == pytest.approx(burnt, abs=0.01)
    assert result["cpu_s"] <= result["cpu_over_s"] + 0.001
    assert result["cpu_over_s"] <= elapsed - sum(sorted(rests)[:-2]) + 0.005


def test_failures_before_the_window_are_the_warm_ups() -> None:
    recorder = Recorder("locust", "rest", None, None, Clock())
    recorder.open_windows([Window(110 * NS_PER_S, 120 * NS_PER_S)])
    recorder.record(outcome(101, failure="timed out"), 0)
    recorder.record(outcome(102), 0)
    result = recorder.result()
    assert result["warm_up_requests"] == 2
    assert result["warm_up_failures"] == {"timed out": 1}
    assert result["failures"] == {}


def test_every_answers_time_in_the_server_counts_refusals_too() -> None:
    recorder = Recorder("locust", "rest", None, None, Clock())
    recorder.open(10)
    recorder.record(outcome(101, server_total_ms=2.0), 0)
    recorder.record(outcome(102, failure="error 40", server_total_ms=0.5), 0)
    recorder.record(outcome(103, failure="timed out"), 0)
    series = recorder.result()["series"]
    assert (series["server_every"]["count"], series["server_every"]["sum_us"]) == (2, 2500)
    assert series["server_total"]["count"] == 0


def burn(cpu_s: float) -> None:
    ends = time.process_time() + cpu_s
    while time.process_time() < ends:
        pass
