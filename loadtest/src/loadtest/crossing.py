"""Zero crossing of a noisy falling curve: the capacity, from the margins of probes. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

CLEAR = 0.25  # margin beyond which noise cannot change a probe's result
NEAR = 0.25  # standard deviation of a probe's weight around the crossing, in log rate
STEEPNESS = 0.5  # minimum fall of the margin per e-fold of the rate; a queue's is above 0.7
ERRORS = 2.5  # half-width of the range, in standard errors
CLIFF = 0.045  # distance of clear probes on both sides below which no line is fitted
ROUNDS = 20


@dataclass(frozen=True)
class Crossing:
    """The crossing and its likely range, as logarithms of a rate."""

    at: float
    low: float
    high: float


def find(x: Floats, margin: Floats) -> Crossing:
    """Find where the margin is 0.

    Fits a falling line, weighting points by their distance to the crossing, and iterates until the
    crossing is stable. The result is clamped to where points conflict: every point below the range
    is positive, every point above it is not.

    Args:
        x: Shape (n,), logarithms of rates, in any order, repeated for repeated probes.
        margin: Shape (n,), at least one above 0 and one not.

    Returns:
        The crossing; its range is the line's error, clamped to the clear points.
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
    """The zero of a weighted falling line and its standard error."""
    share = weights / weights.sum()
    effective = 1 / float((share**2).sum())  # effective sample size
    x_mean, margin_mean = float(share @ x), float(share @ margin)
    spread = float(share @ (x - x_mean) ** 2)
    slope = -STEEPNESS
    if spread > 0:
        slope = min(float(share @ ((x - x_mean) * (margin - margin_mean))) / spread, slope)
    at = x_mean - margin_mean / slope
    residual = margin - margin_mean - slope * (x - x_mean)
    variance = float(share @ residual**2) * effective / max(effective - 2, 0.5)
    reach = (at - x_mean) ** 2 / spread if spread > 0 else 0.0
    return at, math.sqrt(variance / effective * (1 + reach)) / -slope
