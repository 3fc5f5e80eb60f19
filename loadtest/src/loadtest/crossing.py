"""Where a noisy curve falls through 0: the capacity, from probes of which each is a draw. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# A margin beyond which a probe is no longer a matter of luck.
CLEAR = 0.25
# How far a probe has a say in where the line falls through 0: the standard deviation of its
# weight, in the logarithm of the rate.
NEAR = 0.25
STEEPNESS = 0.5  # the least fall of the margin for each e-fold of the rate; a queue's is above 0.7
ERRORS = 2.5  # standard errors of the place to either side
CLIFF = 0.045  # clear on both sides, so near to each other: a line has nothing to say in between
ROUNDS = 20


@dataclass(frozen=True)
class Crossing:
    """Logarithms of a rate: where the curve is 0, and the range that likely holds the place."""

    at: float
    low: float
    high: float


def find(x: Floats, margin: Floats) -> Crossing:
    """Where the margin is 0.

    A falling line through all points, each with the weight of its nearness to the crossing, moved
    there until it stays. It has the last word only where points contradict each other: not below
    the highest point above 0 under which all are, nor above the lowest under 0 over which all are.

    Args:
        x: Shape (n,), logarithms of rates, in any order; a rate may come several times.
        margin: Shape (n,), at least one above 0 and one not.

    Returns:
        The crossing. Its range is the line's error, cut where all points beyond are clear.
    """
    above, under = x[margin > 0], x[margin <= 0]
    low = float(above[above < under.min()].max(initial=x.min() - math.log(2)))
    high = float(under[under > above.max()].min(initial=x.max() + math.log(2)))
    clear_low = float(x[x < x[margin < CLEAR].min()].max(initial=-math.inf))
    clear_high = float(x[x > x[margin > -CLEAR].max()].min(initial=math.inf))
    if clear_high - clear_low <= CLIFF:
        return Crossing((clear_low + clear_high) / 2, clear_low, clear_high)
    at, error = (low + high) / 2, math.inf
    for _ in range(ROUNDS):
        before = at
        at, error = _line(x, margin, np.exp(-0.5 * ((x - at) / NEAR) ** 2))
        at = min(max(at, low), high)
        if abs(at - before) < 1e-5:
            break
    return Crossing(
        at,
        min(at, max(at - ERRORS * error, clear_low)),
        max(at, min(at + ERRORS * error, clear_high)),
    )


def _line(x: Floats, margin: Floats, weights: Floats) -> tuple[float, float]:
    """Where a falling line through weighted points is 0, and the standard error of that place."""
    share = weights / weights.sum()
    many = 1 / float((share**2).sum())  # so many points of equal weight would say as much
    x_mean, margin_mean = float(share @ x), float(share @ margin)
    spread = float(share @ (x - x_mean) ** 2)
    slope = -STEEPNESS
    if spread > 0:
        slope = min(float(share @ ((x - x_mean) * (margin - margin_mean))) / spread, slope)
    at = x_mean - margin_mean / slope
    residual = margin - margin_mean - slope * (x - x_mean)
    variance = float(share @ residual**2) * many / max(many - 2, 0.5)
    reach = (at - x_mean) ** 2 / spread if spread > 0 else 0.0
    return at, math.sqrt(variance / many * (1 + reach)) / -slope
