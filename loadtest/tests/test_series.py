import math

import numpy as np
import pytest

from loadtest.series import Series


def series_of(*values: float) -> Series:
    series = Series()
    for value in values:
        series.record(value)
    return series


def drawn(count: int) -> list[float]:
    """Log-normal, from microseconds to seconds."""
    return [float(value) for value in np.random.default_rng(7).lognormal(7, 1.5, count)]


PERCENTILES = (1, 50, 66, 75, 80, 90, 95, 98, 99, 99.9, 100)


@pytest.mark.parametrize(
    "values",
    [
        [float(value) for value in range(1, 10_001)],
        [350.0, 1_200.0, 1_200.0, 47_000.0] * 40,
        drawn(5_000),
        [1_500.0] * 99 + [5_045_000.0],
        [12.0],
    ],
    ids=["uniform", "repeated", "drawn", "one outlier", "one value"],
)
def test_percentiles_are_the_nearest_rank_within_three_digits(values: list[float]) -> None:
    series = series_of(*values)
    ordered = sorted(values)
    for percentile in PERCENTILES:
        rank = max(1, math.ceil(round(percentile * len(values) / 100, 6)))
        exact_ms = ordered[rank - 1] / 1000
        # 0.1 % of the histogram, half a microsecond of whole microseconds and of the rounding
        assert series.percentile_ms(percentile) == pytest.approx(exact_ms, rel=1e-3, abs=1.01e-3)


def test_rank_of_a_whole_share_is_not_one_too_high() -> None:
    series = series_of(*[1_000.0] * 999, 9_000.0)
    assert series.percentile_ms(99.9) == 1.0
    assert series.percentile_ms(99.95) == 9.0


def test_mean_and_maximum_are_exact() -> None:
    series = series_of(1234.5678, 987_654.321, 0.25)
    assert series.mean_ms == round((1234.5678 + 987_654.321 + 0.25) / 3 / 1000, 3)
    assert series.max_ms == 987.654
    assert series.percentile_ms(100) == 987.654


def test_merge_is_the_union() -> None:
    values = drawn(3_000)
    parts = [series_of(*values[index::4]) for index in range(4)]
    merged = Series()
    for part in parts:
        merged.merge(Series.decode(part.encode()))
    union = series_of(*values)
    assert merged.encode()["histogram"] == union.encode()["histogram"]
    assert merged.count == union.count
    assert merged.sum_us == pytest.approx(union.sum_us)
    assert merged.max_us == union.max_us
    assert merged.percentiles_ms(PERCENTILES) == union.percentiles_ms(PERCENTILES)


def test_encoded_and_decoded_is_the_same() -> None:
    series = series_of(1.0, 700.0, 123_456.0)
    assert Series.decode(series.encode()).encode() == series.encode()


def test_buckets_hold_every_duration_where_it_belongs() -> None:
    values = [1, 2, 2, 1_023, 1_024, 2_047, 2_048, 2_049, 4_095, 4_096, 5_045_000, 600_000_000]
    low, high, counts = series_of(*map(float, values)).buckets()
    assert counts.sum() == len(values)
    assert (low[1:] > high[:-1]).all()
    assert (high - low <= low / 1_000).all()
    for value in values:
        inside = (low <= value) & (value <= high)
        assert inside.sum() == 1
        assert counts[inside].sum() == sum(low[inside] <= v <= high[inside] for v in values)


@pytest.mark.parametrize("value", [1, 700, 2_047, 2_048, 3_001, 65_535, 65_536, 400_000_000])
def test_a_buckets_upper_end_is_what_percentiles_say(value: int) -> None:
    series = series_of(float(value), 600e6)
    low, high, _ = series.buckets()
    assert series.percentile_ms(50) == high[0] / 1_000
    assert low[0] <= value <= high[0]


def test_no_durations() -> None:
    empty = Series.decode(Series().encode())
    assert empty.count == 0
    assert empty.mean_ms is None
    assert empty.max_ms is None
    assert empty.percentile_ms(50) is None
    assert [len(column) for column in empty.buckets()] == [0, 0, 0]
    filled = series_of(5.0)
    filled.merge(empty)
    assert filled.percentile_ms(50) == 0.005


def test_out_of_range_is_counted_at_the_end_and_kept_exactly_in_sum_and_maximum() -> None:
    series = series_of(0.0, 900e6)
    assert series.count == 2
    assert series.percentile_ms(50) == 0.001
    assert series.percentile_ms(99) == pytest.approx(600_000, rel=1e-3)
    assert series.mean_ms == 450_000
    assert series.max_ms == 900_000


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_what_no_clock_measures_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="a duration is"):
        Series().record(value)


@pytest.mark.parametrize(
    "change",
    [{"histogram": "!"}, {"histogram": ""}, {"count": 3}, {"sum_us": "much"}],
)
def test_altered_encoding_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="durations"):
        Series.decode({**series_of(1.0, 2.0).encode(), **change})
