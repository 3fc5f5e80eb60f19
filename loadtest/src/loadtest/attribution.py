"""What a request's time is made of, at the mean and at percentiles. Pure.

A row is one request with all its parts, so the parts at a percentile are those of requests that
took about as long as that percentile says, not percentiles of each part: these do not add up, as
the requests that waited longest for the model are not those that the network held up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


class Row(NamedTuple):
    """One request's times in microseconds; `client` holds the others.

    Attributes:
        client: From when it was due to the parsed answer.
        late: From when it was due to when it was sent; 0 of a closed loop.
        gateway: From its first byte at the gateway to the moment when it went on to a server.
        upstream: From then to the first byte of the server's answer at the gateway.
        server_total: What the server says of itself; `queue` and `compute` are within.
    """

    client: float
    late: float
    gateway: float
    upstream: float
    server_total: float
    queue: float
    compute: float


CLIENT_AND_NETWORK = "client and network"
SENT_LATE = "sent late"
GATEWAY = "gateway"
GATEWAY_TO_SERVER = "gateway to server and back"
QUEUE = "waiting for the model"
MODEL = "the model computes"
REST_OF_SERVER = "the rest of the server"
# The parts by their key in summary.json, with the label that people read.
LABELS = {
    MODEL: "inference (compute) time",
    QUEUE: "queue time",
    REST_OF_SERVER: "other server time",
    GATEWAY_TO_SERVER: "upstream network and scheduling",
    GATEWAY: "gateway",
    CLIENT_AND_NETWORK: "client and network",
    SENT_LATE: "dispatch lag",
}
PARTS = tuple(LABELS)

PERCENTILES = (50.0, 90.0, 99.0)
AT_MEAN = "mean"
# Of all requests, how many on either side of a percentile are looked at, and how few at least.
NEIGHBOURS = 0.005
FEWEST_NEIGHBOURS = 2
FEWEST_ROWS = 20


@dataclass(frozen=True)
class Attribution:
    """The parts at one statistic, milliseconds.

    Attributes:
        total_ms: The statistic itself, of all requests.
        parts_ms: By name, in the order of PARTS; the mean of each over `rows` requests.
        rows: How many requests that take about as long were looked at.
    """

    total_ms: float
    parts_ms: Mapping[str, float]
    rows: int

    @property
    def residual_ms(self) -> float:
        """What the parts do not explain: those requests are near the percentile, not at it."""
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
    """What the client's mean and percentiles are made of.

    Args:
        rows: A uniform sample of a run's requests, each as Row.
        totals_ms: The client's statistics by name: mean, p50, p90, p99.

    Returns:
        By the same names; empty where there are fewer than FEWEST_ROWS rows.
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


def together(samples: Sequence[Sequence[ArrayLike]], counts: Sequence[int]) -> list[ArrayLike]:
    """One uniform sample from those of several processes.

    Args:
        samples: Each process's rows, a uniform sample of its requests.
        counts: How many requests each of these samples stands for.

    Returns:
        Of each sample as many rows as make every request equally likely to be among them.
    """
    share = min((len(s) / n for s, n in zip(samples, counts, strict=True) if n), default=1.0)
    return [
        sample[index * len(sample) // kept]
        for sample, count in zip(samples, counts, strict=True)
        for kept in [min(len(sample), round(share * count))]
        for index in range(kept)
    ]


def _near(percentile: float, count: int) -> slice:
    """Of `count` requests in the order of their times, those about the percentile."""
    rank = percentile / 100 * (count - 1)
    half = max(NEIGHBOURS * count, FEWEST_NEIGHBOURS)
    return slice(max(0, round(rank - half)), min(count, round(rank + half) + 1))


def _parts(table: Floats) -> dict[str, Floats]:
    client, late, gateway, upstream, total, queue, compute = table.T
    found = {
        CLIENT_AND_NETWORK: client - late - gateway - upstream,
        SENT_LATE: late,
        GATEWAY: gateway,
        GATEWAY_TO_SERVER: upstream - total,
        QUEUE: queue,
        MODEL: compute,
        REST_OF_SERVER: total - queue - compute,
    }
    return {name: found[name] for name in PARTS}
