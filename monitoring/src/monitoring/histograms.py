"""Quantiles of Prometheus histograms, parsed from metrics text. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from prometheus_client.parser import text_string_to_metric_families

Buckets = dict[str, float]  # cumulative counts by upper bound in seconds, with "+Inf"


class Quantile(NamedTuple):
    """A quantile in seconds and the bounds of its bucket."""

    s: float
    bucket_s: tuple[float, float]


def quantile(buckets: Mapping[str, float], q: float) -> Quantile | None:
    """Estimate a quantile as histogram_quantile does: linear within the bucket of the rank.

    Args:
        buckets: Cumulative counts by upper bound in seconds, with "+Inf".
        q: In [0, 1].

    Returns:
        The largest finite bound if the rank is above it; None if nothing was counted.
    """
    ordered = sorted((float(bound), count) for bound, count in buckets.items())
    if not ordered or not ordered[-1][1]:
        return None
    rank = q * ordered[-1][1]
    low = below = 0.0
    for bound, count in ordered:
        if count >= rank and count > below:
            if math.isinf(bound):
                break
            within = (bound - low) * (rank - below) / (count - below)
            return Quantile(low + within, (low, bound))
        if not math.isinf(bound):
            low, below = bound, count
    return Quantile(low, (low, math.inf))


def by_protocol(text: str, metric: str) -> dict[str, Buckets]:
    """Parse the buckets of a histogram, summed over its other labels."""
    found: dict[str, Buckets] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == f"{metric}_bucket":
                buckets = found.setdefault(sample.labels["protocol"], {})
                bound = sample.labels["le"]
                buckets[bound] = buckets.get(bound, 0.0) + sample.value
    return found


def increase(now: Mapping[str, float], before: Mapping[str, float]) -> Buckets | None:
    """The increase between two scrapes; None after a counter reset."""
    counts = {bound: count - before.get(bound, 0.0) for bound, count in now.items()}
    return None if min(counts.values(), default=0.0) < 0 else counts
