"""Tables of a result, for the terminal and the report."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table as RichTable

from loadtest.attribution import LABELS
from loadtest.capacity import Capacity, Stop, rate_text
from loadtest.gate import Gate, Outcome
from loadtest.payloads import DIGITS, SELDON
from loadtest.run_folder import PROTOCOLS, read_json

STATISTICS = ("mean", "p50", "p66", "p75", "p80", "p90", "p95", "p98", "p99", "p99.9", "max")
SERIES = {
    "client": "request latency",
    "server_total": "server latency",
    "server_queue": "queue time",
    "server_compute": "inference time",
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
    "2017: published by the original guide, on other hardware (three small AWS machines) and with "
    "another method (whole milliseconds, client side only, a gRPC connection per call). "
    "Reference values only, not comparable."
)


@dataclass(frozen=True)
class Table:
    """A titled table; the first cell of each row is its label."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


def ms(value: float | None) -> str:
    return "-" if value is None else f"{round(value, 3) + 0.0:,.3f}"  # no -0.000


def count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def share(value: float | None) -> str:
    return "-" if value is None else f"{value:.2%}".replace("%", " %")


def of_run(run: Mapping[str, Any]) -> list[Table]:
    """The latencies of one run: request, server, queue and inference."""
    latencies = [run["latency_ms"][name] for name in SERIES]
    return [
        Table(
            f"{PROTOCOLS[run['protocol']]} latency, ms",
            ("", *SERIES.values()),
            (
                ("responses", *(count(one["count"]) for one in latencies)),
                ("failures", count(run["failures"]), "", "", ""),
                *((name, *(ms(one[name]) for one in latencies)) for name in STATISTICS),
            ),
            f"Request latency: from the {_measured_from(run)} to the parsed response. Server "
            "latency, queue time and inference (compute) time: from the Server-Timing of each "
            "response. Successful requests only.",
        )
    ]


def _measured_from(run: Mapping[str, Any]) -> str:
    return "scheduled send" if run["settings"].get("loop") == "open" else "send"


