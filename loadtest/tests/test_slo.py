import pytest

from loadtest.errors import SettingInvalid
from loadtest.slo import BEST, WORST, Slo

MEASURED = {"mean": 4.0, "p50": 3.0, "p90": 7.0, "p95": 8.0, "p99": 10.0, "p99.9": 15.0, "max": 20}


@pytest.mark.parametrize(
    ("text", "statistic", "limit"),
    [
        ("p99<20ms", "p99", 20.0),
        ("mean < 0.5 s", "mean", 500.0),
        ("P99.9<1500us", "p99.9", 1.5),
        ("p50<1500µs", "p50", 1.5),
        ("max<1s", "max", 1000.0),
        ("failures<0.1%", "failures", 0.001),
    ],
)
def test_a_condition_is_read(text: str, statistic: str, limit: float) -> None:
    (condition,) = Slo.parse(text).conditions
    assert condition.statistic == statistic
    assert condition.limit == pytest.approx(limit)


def test_conditions_are_joined_by_commas() -> None:
    slo = Slo.parse("p99<20ms, failures<0.1%")
    assert slo.statistics == ("p99",)
    assert slo.text == "p99<20ms,failures<0.1%"
    assert Slo.parse(slo.text) == slo


@pytest.mark.parametrize(
    "text",
    [
        "", "p99", "p99<20", "p99<=20ms", "p99<-1ms", "p98<20ms", "p99<20%", "failures<1ms",
        "failures<0%", "failures<101%", "p99<0ms", "p99<0.1us", "p99<601s", "p99<20ms,",
        "p99<nanms", "p99<20ms;failures<1%", "p99<20ms,p99<30ms",
    ],
)  # fmt: skip
def test_anything_else_is_refused_with_the_option(text: str) -> None:
    with pytest.raises(SettingInvalid, match=r"^--slo "):
        Slo.parse(text)


@pytest.mark.parametrize(
    ("text", "margin"),
    [
        ("p99<20ms", 1.0),
        ("p99<15ms", 0.5),
        ("p99<10ms", 0.0),
        ("p99<8ms", -0.2),
        ("p99<1ms", WORST),
        ("p50<1s", BEST),
        ("p50<6ms,p99<12ms", 0.2),
        ("p50<2ms,p99<12ms", 2 / 3 - 1),
    ],
)
def test_the_margin_is_the_nearest_conditions(text: str, margin: float) -> None:
    assert Slo.parse(text).margin(MEASURED, 1000, 0) == pytest.approx(margin)


@pytest.mark.parametrize(
    ("text", "failures", "kept"),
    [
        ("p99<20ms", 9, True),
        ("p99<20ms", 10, False),  # as many as p99 leaves
        ("p99.9<20ms", 1, False),
        ("max<30ms", 0, True),
        ("max<30ms", 1, False),
        ("p99<20ms,failures<5%", 40, True),
        ("p99<20ms,failures<0.5%", 6, False),
        ("failures<0.5%", 6, False),
        ("failures<0.5%", 4, True),
    ],
)
def test_failures_count_as_slower_than_any_limit(text: str, failures: int, kept: bool) -> None:
    assert (Slo.parse(text).margin(MEASURED, 1000, failures) > 0) is kept


def test_without_a_request_nothing_is_kept() -> None:
    nothing = dict.fromkeys(MEASURED)
    assert Slo.parse("p99<20ms").margin(nothing, 0, 0) == WORST
    assert Slo.parse("p99<20ms,failures<100%").margin(nothing, 50, 50) == WORST
