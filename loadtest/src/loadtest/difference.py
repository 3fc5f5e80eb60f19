"""How far apart two series of blocks are, and how sure that is. Pure.

A block is one turn of an interleaved run. Requests within a block resemble each other, as the
machine is the same for all of them, so blocks are what is drawn anew, not requests; and where the
two sides took turns, a pair of one round is drawn together: what drifts slowly is the same for
both of a pair and cancels.

The interval of a ratio is that of its logarithm: the logarithm of the pooled statistics' ratio,
plus and minus Student's t times the bootstrap's standard error. Ten blocks are few, and the
percentiles of the bootstrap itself would be too narrow then: they leave out the truth in 8 to 12 %
of the cases instead of 5 %, and studentising each draw gives intervals without an end where a draw
happens to have hardly any spread. The standard error is widened by sqrt(n / (n - 1)), which the
bootstrap lacks. Source: T. Hesterberg, "What Teachers Should Know About the Bootstrap", The
American Statistician 69 (4), 2015: the t interval with bootstrap standard error.

Mean, p50 and p99 are three chances to be wrong. Their intervals hold together: each is that of
1 - 0.05 / 3 (Bonferroni), so a reader of all three sees a difference where there is none in no more
than 5 of 100 measurements, and in 1 or 2 of 100 at each.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from loadtest.series import Series

Floats = NDArray[np.float64]

CONFIDENCE = 0.95  # of the three intervals together
PERCENTILES = {"p50": 50.0, "p99": 99.0}
STATISTICS = ("mean", *PERCENTILES)

FEWEST_BLOCKS = 4  # a side; with fewer the standard error itself is not known
RESAMPLES = 2_000  # gives the standard error within 2 %
SEED = 1
LEAST_US = 0.001  # has a logarithm; no clock tells less

A_SLOWER = "a slower"
B_SLOWER = "b slower"
NO_DIFFERENCE = "no difference seen"

# From which probability on an effect is called so. Source: A. Vargha and H. Delaney, "A Critique
# and Improvement of the CL Common Language Effect Size Statistics", 2000.
EFFECTS = ((0.71, "large"), (0.64, "medium"), (0.56, "small"), (0.0, "negligible"))


@dataclass(frozen=True)
class Interval:
    low: float
    high: float


@dataclass(frozen=True)
class Estimate:
    """One statistic of both sides, and what is between them.

    Attributes:
        a_ms: Of all of a's blocks together, milliseconds.
        b_ms: Of b's.
        difference_ms: a - b. Its interval is that of the ratio, about the geometric mean of both
            sides: that both drifted together is no error of their difference.
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
        """A_SLOWER or B_SLOWER where the whole interval is on one side of 1, or NO_DIFFERENCE."""
        if self.ratio_interval.low > 1:
            return A_SLOWER
        return B_SLOWER if self.ratio_interval.high < 1 else NO_DIFFERENCE


@dataclass(frozen=True)
class Difference:
    """Two sides' difference.

    Attributes:
        estimates: By name: mean, p50, p99.
        slower_probability: That a random request of a took longer than a random one of b, ties
            counted half, in [0, 1]; 0.5 of equals.
        paired: Whether turns of one round were drawn together.
        blocks: How many of each side are in it.
    """

    estimates: Mapping[str, Estimate]
    slower_probability: float
    paired: bool
    blocks: tuple[int, int]

    @property
    def effect(self) -> str:
        """negligible, small, medium or large, whichever side is the slower."""
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
    """The difference of two sides; the same blocks and seed give the same one.

    Args:
        a: One side's blocks, each with at least one duration, at least FEWEST_BLOCKS of them.
        b: The other's.
        paired: a[i] and b[i] are of one round; then there are as many of each.
        resamples: How many draws the standard error is from.
        seed: Of the draws.

    Raises:
        ValueError: Too few blocks, an empty one, or pairs that do not come out even.
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
    """How far from 0 Student's t stays in a share `inside`, below 1, of all cases.

    Args:
        inside: Within (0, 1), both tails taken together: 0.95 for the usual interval.
        freedom: Degrees of freedom, 1 or more, not necessarily whole.

    Returns:
        t, true within 0.1 % for a share up to 0.999.
    """
    # With t = sqrt(freedom) * tan(angle) the density is a power of a cosine, on a finite range.
    angle = np.linspace(0, np.pi / 2, 200_001)
    density = np.cos(angle) ** (freedom - 1)
    share = np.concatenate(([0.0], np.cumsum(density[1:] + density[:-1])))
    return math.sqrt(freedom) * math.tan(float(np.interp(inside, share / share[-1], angle)))


@dataclass(frozen=True)
class _Side:
    """One side's blocks on common buckets, so that a draw of blocks is a sum of rows.

    Attributes:
        counts: Durations of each block, shape (blocks,).
        sums_us: Their sums, exact, shape (blocks,).
        max_us: The longest of all, exact.
        low_us: Where each bucket begins that any block has filled, shape (buckets,).
        high_us: Where it ends.
        reached: Durations of each block up to and with each bucket, shape (blocks, buckets).
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
        """The statistics of every block once, microseconds, shape (3,)."""
        found: Floats = self.statistics(np.ones((1, len(self.counts))))[0]
        return found

    def statistics(self, draws: Floats) -> Floats:
        """Mean and percentiles of the blocks of each draw taken together.

        Args:
            draws: How often each block is in it, shape (draws, blocks).

        Returns:
            Microseconds, shape (draws, 3), in the order of STATISTICS.
        """
        totals = draws @ self.counts
        columns = [np.maximum(draws @ self.sums_us / totals, LEAST_US)]
        for percentile in PERCENTILES.values():
            # The nearest rank, as Series has it.
            rank = np.maximum(np.ceil(np.round(percentile / 100 * totals, 6)), 1)
            found = np.minimum(self.high_us[self._reaching(draws, rank)], self.max_us)
            columns.append(np.maximum(found, LEAST_US))
        return np.stack(columns, axis=1)

    def _reaching(self, draws: Floats, rank: Floats) -> NDArray[np.intp]:
        """The first bucket at which each draw has `rank` durations, by halving: shape (draws,)."""
        low = np.zeros(len(draws), dtype=np.intp)
        high = np.full(len(draws), len(self.low_us) - 1, dtype=np.intp)
        while (low < high).any():
            middle = (low + high) // 2
            enough = np.einsum("ij,ji->i", draws, self.reached[:, middle]) >= rank
            high = np.where(enough, middle, high)
            low = np.where(enough, low, middle + 1)
        return low

    def rounding(self, us: float) -> float:
        """The variance of a percentile's logarithm because a bucket has a width."""
        bucket = min(int(np.searchsorted(self.high_us, us)), len(self.high_us) - 1)
        width = float(self.high_us[bucket] - self.low_us[bucket] + 1)
        return (width / us) ** 2 / 12


def _draws(rng: np.random.Generator, blocks: int, resamples: int) -> Floats:
    """How often each block is drawn, with replacement: shape (resamples, blocks)."""
    drawn = rng.multinomial(blocks, np.full(blocks, 1 / blocks), size=resamples)
    return np.asarray(drawn, dtype=np.float64)


def _variance(drawn: Floats, blocks: int) -> float:
    """Of a statistic over the draws; the bootstrap's own is too small by (n - 1) / n."""
    return float(np.var(drawn)) * blocks / (blocks - 1)


def _welch(a: tuple[float, int], b: tuple[float, int]) -> tuple[float, float]:
    """Variance and degrees of freedom of a difference, from (variance, blocks) of each side."""
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
