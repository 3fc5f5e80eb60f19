"""The difference of two runs with confidence intervals, from a bootstrap over blocks. Pure.

Requests within a block are correlated, as they share the state of the machine, so the bootstrap
resamples blocks, not requests. Interleaved runs are resampled in pairs of one round: slow drift
affects both of a pair and cancels.

The interval of a ratio is that of its logarithm: the logarithm of the pooled statistics' ratio,
plus and minus Student's t times the bootstrap standard error. With ten blocks percentile bootstrap
intervals are too narrow: they miss the truth in 8 to 12 % of the cases instead of 5 %. Studentised
ones are unbounded where a resample has hardly any spread. The standard error is scaled by
sqrt(n / (n - 1)), which the bootstrap lacks. Source: T. Hesterberg, "What Teachers Should Know
About the Bootstrap", The American Statistician 69 (4), 2015: the t interval with bootstrap standard
error.

The intervals of mean, p50 and p99 hold jointly: each has the level 1 - 0.05 / 3 (Bonferroni). So at
most 5 of 100 comparisons of equal runs show any significant difference, and 1 or 2 of 100 at each
statistic.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from loadtest.series import Series

Floats = NDArray[np.float64]

CONFIDENCE = 0.95  # of the three intervals jointly
PERCENTILES = {"p50": 50.0, "p99": 99.0}
STATISTICS = ("mean", *PERCENTILES)

FEWEST_BLOCKS = 4  # per run; fewer give no useful standard error
RESAMPLES = 2_000  # standard error accurate to 2 %
SEED = 1
LEAST_US = 0.001  # a positive floor for logarithms, below any clock's resolution

A_SLOWER = "a slower"
B_SLOWER = "b slower"
NO_DIFFERENCE = "no difference seen"

# Thresholds of the effect size. Source: A. Vargha and H. Delaney, "A Critique and Improvement of
# the CL Common Language Effect Size Statistics", 2000.
EFFECTS = ((0.71, "large"), (0.64, "medium"), (0.56, "small"), (0.0, "negligible"))


@dataclass(frozen=True)
class Interval:
    low: float
    high: float


@dataclass(frozen=True)
class Estimate:
    """One statistic of both runs and their difference.

    Attributes:
        a_ms: The statistic over all blocks of a, milliseconds.
        b_ms: The statistic over all blocks of b, milliseconds.
        difference_ms: a - b. Its interval is that of the ratio around the geometric mean of both,
            so common drift is not an error of the difference.
        ratio: a / b.
    """

    a_ms: float
    b_ms: float
    difference_ms: float
    difference_interval_ms: Interval
    ratio: float
    ratio_interval: Interval

    @property
    def outcome(self) -> str:
        """A_SLOWER or B_SLOWER if the interval excludes 1, else NO_DIFFERENCE."""
        if self.ratio_interval.low > 1:
            return A_SLOWER
        return B_SLOWER if self.ratio_interval.high < 1 else NO_DIFFERENCE


@dataclass(frozen=True)
class Difference:
    """The difference of two runs.

    Attributes:
        estimates: By name: mean, p50, p99.
        slower_probability: The probability in [0, 1] that a random request of a is slower than a
            random one of b, ties counted half.
        paired: Whether blocks of one round were resampled in pairs.
        blocks: The number of blocks of each run.
    """

    estimates: Mapping[str, Estimate]
    slower_probability: float
    paired: bool
    blocks: tuple[int, int]

    @property
    def effect(self) -> str:
        """negligible, small, medium or large, whichever run is slower."""
        distance = max(self.slower_probability, 1 - self.slower_probability)
        return next(name for least, name in EFFECTS if distance >= least)


def between(
    a: Sequence[Series],
    b: Sequence[Series],
    *,
    paired: bool,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> Difference:
    """Estimate the difference of two runs; deterministic for equal blocks and seed.

    Args:
        a: Blocks of one run, not empty, at least FEWEST_BLOCKS of them.
        b: Blocks of the other run.
        paired: a[i] and b[i] are of one round.
        resamples: The number of bootstrap resamples.
        seed: The seed of the bootstrap.

    Raises:
        ValueError: There are too few blocks, an empty one, or unequal numbers of paired ones.
    """
    if min(len(a), len(b)) < FEWEST_BLOCKS:
        raise ValueError(
            f"there are {len(a)} and {len(b)} blocks, expected {FEWEST_BLOCKS} or more of each"
        )
    if paired and len(a) != len(b):
        raise ValueError(f"there are {len(a)} and {len(b)} blocks, expected pairs")
    if not all(block.count for block in (*a, *b)):
        raise ValueError("a block holds no duration")
    rng = np.random.default_rng(seed)
    side_a, side_b = _Side.of(a), _Side.of(b)
    draws_a = _draws(rng, len(a), resamples)
    draws_b = draws_a if paired else _draws(rng, len(b), resamples)
    all_a, all_b = side_a.all_blocks(), side_b.all_blocks()
    logs_a, logs_b = np.log(side_a.statistics(draws_a)), np.log(side_b.statistics(draws_b))
    estimates = {}
    for index, name in enumerate(STATISTICS):
        if paired:
            variance = _variance(logs_a[:, index] - logs_b[:, index], len(a))
            freedom = len(a) - 1.0
        else:
            variance, freedom = _welch(
                (_variance(logs_a[:, index], len(a)), len(a)),
                (_variance(logs_b[:, index], len(b)), len(b)),
            )
        a_us, b_us = float(all_a[index]), float(all_b[index])
        if name in PERCENTILES:
            variance += side_a.rounding(a_us) + side_b.rounding(b_us)
        times = student_t(1 - (1 - CONFIDENCE) / len(STATISTICS), freedom)
        estimates[name] = _estimate(a_us, b_us, times * math.sqrt(variance))
    return Difference(estimates, _slower_probability(side_a, side_b), paired, (len(a), len(b)))


def student_t(inside: float, freedom: float) -> float:
    """The two-sided critical value of Student's t distribution.

    Args:
        inside: The confidence level in (0, 1), such as 0.95.
        freedom: Degrees of freedom, 1 or more, not necessarily whole.

    Returns:
        t, accurate to 0.1 % for levels up to 0.999.
    """
    # With t = sqrt(freedom) * tan(angle) the density is a power of a cosine on a finite range.
    angle = np.linspace(0, np.pi / 2, 200_001)
    density = np.cos(angle) ** (freedom - 1)
    share = np.concatenate(([0.0], np.cumsum(density[1:] + density[:-1])))
    return math.sqrt(freedom) * math.tan(float(np.interp(inside, share / share[-1], angle)))


@dataclass(frozen=True)
class _Side:
    """The blocks of one run on common buckets, so that a resample is a sum of rows.

    Attributes:
        counts: Number of durations of each block, shape (blocks,).
        sums_us: Exact sum of each block, shape (blocks,).
        max_us: Exact maximum over all blocks.
        low_us: Lower bounds of the non-empty buckets, shape (buckets,).
        high_us: Upper bounds of the buckets, shape (buckets,).
        reached: Cumulative counts of each block, shape (blocks, buckets).
    """

    counts: Floats
    sums_us: Floats
    max_us: float
    low_us: Floats
    high_us: Floats
    reached: Floats

    @classmethod
    def of(cls, blocks: Sequence[Series]) -> _Side:
        found = [block.buckets() for block in blocks]
        low, first = np.unique(np.concatenate([one.low_us for one in found]), return_index=True)
        filled = np.zeros((len(blocks), len(low)))
        for row, one in zip(filled, found, strict=True):
            row[np.searchsorted(low, one.low_us)] = one.counts
        return cls(
            counts=np.array([float(block.count) for block in blocks]),
            sums_us=np.array([block.sum_us for block in blocks]),
            max_us=max(block.max_us for block in blocks),
            low_us=low.astype(np.float64),
            high_us=np.concatenate([one.high_us for one in found])[first].astype(np.float64),
            reached=np.cumsum(filled, axis=1),
        )

    def all_blocks(self) -> Floats:
        """The statistics over all blocks, microseconds, shape (3,)."""
        found: Floats = self.statistics(np.ones((1, len(self.counts))))[0]
        return found

    def statistics(self, draws: Floats) -> Floats:
        """Mean and percentiles of each resample.

        Args:
            draws: How often each block is in a resample, shape (draws, blocks).

        Returns:
            Microseconds, shape (draws, 3), in the order of STATISTICS.
        """
        totals = draws @ self.counts
        columns = [np.maximum(draws @ self.sums_us / totals, LEAST_US)]
        for percentile in PERCENTILES.values():
            # Nearest rank, as in Series.
            rank = np.maximum(np.ceil(np.round(percentile / 100 * totals, 6)), 1)
            found = np.minimum(self.high_us[self._reaching(draws, rank)], self.max_us)
            columns.append(np.maximum(found, LEAST_US))
        return np.stack(columns, axis=1)

    def _reaching(self, draws: Floats, rank: Floats) -> NDArray[np.intp]:
        """The bucket of the `rank`-th duration of each resample, by bisection: shape (draws,)."""
        low = np.zeros(len(draws), dtype=np.intp)
        high = np.full(len(draws), len(self.low_us) - 1, dtype=np.intp)
        while (low < high).any():
            middle = (low + high) // 2
            enough = np.einsum("ij,ji->i", draws, self.reached[:, middle]) >= rank
            high = np.where(enough, middle, high)
            low = np.where(enough, low, middle + 1)
        return low

    def rounding(self, us: float) -> float:
        """The variance of a percentile's logarithm due to the bucket width."""
        bucket = min(int(np.searchsorted(self.high_us, us)), len(self.high_us) - 1)
        width = float(self.high_us[bucket] - self.low_us[bucket] + 1)
        return (width / us) ** 2 / 12


