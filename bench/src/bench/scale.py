"""What many clients cost the gateway, as values: settings, populations, medians, tables."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from bench.errors import BenchError

MOST_CLIENTS = 1_000_000
MB = 1e6
_OF_CHANGES = (
    "live_s",
    "gone_s",
    "setup_s",
    "envoy_cpu_s",
    "control_cpu_s",
    "p99_ms_while_changing",
)


@dataclass(frozen=True)
class ScaleSettings:
    """What is measured.

    Attributes:
        clients: Numbers of clients, rising; the first is what the others are compared with.
        rounds: Of load and of changes.
        seconds: Of load in each round, for each number.
        servers: Addresses that the clients share, each with a cluster of Envoy's own.
        envoys: That ask one control plane.
    """

    clients: tuple[int, ...]
    rounds: int
    seconds: int
    servers: int
    envoys: int


def parse_clients(text: str) -> tuple[int, ...]:
    """Read "10,1000,10000".

    Raises:
        BenchError: Not numbers from 1 to MOST_CLIENTS, or one stands twice.
    """
    try:
        numbers = sorted(int(word) for word in text.split(","))
    except ValueError:
        raise BenchError(f"CLIENTS is {text!r}, expected numbers such as 10,1000,10000") from None
    for number in numbers:
        if not 1 <= number <= MOST_CLIENTS:
            raise BenchError(f"CLIENTS has {number}, expected numbers from 1 to {MOST_CLIENTS:,}")
    if len(set(numbers)) != len(numbers):
        raise BenchError(f"CLIENTS is {text!r}: a number stands twice")
    return tuple(numbers)


def in_turn(numbers: Sequence[int], round_number: int) -> list[int]:
    """Every round begins with another number, and every second goes backwards."""
    at = round_number % len(numbers)
    turned = [*numbers[at:], *numbers[:at]]
    return turned[::-1] if round_number % 2 else turned


def spread(numbers: Iterable[float]) -> dict[str, float]:
    """Median, least and most."""
    numbers = list(numbers)
    return {"median": statistics.median(numbers), "low": min(numbers), "high": max(numbers)}


def summarise(document: dict[str, Any]) -> list[dict[str, Any]]:
    """One line of medians for each number of clients; ratios are of the same round.

    The machine is not the same from round to round: what a request costs is compared with what it
    cost with the fewest clients right before or after.
    """
    first = document["settings"]["clients"][0]
    base = {sample["round"]: sample for sample in document["load"] if sample["clients"] == first}
    lines = []
    for sizes in document["sizes"]:
        clients = sizes["clients"]
        load = [sample for sample in document["load"] if sample["clients"] == clients]
        changes = [sample for sample in document["changes"] if sample["clients"] == clients]
        line: dict[str, Any] = {**sizes}
        for field in _OF_CHANGES:
            if changes:
                line[field] = spread(sample[field] for sample in changes)
        if load:
            line["request_cpu_us"] = spread(sample["request_cpu_us"] for sample in load)
            line["p99_ms"] = spread(sample["p99_ms"] for sample in load)
            line["request_ratio"] = spread(
                sample["request_cpu_us"] / base[sample["round"]]["request_cpu_us"]
                for sample in load
                if sample["round"] in base
            )
            line["request_ratio_few_keys"] = spread(
                sample["few_keys"]["request_cpu_us"]
                / base[sample["round"]]["few_keys"]["request_cpu_us"]
                for sample in load
                if sample["round"] in base
            )
            line["failures"] = sum(sample["few_keys"]["failures"] for sample in load) + sum(
                sample["failures"] for sample in [*load, *changes]
            )
        lines.append(line)
    return lines


def table(lines: Sequence[dict[str, Any]]) -> list[list[str]]:
    """What people read: a row for each figure, a column for each number of clients."""
    rows = [["", *(f"{line['clients']:,} clients" for line in lines)]]

    def row(title: str, *path: str, form: str = "{:,.2f}", scale: float = 1.0) -> None:
        cells = []
        for line in lines:
            value: Any = line
            for name in path:
                value = value.get(name) if isinstance(value, dict) else None
            if isinstance(value, dict):
                ends = (form.format(value[end] * scale) for end in ("median", "low", "high"))
                cells.append("{} ({} to {})".format(*ends))
            else:
                cells.append("" if value is None else form.format(value * scale))
        rows.append([title, *cells])

    row("REST routes, MB", "bytes", "rest", form="{:,.3f}", scale=1 / MB)
    row("gRPC routes, MB", "bytes", "grpc", form="{:,.3f}", scale=1 / MB)
    row("clusters, MB", "bytes", "clusters", form="{:,.3f}", scale=1 / MB)
    row("control plane: first answer, s", "first_answer_s")
    row("control plane: answer after a change, ms", "changed_ms", form="{:,.1f}")
    row("control plane: answer 304, ms", "unchanged_ms", form="{:,.2f}")
    row("Envoy: ready after, s", "envoy_ready_s")
    row("control plane: CPU ms/s, unchanged", "idle", "control", form="{:,.1f}", scale=1e3)
    row("Envoy: CPU ms/s, unchanged", "idle", "envoy", form="{:,.1f}", scale=1e3)
    row("control plane: resident, MB", "resident_mb", "control", form="{:,.0f}")
    row("Envoy: resident, MB", "resident_mb", "envoy", form="{:,.0f}")
    row(
        "the same after the changes: control plane, MB",
        "resident_after_mb",
        "control",
        form="{:,.0f}",
    )
    row("the same after the changes: Envoy, MB", "resident_after_mb", "envoy", form="{:,.0f}")
    row("seldon-cli client --action setup, s", "setup_s")
    row("new client live on every Envoy after, s", "live_s")
    row("removed client refused by every Envoy after, s", "gone_s")
    row("Envoy: CPU for one change, s", "envoy_cpu_s")
    row("control plane: CPU for one change, s", "control_cpu_s", form="{:,.3f}")
    row("Envoy: CPU for a request, µs", "request_cpu_us", form="{:,.1f}")
    row("the same over the fewest clients", "request_ratio", form="{:.3f}")
    row("the same, ten clients asking", "request_ratio_few_keys", form="{:.3f}")
    row("p99 of requests, ms", "p99_ms")
    row("p99 while clients come, ms", "p99_ms_while_changing")
    row("failed requests", "failures", form="{:,.0f}")
    row("registering clients one by one, clients/s", "registered_per_s", form="{:,.0f}")
    return [row for row in rows if any(row[1:])]


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Rows as a table of Markdown."""
    head, *rest = rows
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rest]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
