"""The window: what starts within it is measured, whenever it ends."""

from loadtest.answers import ServerTiming
from loadtest.recorder import NS_PER_S, Outcome, Recorder


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
    recorder.record(outcome(100, told=7), 0)
    recorder.record(outcome(101, told=3), 1)  # the model tells this one wrong
    recorder.record(outcome(102, told=9), 2)
    recorder.record(outcome(103, failure="closed"), 2)
    assert recorder.result()["digits"] == {"scored": 3, "correct": 2, "expected_correct": 2}


def test_without_a_model_nothing_is_expected() -> None:
    recorder = Recorder("locust", "rest", (7,), None, Clock())
    recorder.open(10)
    recorder.record(outcome(100, told=7), 0)
    assert recorder.result()["digits"] == {"scored": 1, "correct": 1, "expected_correct": None}
