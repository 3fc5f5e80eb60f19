"""The tables of a result, for the terminal and for the report alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table as RichTable

from loadtest.capacity import Capacity
from loadtest.run_folder import PROTOCOLS, read_json

STATISTICS = ("mean", "p50", "p66", "p75", "p80", "p90", "p95", "p98", "p99", "p99.9", "max")
SERIES = {
    "client": "client",
    "server_total": "server",
    "server_queue": "queue",
    "server_compute": "compute",
}

# The original guide's result, 2017: whole milliseconds, three m3.large nodes of AWS, TensorFlow,
# 50 users; its gRPC test opened a connection per call, its REST test kept one per user.
GUIDE: Mapping[str, Mapping[str, int]] = {
    "rest": {
        "requests": 42_462, "p50": 20, "p66": 25, "p75": 30, "p80": 36, "p90": 63, "p95": 110,
        "p98": 190, "p99": 240, "max": 717,
    },
    "grpc": {
        "requests": 43_521, "p50": 14, "p66": 16, "p75": 18, "p80": 19, "p90": 25, "p95": 36,
        "p98": 67, "p99": 110, "max": 5_045,
    },
}  # fmt: skip
GUIDE_NOTE = (
    "2017: what the original guide published, on other hardware (three small AWS machines) and by "
    "another method (whole milliseconds, client side only, gRPC connecting anew for each call); "
    "for orientation, not for comparison."
)


@dataclass(frozen=True)
class Table:
    """A heading, column titles, and rows whose first cell names the row."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


def ms(value: float | None) -> str:
    return "-" if value is None else f"{value:,.3f}"


def count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def share(value: float | None) -> str:
    return "-" if value is None else f"{value:.2%}".replace("%", " %")


def of_run(run: Mapping[str, Any]) -> list[Table]:
    """One run: client side beside the server's own times."""
    latencies = [run["latency_ms"][name] for name in SERIES]
    return [
        Table(
            f"{PROTOCOLS[run['protocol']]}, milliseconds",
            ("", *SERIES.values()),
            (
                ("requests", *(count(one["count"]) for one in latencies)),
                ("failures", count(run["failures"]), "", "", ""),
                *((name, *(ms(one[name]) for one in latencies)) for name in STATISTICS),
            ),
            "Client: from sending to the parsed answer. Server, queue, compute: as each answer "
            "states. Requests: those that succeeded.",
        )
    ]


def of_comparison(rest: Mapping[str, Any], grpc: Mapping[str, Any]) -> list[Table]:
    """The original guide's table turned on its side, once for the client and once for the server.

    A row per statistic and a column per protocol fit 80 columns; the guide's row per protocol with
    fifteen columns does not.
    """
    client = [run["latency_ms"]["client"] for run in (rest, grpc)]
    server = [run["latency_ms"]["server_total"] for run in (rest, grpc)]
    guide = [GUIDE["rest"], GUIDE["grpc"]]
    return [
        Table(
            "Client side, milliseconds",
            ("", "REST", "gRPC", "REST / gRPC", "REST 2017", "gRPC 2017"),
            (
                (
                    "requests",
                    *(count(run["requests"]) for run in (rest, grpc)),
                    "",
                    *(count(one["requests"]) for one in guide),
                ),
                ("failures", *(count(run["failures"]) for run in (rest, grpc)), "", "", ""),
                *(
                    (
                        name,
                        *(ms(one[name]) for one in client),
                        _ratio(client[0][name], client[1][name]),
                        *(f"{one[name]:,}" if name in one else "" for one in guide),
                    )
                    for name in STATISTICS
                ),
            ),
            GUIDE_NOTE,
        ),
        Table(
            "Server side, milliseconds",
            ("", "REST", "gRPC", "REST / gRPC"),
            (
                ("requests", *(count(one["count"]) for one in server), ""),
                *(
                    (
                        name,
                        *(ms(one[name]) for one in server),
                        _ratio(server[0][name], server[1][name]),
                    )
                    for name in STATISTICS
                ),
            ),
            "From the server's reading of a request to its answer, as each answer states.",
        ),
    ]