def of_comparison(document: Mapping[str, Any]) -> list[Table]:
    """Request and server latency of compared runs, with the ratio of two runs.

    A row per statistic and a column per run fit 80 columns; the original guide's fifteen columns
    do not. A benchmark of REST and gRPC shows the guide's values too.
    """
    named = _named(document)
    if len(named) > 2:
        return [_of_many(document)]
    runs = [run for _, run in named]
    names = [name for name, _ in named]
    ratio = " / ".join(names)
    guided = list(document["runs"]) == list(GUIDE)
    guide = [GUIDE["rest"], GUIDE["grpc"]] if guided else []
    client = [run["latency_ms"]["client"] for run in runs]
    server = [run["latency_ms"]["server_total"] for run in runs]
    return [
        Table(
            "Request latency (client side), ms",
            ("", *names, ratio, *(("REST 2017", "gRPC 2017") if guided else ())),
            (
                (
                    "requests",
                    *(count(run["requests"]) for run in runs),
                    "",
                    *(count(one["requests"]) for one in guide),
                ),
                ("failures", *(count(run["failures"]) for run in runs), "", *("" for _ in guide)),
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
            GUIDE_NOTE if guided else "",
        ),
        Table(
            "Server latency, ms",
            ("", *names, ratio),
            (
                ("responses", *(count(one["count"]) for one in server), ""),
                *(
                    (
                        name,
                        *(ms(one[name]) for one in server),
                        _ratio(server[0][name], server[1][name]),
                    )
                    for name in STATISTICS
                ),
            ),
            "From reading the request to writing the response, from Server-Timing.",
        ),
    ]


def _of_many(document: Mapping[str, Any]) -> Table:
    named = _named(document)
    verdicts = {one["b"]: one for one in document["verdicts"]}
    rows = []
    for key, (name, run) in zip(document["runs"], named, strict=True):
        client = run["latency_ms"]["client"]
        times = (ms(client["mean"]), ms(client["p50"]), ms(client["p99"]))
        rows.append((name, *times, _mean_ratio(verdicts.get(key))))
    return Table(
        "Request latency (client side), ms",
        ("", "mean", "p50", "p99", "mean ratio"),
        tuple(rows),
        f"Mean ratio: to {named[0][0]}, with its 95 % CI; * significant difference.",
    )


def _mean_ratio(verdict: Mapping[str, Any] | None) -> str:
    """The ratio to the first run; a verdict holds its inverse."""
    if verdict is None or verdict["ratios"]["mean"] is None:
        return "1" if verdict is None else "-"
    ratio = f"{1 / verdict['ratios']['mean']:.2f}"
    if verdict["intervals"] is None:
        return ratio
    low, high = verdict["intervals"]["mean"]
    mark = "" if low <= 1 <= high else " *"
    return f"{ratio} ({1 / high:.2f} to {1 / low:.2f}){mark}"


def _named(document: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    return [(side["name"], document["runs"][side["key"]]) for side in document["sides"]]


def of_attribution(name: str, run: Mapping[str, Any]) -> Table | None:
    """The latency breakdown of the mean, p50, p90 and p99; None if there is none."""
    found = run["attribution"]
    if not found:
        return None
    rows = [
        (label, *(ms(one["parts"][part]) for one in found.values()))
        for part, label in LABELS.items()
        if any(one["parts"][part] for one in found.values())
    ]
    return Table(
        f"{name} latency breakdown, ms",
        ("", *found),
        (
            *rows,
            ("residual", *(ms(one["residual"]) for one in found.values())),
            ("request latency", *(ms(one["total"]) for one in found.values())),
        ),
        "Percentile columns: mean of the requests near that percentile. Residual: their distance "
        "from the percentile.",
    )


def of_conditions(named: Sequence[tuple[str, Mapping[str, Any]]]) -> Table:
    """Counts, throughput, accuracy and validity figures of runs."""
    runs = [run for _, run in named]

    def accuracy(key: str) -> list[tuple[str, ...]]:
        if all((run["digits"] or {}).get(key) is None for run in runs):
            return []
        shown = (share(run["digits"][key]) if run["digits"] else "no labels" for run in runs)
        return [(key.replace("_", " "), *shown)]

    def setting(key: str, otherwise: str) -> Iterator[str]:
        return (run["settings"].get(key, otherwise) for run in runs)

    return Table(
        "Runs",
        ("", *(name for name, _ in named)),
        (
            ("payload", *setting("payload", DIGITS)),
            ("protocol dialect", *setting("dialect", SELDON)),
            ("requests", *(count(run["requests"]) for run in runs)),
            ("warm-up requests (excluded)", *(count(run["warm_up_requests"]) for run in runs)),
            ("duration, s", *(f"{run['measured_s']:.1f}" for run in runs)),
            (
                "throughput, requests/s",
                *("-" if (r := run["requests_per_s"]) is None else f"{r:,.2f}" for run in runs),
            ),
            *accuracy("accuracy"),
            *accuracy("expected_accuracy"),
            *_of_schedules(runs),
            *_of_server_metrics(runs),
            (
                "generator CPU utilization",
                *(share(run["client_cpu"]["busiest_share_of_a_core"]) for run in runs),
            ),
        ),
    )


def _of_schedules(runs: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Open loops: the schedule and how closely the run followed it."""
    if not any(run["offered"] for run in runs):
        return []
    offered = [run["offered"] or {} for run in runs]
    return [
        ("scheduled arrivals", *(count(one.get("arrivals")) for one in offered)),
        ("unanswered arrivals", *(count(one.get("unanswered")) for one in offered)),
        ("dispatch lag p99, ms", *(ms(run["latency_ms"]["lag"]["p99"]) for run in runs)),
    ]


def _of_server_metrics(runs: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Server metrics beside the values of the responses."""
    found = [run["server_metrics"] or {} for run in runs]
    if not any(found):
        return [("server metrics", *("not scraped" for _ in runs))]

    def row(name: str, key: str, show: Callable[[Any], str]) -> tuple[str, ...]:
        return (name, *(show(one.get(key)) for one in found))

    return [
        row("predictions (server metrics)", "count", count),
        row("predictions (responses)", "answers", count),
        row("server latency p99, ms (server metrics)", "p99_ms", ms),
        row("server latency p99, ms (responses)", "answers_p99_ms", ms),
        row("server CPU time, ms/prediction", "cpu_ms", ms),
    ]


def of_calibration(document: Mapping[str, Any]) -> Table:
    """The load test's overhead by protocol, from a calibration.json."""
    columns = [document[protocol] for protocol in PROTOCOLS]
    return Table(
        "Load-test overhead, against a server that responds immediately",
        ("", *PROTOCOLS.values()),
        (
            ("p50, ms", *(ms(one["floor"]["p50"]) for one in columns)),
            ("p99, ms", *(ms(one["floor"]["p99"]) for one in columns)),
            ("dispatch lag p99, ms", *(ms(one["floor"]["lag_p99"]) for one in columns)),
            ("highest valid rate, requests/s", *(f"{one['highest_rate']:,.0f}" for one in columns)),
            (
                "CPU time at that rate, ms/request",
                *(ms(one["cpu_ms_per_request"]) for one in columns),
            ),
        ),
        f"p50, p99 and dispatch lag at {columns[0]['floor']['rate']:,.0f} arrivals/s, Poisson, one "
        "load generator. The server runs on the same machine; its time is included.",
    )


def print_calibration(document: Mapping[str, Any], console: Console | None = None) -> None:
    """Print a calibration and the limiting factor of each protocol."""
    console = console or Console()
    _print(console, [of_calibration(document)])
    for protocol, name in PROTOCOLS.items():
        ended_by = document[protocol]["ended_by"]
        why = "; ".join(ended_by) if ended_by else "none, the highest rate tried was valid"
        console.print(f"{name}, limiting factor: {why}", markup=False, highlight=False)


def of_probes(name: str, found: Capacity) -> Table:
    """Every probe of a search by ascending rate."""
    rows = []
    for probe in sorted(found.probes, key=lambda one: one.rate_per_s):
        margin = probe.margin(found.slo)
        met = "inconclusive" if margin is None else "yes" if margin > 0 else "no"
        times = (ms(probe.latency_ms["p50"]), ms(probe.latency_ms["p99"]))
        rates = (f"{probe.rate_per_s:,.1f}", f"{probe.achieved_per_s:,.1f}")
        rows.append((*rates, *times, count(probe.failures), ms(probe.server_cpu_ms), met))
    columns = ("rate /s", "completed /s", "p50 ms", "p99 ms", "failures", "CPU ms", "SLO met")
    return Table(
        f"{name}, probes for {found.slo.text}",
        columns,
        tuple(rows),
        "CPU: time of all model-server processes per prediction.",
    )


def of_capacities(named: Sequence[tuple[str, Capacity]]) -> Table:
    """The capacities, one column per protocol."""
    ranges = [
        "-"
        if one.low_per_s is None or one.high_per_s is None
        else f"{rate_text(one.low_per_s)} to {rate_text(one.high_per_s)}"
        for _, one in named
    ]
    return Table(
        "Capacity",
        ("", *(name for name, _ in named)),
        (
            ("capacity", *(rate_of(one) for _, one in named)),
            ("likely range, /s", *ranges),
            ("server CPU time, ms/prediction", *(ms(one.server_cpu_ms) for _, one in named)),
            ("probes", *(count(len(one.probes)) for _, one in named)),
            ("search result", *(STOPS[one.stop] for _, one in named)),
        ),
        "Server CPU time: of all model-server processes, at the highest rate that met the SLO.",
    )


STOPS = {
    Stop.FOUND: "converged",
    Stop.OUT_OF_PROBES: "probe limit reached",
    Stop.GENERATOR: "load generator limit",
    Stop.NEVER_MET: "SLO never met",
    Stop.INTERRUPTED: "interrupted",
}


def rate_of(found: Capacity) -> str:
    """The capacity in a cell."""
    if found.rate_per_s is None:
        return "none"
    bounded = found.low_per_s is not None and found.high_per_s is not None
    return (
        f"{rate_text(found.rate_per_s)}/s"
        if bounded
        else f"at least {rate_text(found.rate_per_s)}/s"
    )


def print_capacities(named: Sequence[tuple[str, Capacity]], console: Console | None = None) -> None:
    """Print the probes and the result of every search."""
    console = console or Console()
    _print(console, [*(of_probes(name, found) for name, found in named), of_capacities(named)])
    for name, found in named:
        text = f"{name}: {found.sentence}"
        console.print(text, style="bold", markup=False, highlight=False)
        console.print(f"{found.confidence}; {found.because}.", markup=False, highlight=False)


OUTCOMES = {
    Outcome.REGRESSED: "regressed",
    Outcome.KEPT: "within limit",
    Outcome.CANNOT_TELL: "inconclusive",
}


def print_gate(found: Gate, passes: bool, console: Console | None = None) -> None:
    """Print every judged statistic and the result."""
    console = console or Console()
    rows = []
    for one in found.judged:
        interval = "-" if one.low is None else f"{one.low:.2f} to {one.high:.2f}"
        figures = (ms(one.before_ms), ms(one.after_ms), f"{one.ratio:.2f}", interval)
        rows.append((f"{one.run} {one.statistic}", *figures, OUTCOMES[one.outcome]))
    title = f"Latency after vs before, limit +{found.limit - 1:.0%}".replace("%", " %")
    _print(
        console,
        [
            Table(
                title,
                ("", "before ms", "after ms", "ratio", "95 % CI", "outcome"),
                tuple(rows),
                "Regressed: the ratio exceeds the limit and its CI lies above 1. Within the limit: "
                "the whole CI does. Inconclusive: neither, or no CI. The CI covers variation "
                "within the runs, not changes of the machine between them.",
            )
        ],
    )
    for text in found.broken:
        console.print(f"FAILED: {text}", style="bold red", markup=False, highlight=False)
    console.print(f"Gate: {'passed' if passes else 'failed'}", style="bold", markup=False)


def print_summary(folder: Path, console: Console | None = None) -> None:
    """Print a run's tables, validity and warnings from its summary.json."""
    console = console or Console()
    run = read_json(folder / "summary.json")
    name = PROTOCOLS[run["protocol"]]
    parts = of_attribution(name, run)
    _print(console, [*of_run(run), *([parts] if parts else []), of_conditions([(name, run)])])
    _print_remarks(console, run["invalid_because"], run["warnings"], _reasons(name, run))


def print_comparison(folder: Path, console: Console | None = None) -> None:
    """Print a comparison's tables and verdicts from its summary.json."""
    console = console or Console()
    document = read_json(folder / "summary.json")
    named = _named(document)
    parts = [of_attribution(name, run) for name, run in named] if len(named) == 2 else []
    conditions = [of_conditions(named)] if len(named) == 2 else []
    _print(console, [*of_comparison(document), *(one for one in parts if one), *conditions])
    _print_remarks(
        console,
        invalid_because(document),
        [f"unequal settings: {what}" for what in unfair(document)]
        + [f"{name}: {what}" for name, run in named for what in run["warnings"]],
        [text for name, run in named for text in _reasons(name, run)],
    )
    for verdict in document["verdicts"]:
        console.print(f"\n{headline(verdict)}", style="bold", markup=False, highlight=False)
        if len(document["verdicts"]) == 1:
            others = [verdict["sentences"]["p50"], verdict["sentences"]["p99"]]
            console.print("\n".join(others), markup=False, highlight=False)


def invalid_because(document: Mapping[str, Any]) -> list[str]:
    """The distinct reasons why a comparison is invalid."""
    found = (text for verdict in document["verdicts"] for text in verdict["invalid_because"])
    return list(dict.fromkeys(found))


def unfair(document: Mapping[str, Any]) -> list[str]:
    """The distinct unequal settings of a comparison."""
    found = (text for verdict in document["verdicts"] for text in verdict["unfair"])
    return list(dict.fromkeys(found))


def headline(verdict: Mapping[str, Any]) -> str:
    """The verdict's sentence, marked where a run is not valid."""
    return verdict["sentence"] if verdict["valid"] else f"INVALID, {verdict['sentence']}"


def _reasons(name: str, run: Mapping[str, Any]) -> list[str]:
    return [f"{name} failures: {n:,}, {why}" for why, n in run["failures_by_reason"].items()]


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