def _draws(rng: np.random.Generator, blocks: int, resamples: int) -> Floats:
    """How often each block is in each resample: shape (resamples, blocks)."""
    drawn = rng.multinomial(blocks, np.full(blocks, 1 / blocks), size=resamples)
    return np.asarray(drawn, dtype=np.float64)


def _variance(drawn: Floats, blocks: int) -> float:
    """The variance of a statistic; the bootstrap's own is too small by (n - 1) / n."""
    return float(np.var(drawn)) * blocks / (blocks - 1)


def _welch(a: tuple[float, int], b: tuple[float, int]) -> tuple[float, float]:
    """Welch's variance and degrees of freedom, from (variance, blocks) of each run."""
    variance = a[0] + b[0]
    if not variance:
        return 0.0, min(a[1], b[1]) - 1.0
    return variance, variance**2 / (a[0] ** 2 / (a[1] - 1) + b[0] ** 2 / (b[1] - 1))


def _estimate(a_us: float, b_us: float, reach: float) -> Estimate:
    log = math.log(a_us / b_us)
    # a - b = 2 * sqrt(a * b) * sinh(log(a / b) / 2)
    scale_ms = 2 * math.sqrt(a_us * b_us) / 1000
    return Estimate(
        a_ms=a_us / 1000,
        b_ms=b_us / 1000,
        difference_ms=(a_us - b_us) / 1000,
        difference_interval_ms=Interval(
            scale_ms * math.sinh((log - reach) / 2), scale_ms * math.sinh((log + reach) / 2)
        ),
        ratio=a_us / b_us,
        ratio_interval=Interval(math.exp(log - reach), math.exp(log + reach)),
    )


def _slower_probability(a: _Side, b: _Side) -> float:
    counts = np.diff(a.reached.sum(axis=0), prepend=0.0)
    reached = np.concatenate(([0.0], b.reached.sum(axis=0)))
    shorter = reached[np.searchsorted(b.low_us, a.low_us, side="left")]
    no_longer = reached[np.searchsorted(b.low_us, a.low_us, side="right")]
    pairs = float(a.counts.sum() * b.counts.sum())
    return float(counts @ (shorter + no_longer)) / 2 / pairs