@dataclass(frozen=True)
class Part:
    """One of the parts that add up to the client's mean."""

    name: str
    ms: float
    share: float  # of the client's mean, in [0, 1]


def where_time_goes(run: Mapping[str, Any]) -> list[Part]:
    """The client's mean in parts: computing, queueing, the rest of the server, all before it."""
    means = {name: run["latency_ms"][name]["mean"] for name in SERIES}
    if None in means.values():
        return []
    client, total = means["client"], means["server_total"]
    compute, queue = means["server_compute"], means["server_queue"]
    parts = {
        "the model computes": compute,
        "waiting for the model": queue,
        "the rest of the server": total - queue - compute,
        "network, gateway, client": client - total,
    }
    return [
        Part(name, round(max(value, 0.0), 3), max(value, 0.0) / client if client else 0.0)
        for name, value in parts.items()
    ]


def of_parts(runs: list[Mapping[str, Any]]) -> Table | None:
    """Where a request's time goes on average; None where a run has no server timing."""
    parts = [where_time_goes(run) for run in runs]
    if not all(parts):
        return None
    return Table(
        "Where the time goes, mean milliseconds",
        ("", *(PROTOCOLS[run["protocol"]] for run in runs)),
        (
            *(
                (first.name, *(ms(part[index].ms) for part in parts))
                for index, first in enumerate(parts[0])
            ),
            ("client side in all", *(ms(run["latency_ms"]["client"]["mean"]) for run in runs)),
        ),
    )


def of_conditions(runs: list[Mapping[str, Any]]) -> Table:
    """What else was counted."""

    def digits(run: Mapping[str, Any], key: str) -> str:
        return share(run["digits"][key]) if run["digits"] else "random numbers"

    return Table(
        "The runs",
        ("", *(PROTOCOLS[run["protocol"]] for run in runs)),
        (
            ("measured requests", *(count(run["requests"]) for run in runs)),
            ("warm-up requests, left out", *(count(run["warm_up_requests"]) for run in runs)),
            ("measured seconds", *(f"{run['measured_s']:.1f}" for run in runs)),
            (
                "requests per second",
                *("-" if (r := run["requests_per_s"]) is None else f"{r:,.2f}" for run in runs),
            ),
            ("digits told right", *(digits(run, "accuracy") for run in runs)),
            ("… by the model itself", *(digits(run, "expected_accuracy") for run in runs)),
            (
                "load generator, of one core",
                *(share(run["client_cpu"]["busiest_share_of_a_core"]) for run in runs),
            ),
        ),
    )


def of_calibration(document: Mapping[str, Any]) -> Table:
    """What the harness costs over each protocol, from a calibration.json."""
    columns = [document[protocol] for protocol in PROTOCOLS]
    return Table(
        "The harness itself, on a server that answers at once",
        ("", *PROTOCOLS.values()),
        (
            ("p50, ms", *(ms(one["floor"]["p50"]) for one in columns)),
            ("p99, ms", *(ms(one["floor"]["p99"]) for one in columns)),
            ("sent late by, p99, ms", *(ms(one["floor"]["lag_p99"]) for one in columns)),
            ("highest rate kept, per second", *(f"{one['highest_rate']:,.0f}" for one in columns)),
            (
                "CPU ms per request at that rate",
                *(ms(one["cpu_ms_per_request"]) for one in columns),
            ),
        ),
        f"p50, p99 and lateness at {columns[0]['floor']['rate']:,.0f} arrivals per second, "
        "Poisson, one load generator; the instant server runs on the same machine, and its share "
        "of the time is included.",
    )


def print_calibration(document: Mapping[str, Any], console: Console | None = None) -> None:
    """Print a calibration, and what ended each protocol's search."""
    console = console or Console()
    _print(console, [of_calibration(document)])
    for protocol, name in PROTOCOLS.items():
        ended_by = document[protocol]["ended_by"]
        why = "; ".join(ended_by) if ended_by else "nothing: it kept the highest rate tried"
        console.print(f"{name}, what ended the search: {why}", markup=False, highlight=False)


