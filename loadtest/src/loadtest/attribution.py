"""Latency breakdown: the parts of the request latency at the mean and at percentiles. Pure.

The parts at a percentile are means over the requests near that percentile, so they add up.
Percentiles of each part would not: the requests with the longest queue time are not those with the
slowest network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


class Row(NamedTuple):
    """One request's times in microseconds; `client` contains the others.

    Attributes:
        client: From the scheduled send to the parsed response.
        late: Dispatch lag, from the scheduled to the actual send; 0 in a closed loop.
        gateway: From the first byte at the gateway to the upstream request.
        upstream: From the upstream request to the first response byte at the gateway.
        server_total: Server latency, from Server-Timing; contains `queue` and `compute`.
    """

    client: float
    late: float
    gateway: float
    upstream: float
    server_total: float
    queue: float
    compute: float


CLIENT_AND_NETWORK = "client and network"
DISPATCH_LAG = "sent late"
GATEWAY = "gateway"
UPSTREAM = "gateway to server and back"
QUEUE = "waiting for the model"
INFERENCE = "the model computes"
OTHER_SERVER = "the rest of the server"
# Keys in summary.json and their labels.
LABELS = {
    INFERENCE: "inference (compute) time",
    QUEUE: "queue time",
    OTHER_SERVER: "other server time",
    UPSTREAM: "upstream network and scheduling",
    GATEWAY: "gateway",
    CLIENT_AND_NETWORK: "client and network",
    DISPATCH_LAG: "dispatch lag",
}
PARTS = tuple(LABELS)

PERCENTILES = (50.0, 90.0, 99.0)
AT_MEAN = "mean"
# Share of all requests on either side of a percentile that count as near it, and its minimum.
NEIGHBOURS = 0.005
FEWEST_NEIGHBOURS = 2
FEWEST_ROWS = 20


@dataclass(frozen=True)
class Attribution:
    """The parts at one statistic, milliseconds.

    Attributes:
        total_ms: The statistic itself, over all requests.
        parts_ms: Mean of each part over `rows` requests, in the order of PARTS.
        rows: The number of requests near the statistic.
    """

    total_ms: float
    parts_ms: Mapping[str, float]
    rows: int

    @property
    def residual_ms(self) -> float:
        """The difference between the percentile and the requests near it."""
        return self.total_ms - sum(self.parts_ms.values())

    def document(self) -> dict[str, Any]:
        return {
            "total": self.total_ms,
            "parts": {name: round(ms, 3) for name, ms in self.parts_ms.items()},
            "residual": round(self.residual_ms, 3),
            "rows": self.rows,
        }


def attribute(
    rows: Sequence[ArrayLike], totals_ms: Mapping[str, float | None]
) -> dict[str, Attribution]:
    """Break the mean and percentiles of the request latency into parts.

    Args:
        rows: A uniform sample of the requests, each a Row.
        totals_ms: The latency statistics by name: mean, p50, p90, p99.

    Returns:
        By the same names; empty for fewer than FEWEST_ROWS rows.
    """
    if len(rows) < FEWEST_ROWS:
        return {}
    table = np.asarray(rows, dtype=np.float64)
    table = table[np.argsort(table[:, 0], kind="stable")]
    parts = np.column_stack(list(_parts(table).values()))
    near = {AT_MEAN: slice(None)} | {f"p{q:g}": _near(q, len(table)) for q in PERCENTILES}
    return {
        name: Attribution(
            total,
            dict(zip(PARTS, (parts[where].mean(axis=0) / 1000).tolist(), strict=True)),
            len(parts[where]),
        )
        for name, where in near.items()
        if (total := totals_ms[name]) is not None
    }


def merge(samples: Sequence[Sequence[ArrayLike]], counts: Sequence[int]) -> list[ArrayLike]:
    """Merge the uniform samples of several processes into one.

    Args:
        samples: Each process's rows, a uniform sample of its requests.
        counts: The number of requests that each sample represents.

    Returns:
        A uniform sample: every request is equally likely to be in it.
    """
    share = min((len(s) / n for s, n in zip(samples, counts, strict=True) if n), default=1.0)
    return [
        sample[index * len(sample) // kept]
        for sample, count in zip(samples, counts, strict=True)
        for kept in [min(len(sample), round(share * count))]
        for index in range(kept)
    ]


def _near(percentile: float, count: int) -> slice:
    """The requests near the percentile, of `count` sorted ones."""
    rank = percentile / 100 * (count - 1)
    half = max(NEIGHBOURS * count, FEWEST_NEIGHBOURS)
    return slice(max(0, round(rank - half)), min(count, round(rank + half) + 1))


def _parts(table: Floats) -> dict[str, Floats]:
    client, late, gateway, upstream, total, queue, compute = table.T
    found = {
        CLIENT_AND_NETWORK: client - late - gateway - upstream,
        DISPATCH_LAG: late,
        GATEWAY: gateway,
        UPSTREAM: upstream - total,
        QUEUE: queue,
        INFERENCE: compute,
        OTHER_SERVER: total - queue - compute,
    }
    return {name: found[name] for name in PARTS}
