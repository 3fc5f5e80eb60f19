"""A series of durations: an HdrHistogram of microseconds with exact count, sum and maximum."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, TypedDict

import numpy as np
from hdrh.histogram import HdrHistogram  # type: ignore[import-untyped]  # the package has no types
from numpy.typing import NDArray

LOWEST_US = 1
HIGHEST_US = 600_000_000  # ten minutes
DIGITS = 3


class EncodedSeries(TypedDict):
    """A series in a raw result file."""

    histogram: str  # HdrHistogram V2, compressed, base64
    count: int
    sum_us: float
    max_us: float


class Buckets(NamedTuple):
    """The non-empty buckets in ascending order; three arrays of one length."""

    low_us: NDArray[np.int64]  # smallest microsecond of each
    high_us: NDArray[np.int64]  # largest, the value of a percentile in it
    counts: NDArray[np.int64]


class Series:
    """Durations in microseconds, from one process or merged from several.

    The histogram holds 1 to 600,000,000 microseconds at 3 significant digits and clamps
    out-of-range values. Count, sum and maximum are not clamped, so mean and maximum are exact.
    """

    def __init__(self) -> None:
        self.count = 0
        self.sum_us = 0.0
        self.max_us = 0.0
        self._histogram = HdrHistogram(LOWEST_US, HIGHEST_US, DIGITS)

    @property
    def histogram(self) -> HdrHistogram:
        """The underlying histogram, read-only, for HdrHistogram's writers."""
        return self._histogram

    def record(self, us: float) -> None:
        """Add one duration.

        Raises:
            ValueError: The duration is negative or not finite.
        """
        if not math.isfinite(us) or us < 0:
            raise ValueError(f"a duration is {us} microseconds, expected a finite number >= 0")
        self._histogram.record_value(min(max(round(us), LOWEST_US), HIGHEST_US))
        self.count += 1
        self.sum_us += us
        self.max_us = max(self.max_us, us)

    def merge(self, other: Series) -> None:
        """Add the durations of `other`."""
        if other.count:
            self._histogram.add(other._histogram)
        self.count += other.count
        self.sum_us += other.sum_us
        self.max_us = max(self.max_us, other.max_us)

    def encode(self) -> EncodedSeries:
        histogram = self._histogram.encode()
        return {
            "histogram": histogram.decode("ascii") if isinstance(histogram, bytes) else histogram,
            "count": self.count,
            "sum_us": self.sum_us,
            "max_us": self.max_us,
        }

    @classmethod
    def decode(cls, encoded: Mapping[str, Any]) -> Series:
        """The inverse of `encode`.

        Raises:
            ValueError: The histogram is unreadable or does not match `count`.
        """
        series = cls()
        try:
            series._histogram.decode_and_add(encoded["histogram"])
            series.count = int(encoded["count"])
            series.sum_us = float(encoded["sum_us"])
            series.max_us = float(encoded["max_us"])
        except Exception as error:  # hdrh raises its own, zlib's, binascii's and struct's
            raise ValueError(f"a series of durations is not readable: {error!r}") from error
        if series._histogram.get_total_count() != series.count:
            raise ValueError(
                f"a histogram holds {series._histogram.get_total_count()} durations, "
                f"expected {series.count}"
            )
        return series

    def percentile_ms(self, percentile: float) -> float | None:
        """A percentile by nearest rank.

        Returns:
            Milliseconds, accurate to 0.1 % and never above the exact maximum; None if empty.
        """
        return self.percentiles_ms([percentile])[0]

    def percentiles_ms(self, percentiles: Iterable[float]) -> list[float | None]:
        """`percentile_ms` of each, in one pass over the histogram."""
        wanted = list(percentiles)
        if self.count == 0:
            return [None] * len(wanted)
        counts = np.ctypeslib.as_array(self._histogram.counts)
        filled = np.flatnonzero(counts)
        reached = np.cumsum(counts[filled])
        found: list[float | None] = []
        for percentile in wanted:
            # Rounded first: 99.9 % of 1000 is 999, not the 999.0000000001 of binary fractions.
            rank = max(1, math.ceil(round(percentile / 100 * self.count, 6)))
            index = int(filled[np.searchsorted(reached, rank)])
            value = self._histogram.get_highest_equivalent_value(
                self._histogram.get_value_from_index(index)
            )
            found.append(round(min(float(value), self.max_us) / 1000, 3))
        return found

    def buckets(self) -> Buckets:
        """The non-empty buckets."""
        counts = np.ctypeslib.as_array(self._histogram.counts)
        filled = np.flatnonzero(counts)
        # The first 2 * half buckets are a microsecond wide; then the width doubles every `half`.
        half = self._histogram.sub_bucket_half_count
        doublings = np.maximum(filled // half - 1, 0)
        low = (filled - doublings * half) << doublings
        high = low + (np.int64(1) << doublings) - 1
        return Buckets(low, high, counts[filled].astype(np.int64))

    @property
    def mean_ms(self) -> float | None:
        """Exact, from the sum."""
        return round(self.sum_us / self.count / 1000, 3) if self.count else None

    @property
    def max_ms(self) -> float | None:
        """Exact."""
        return round(self.max_us / 1000, 3) if self.count else None