def print_capacity(found: Capacity, console: Console | None = None) -> None:
    """Print every probe of a search in the order of their rates, and what they say."""
    console = console or Console()
    rows = []
    for probe in sorted(found.probes, key=lambda one: one.rate_per_s):
        margin = probe.margin(found.slo)
        kept = "cannot tell" if margin is None else "yes" if margin > 0 else "no"
        figures = (ms(probe.latency_ms["p50"]), ms(probe.latency_ms["p99"]), f"{probe.failures:,}")
        rates = (f"{probe.rate_per_s:,.1f}", f"{probe.achieved_per_s:,.1f}")
        rows.append((*rates, *figures, kept))
    columns = ("asked for, /s", "ended, /s", "p50 ms", "p99 ms", "failures", "kept")
    _print(console, [Table(f"Probes for {found.slo.text}", columns, tuple(rows))])
    console.print(found.sentence, style="bold", markup=False, highlight=False)
    console.print(f"{found.confidence}; {found.because}.", markup=False, highlight=False)


def print_summary(folder: Path, console: Console | None = None) -> None:
    """Print a run's table and what to know about it, from its summary.json."""
    console = console or Console()
    run = read_json(folder / "summary.json")
    _print(console, [*of_run(run), of_conditions([run])])
    _print_remarks(console, run["invalid_because"], run["warnings"], _reasons(run))


def print_comparison(folder: Path, console: Console | None = None) -> None:
    """Print a comparison's two tables, then its verdict, from its summary.json."""
    console = console or Console()
    document = read_json(folder / "summary.json")
    rest, grpc, verdict = document["rest"], document["grpc"], document["verdict"]
    tables = of_comparison(rest, grpc)
    parts = of_parts([rest, grpc])
    _print(console, [*tables, *([parts] if parts else []), of_conditions([rest, grpc])])
    _print_remarks(
        console,
        verdict["invalid_because"],
        [f"unfair: {what}" for what in verdict["unfair"]]
        + [f"{PROTOCOLS[r['protocol']]}: {what}" for r in (rest, grpc) for what in r["warnings"]],
        _reasons(rest) + _reasons(grpc),
    )
    console.print(f"\n{headline(verdict)}", style="bold", markup=False, highlight=False)
    others = [verdict["sentences"]["p50"], verdict["sentences"]["p99"]]
    console.print("\n".join(others), markup=False, highlight=False)


def headline(verdict: Mapping[str, Any]) -> str:
    """The verdict's sentence, said with reserve where a run is not valid."""
    return verdict["sentence"] if verdict["valid"] else f"Not valid: {verdict['sentence']}"


def _reasons(run: Mapping[str, Any]) -> list[str]:
    name = PROTOCOLS[run["protocol"]]
    return [f"{name} failure, {n:,} times: {why}" for why, n in run["failures_by_reason"].items()]


def _print(console: Console, tables: list[Table]) -> None:
    for table in tables:
        drawn = RichTable(
            title=table.title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD
        )
        for index, column in enumerate(table.columns):
            drawn.add_column(column, justify="right" if index else "left", no_wrap=True)
        for row in table.rows:
            drawn.add_row(*row)
        console.print(drawn)
        if table.note:
            console.print(table.note + "\n", style="dim", markup=False, highlight=False)


def _print_remarks(
    console: Console, invalid: list[str], warnings: list[str], reasons: list[str]
) -> None:
    for text in invalid:
        console.print(f"INVALID: {text}", style="bold red", markup=False, highlight=False)
    for text in (*warnings, *reasons):
        console.print(f"Note: {text}", style="yellow", markup=False, highlight=False)


def _ratio(above: float | None, below: float | None) -> str:
    return f"{above / below:.2f}" if above and below else "-"
