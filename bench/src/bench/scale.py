"""Gateway scalability by number of clients: settings, medians and tables. Pure."""

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
    """The settings of a run.

    Attributes:
        clients: Ascending numbers of clients; the first is the baseline.
        rounds: Rounds of load and changes.
        seconds: Duration of the load per round and number of clients.
        servers: Upstream addresses that the clients share, each an Envoy cluster.
        envoys: Envoys that poll one control plane.
    """

    clients: tuple[int, ...]
    rounds: int
    seconds: int
    servers: int
    envoys: int


def parse_clients(text: str) -> tuple[int, ...]:
    """Parse "10,1000,10000".

    Raises:
        BenchError: Not distinct numbers from 1 to MOST_CLIENTS.
    """
    try:
        numbers = sorted(int(word) for word in text.split(","))
    except ValueError:
        raise BenchError(f"CLIENTS is {text!r}, expected numbers such as 10,1000,10000") from None
    for number in numbers:
        if not 1 <= number <= MOST_CLIENTS:
            raise BenchError(f"CLIENTS has {number}, expected numbers from 1 to {MOST_CLIENTS:,}")
    if len(set(numbers)) != len(numbers):
        raise BenchError(f"CLIENTS is {text!r}, expected distinct numbers")
    return tuple(numbers)


def rotated(numbers: Sequence[int], round_number: int) -> list[int]:
    """An order that rotates every round and reverses every second one."""
    at = round_number % len(numbers)
    turned = [*numbers[at:], *numbers[:at]]
    return turned[::-1] if round_number % 2 else turned


def spread(numbers: Iterable[float]) -> dict[str, float]:
    """Median, minimum and maximum."""
    numbers = list(numbers)
    return {"median": statistics.median(numbers), "low": min(numbers), "high": max(numbers)}


def summarise(document: dict[str, Any]) -> list[dict[str, Any]]:
    """A line of medians per number of clients.

    The machine drifts between rounds, so ratios compare a request's cost with that of the fewest
    clients in the same round.
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
    """A table with a row per metric and a column per number of clients."""
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
    row("control plane: first discovery response, s", "first_answer_s")
    row("control plane: discovery response after a change, ms", "changed_ms", form="{:,.1f}")
    row("control plane: 304 response, ms", "unchanged_ms", form="{:,.2f}")
    row("Envoy: time until ready, s", "envoy_ready_s")
    row("control plane: idle CPU, ms/s", "idle", "control", form="{:,.1f}", scale=1e3)
    row("Envoy: idle CPU, ms/s", "idle", "envoy", form="{:,.1f}", scale=1e3)
    row("control plane: RSS, MB", "resident_mb", "control", form="{:,.0f}")
    row("Envoy: RSS, MB", "resident_mb", "envoy", form="{:,.0f}")
    row("control plane: RSS after changes, MB", "resident_after_mb", "control", form="{:,.0f}")
    row("Envoy: RSS after changes, MB", "resident_after_mb", "envoy", form="{:,.0f}")
    row("seldon-cli client --action setup, s", "setup_s")
    row("time until a new client is live on every Envoy, s", "live_s")
    row("time until a removed client is rejected by every Envoy, s", "gone_s")
    row("Envoy: CPU per change, s", "envoy_cpu_s")
    row("control plane: CPU per change, s", "control_cpu_s", form="{:,.3f}")
    row("Envoy: CPU per request, µs", "request_cpu_us", form="{:,.1f}")
    row("Envoy: CPU per request, ratio to the fewest clients", "request_ratio", form="{:.3f}")
    row("the same with ten active clients", "request_ratio_few_keys", form="{:.3f}")
    row("request latency p99, ms", "p99_ms")
    row("request latency p99 during changes, ms", "p99_ms_while_changing")
    row("failed requests", "failures", form="{:,.0f}")
    row("client registration rate, clients/s", "registered_per_s", form="{:,.0f}")
    return [row for row in rows if any(row[1:])]


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Rows as a Markdown table."""
    head, *rest = rows
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rest]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
