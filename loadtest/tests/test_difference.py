import math
from collections.abc import Sequence

import numpy as np
import pytest

from loadtest import difference
from loadtest.difference import A_SLOWER, B_SLOWER, NO_DIFFERENCE, Difference
from loadtest.series import Series

REQUESTS = 300  # in a block
DRIFT = 0.2  # between the fastest and the slowest minute of the machine


def series_of(values: Sequence[float] | np.ndarray) -> Series:
    series = Series()
    for value in values:
        series.record(float(value))
    return series


def order(rng: np.random.Generator, blocks: int) -> list[int]:
    """Whose turn it is: 0110 or 1001, four at a time."""
    found: list[int] = []
    for _ in range(blocks // 2):
        found += [0, 1, 1, 0] if rng.random() < 0.5 else [1, 0, 0, 1]
    return found


def speeds(rng: np.random.Generator, drift: str, turns: int) -> np.ndarray:
    """How slow the machine is at each turn, from 1 to 1 + DRIFT."""
    at = np.linspace(0, 1, turns)
    match drift:
        case "steady":
            shape = np.zeros(turns)
        case "slower and slower":
            shape = at
        case "to and fro":
            shape = (1 + np.sin(2 * np.pi * (rng.uniform(0.5, 2) * at + rng.random()))) / 2
        case "wandering":
            walk = np.cumsum(rng.normal(size=turns))
            shape = (walk - walk.min()) / (walk.max() - walk.min())
        case _:
            raise ValueError(drift)
    return 1 + DRIFT * shape


def measured(
    rng: np.random.Generator, drift: str, b_slower: float = 0.0, blocks: int = 10
) -> Difference:
    """The difference of two sides of log-normal latencies around 3 ms that took turns."""
    sides: tuple[dict[int, Series], dict[int, Series]] = ({}, {})
    turns = order(rng, blocks)
    for number, (side, speed) in enumerate(zip(turns, speeds(rng, drift, len(turns)), strict=True)):
        median_us = 3_000 * speed * (1 + b_slower * side)
        sides[side][number] = series_of(rng.lognormal(math.log(median_us), 0.5, REQUESTS))
    a, b = (list(side.values()) for side in sides)
    assert len(a) == len(b) == blocks
    return difference.between(a, b, paired=True)


DRIFTS = ("steady", "slower and slower", "to and fro", "wandering")


@pytest.mark.truth
@pytest.mark.parametrize("drift", DRIFTS)
def test_no_difference_is_seen_between_equals_in_95_of_100(drift: str) -> None:
    rng = np.random.default_rng(7)
    seen = [measured(rng, drift).estimates for _ in range(100)]
    # At each statistic, and at all three together: the intervals hold together.
    for name in difference.STATISTICS:
        assert sum(one[name].outcome == NO_DIFFERENCE for one in seen) >= 95
    together = [{one[name].outcome for name in difference.STATISTICS} for one in seen]
    assert together.count({NO_DIFFERENCE}) >= 91  # 95 less two standard errors


@pytest.mark.parametrize("drift", DRIFTS)
def test_a_tenth_slower_is_found_in_9_of_10(drift: str) -> None:
    rng = np.random.default_rng(8)
    seen = [measured(rng, drift, 0.1).estimates["mean"].outcome for _ in range(10)]
    assert seen.count(B_SLOWER) >= 9


def test_the_intervals_hold_the_truth() -> None:
    rng = np.random.default_rng(9)
    held = dict.fromkeys(difference.STATISTICS, 0)
    for _ in range(40):
        for statistic, one in measured(rng, "to and fro", 0.3).estimates.items():
            held[statistic] += one.ratio_interval.low <= 1 / 1.3 <= one.ratio_interval.high
    assert min(held.values()) >= 37


def test_pairs_cancel_what_they_share() -> None:
    # The machine is up to three times as slow from one pair to the next.
    rng = np.random.default_rng(1)
    paces = [1.0, 3.0, 1.5, 2.5, 1.0, 2.0, 3.0, 1.2]
    a = [series_of(rng.lognormal(8, 0.3, REQUESTS) * pace) for pace in paces]
    b = [series_of(rng.lognormal(8, 0.3, REQUESTS) * pace * 1.1) for pace in paces]
    assert difference.between(a, b, paired=True).estimates["mean"].outcome == B_SLOWER
    assert difference.between(a, b, paired=False).estimates["mean"].outcome == NO_DIFFERENCE


def test_one_stall_is_no_difference() -> None:
    rng = np.random.default_rng(2)
    a, b = ([rng.lognormal(8, 0.5, REQUESTS) for _ in range(10)] for _ in range(2))
    a[3][:5] = 500_000
    found = difference.between([*map(series_of, a)], [*map(series_of, b)], paired=True)
    assert found.estimates["mean"].ratio > 1.2
    assert {one.outcome for one in found.estimates.values()} == {NO_DIFFERENCE}


@pytest.mark.parametrize("paired", [True, False])
def test_statistics_are_those_of_the_merged_series(paired: bool) -> None:
    rng = np.random.default_rng(3)
    a, b = ([series_of(rng.lognormal(8, 0.5, n)) for n in (80, 120, 97, 200)] for _ in range(2))
    found = difference.between(a, b, paired=paired)
    for side, name in ((a, "a_ms"), (b, "b_ms")):
        merged = Series()
        for block in side:
            merged.merge(block)
        stated = {key: round(getattr(one, name), 3) for key, one in found.estimates.items()}
        p50, p99 = merged.percentiles_ms([50, 99])
        assert stated == {"mean": merged.mean_ms, "p50": p50, "p99": p99}
    for one in found.estimates.values():
        assert one.difference_ms == pytest.approx(one.a_ms - one.b_ms)
        assert one.ratio == pytest.approx(one.a_ms / one.b_ms)
        ms, ratio = one.difference_interval_ms, one.ratio_interval
        assert ms.low < one.difference_ms < ms.high
        assert ratio.low < one.ratio < ratio.high
        assert (ms.low > 0) == (ratio.low > 1)
        assert (ms.high < 0) == (ratio.high < 1)


@pytest.mark.parametrize("paired", [True, False])
def test_turned_round_it_says_the_contrary(paired: bool) -> None:
    rng = np.random.default_rng(4)
    a, b = ([series_of(rng.lognormal(mean, 0.5, 200)) for _ in range(6)] for mean in (8, 9))
    there = difference.between(a, b, paired=paired)
    back = difference.between(b, a, paired=paired)
    assert there.slower_probability == pytest.approx(1 - back.slower_probability)
    assert there.effect == back.effect == "large"
    for name in difference.STATISTICS:
        one, other = there.estimates[name], back.estimates[name]
        assert (one.outcome, other.outcome) == (B_SLOWER, A_SLOWER)
        assert one.ratio * other.ratio == pytest.approx(1)
        assert one.difference_interval_ms.low < one.difference_interval_ms.high < 0
        # Another draw of blocks, so not quite the same where the sides are drawn apart.
        turned = -other.difference_interval_ms.high
        assert one.difference_interval_ms.low == pytest.approx(turned, rel=0.02)


def test_more_blocks_are_surer() -> None:
    rng = np.random.default_rng(5)

    def width(blocks: int) -> float:
        found = [measured(rng, "steady", 0, blocks).estimates["mean"] for _ in range(5)]
        return sum(one.ratio_interval.high - one.ratio_interval.low for one in found)

    assert width(40) < width(10) / 1.5 < width(4) / 3


def test_same_blocks_give_the_same_interval() -> None:
    rng = np.random.default_rng(6)
    a, b = ([series_of(rng.lognormal(8, 0.5, 50)) for _ in range(5)] for _ in range(2))
    assert difference.between(a, b, paired=True) == difference.between(a, b, paired=True)
    other = difference.between(a, b, paired=True, seed=2)
    assert other != difference.between(a, b, paired=True)


def test_a_microsecond_of_rounding_is_no_difference() -> None:
    # Latencies without any spread fall into neighbouring buckets.
    a, b = [series_of([2_100.0] * 50)] * 8, [series_of([2_102.0] * 50)] * 8
    found = difference.between(a, b, paired=True)
    assert found.estimates["p50"].outcome == NO_DIFFERENCE
    assert found.estimates["p50"].ratio < 1


@pytest.mark.parametrize(
    ("a", "b", "probability", "effect"),
    [
        ([1_000.0] * 4, [1_000.0] * 4, 0.5, "negligible"),
        ([1_000.0, 3_000.0], [2_000.0, 4_000.0], 0.25, "large"),
        ([9_000.0], [1_000.0], 1.0, "large"),
        ([2_000.0, 2_000.0, 2_000.0, 3_000.0], [2_000.0], 0.625, "small"),
        ([2_000.0, 2_000.0, 3_000.0], [2_000.0], 2 / 3, "medium"),
        ([9_000.0] * 11 + [1_000.0] * 9, [5_000.0], 0.55, "negligible"),
    ],
)
def test_how_often_a_random_request_is_slower(
    a: list[float], b: list[float], probability: float, effect: str
) -> None:
    found = difference.between([series_of(a)] * 4, [series_of(b)] * 4, paired=True)
    assert found.slower_probability == pytest.approx(probability)
    assert found.effect == effect


@pytest.mark.parametrize(
    ("sizes", "paired", "words"),
    [
        (([1] * 3, [1] * 4), False, "3 and 4 blocks, expected 4 or more"),
        (([1] * 5, [1] * 4), True, "5 and 4 blocks, expected pairs"),
        (([1] * 4, [1, 1, 0, 1]), True, "no duration"),
    ],
)
def test_too_few_or_empty_blocks_are_refused(
    sizes: tuple[list[int], list[int]], paired: bool, words: str
) -> None:
    a, b = ([series_of([1_000.0] * size) for size in side] for side in sizes)
    with pytest.raises(ValueError, match=words):
        difference.between(a, b, paired=paired)


@pytest.mark.parametrize(
    ("inside", "freedom", "t"),
    # From printed tables of Student's distribution.
    [(0.95, 1, 12.706), (0.95, 3, 3.182), (0.95, 9, 2.262), (0.99, 9, 3.250), (0.95, 120, 1.980)],
)
def test_students_t_is_that_of_the_tables(inside: float, freedom: float, t: float) -> None:
    assert difference.student_t(inside, freedom) == pytest.approx(t, abs=6e-4)
    assert difference.student_t(0.95, 4.5) == pytest.approx(2.66, abs=0.01)
