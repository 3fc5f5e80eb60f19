"""Tables of a result, for the terminal and Markdown."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table as RichTable

from bench.summary import Spread, mean_batch
from bench.targets import TargetResult
from serving_core.model_folder import LITERT, TENSORFLOW

WIDTH = 200
NAMES = {LITERT: "LiteRT", TENSORFLOW: "TensorFlow"}
BUSY = 0.9  # generator CPU utilization above which the load generator may be the limit


@dataclass(frozen=True)
class Table:
    """A titled table; the first `left` columns are left-aligned text, the others numbers."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left: int = 1


def tables(summary: Mapping[str, Any], targets: Sequence[TargetResult]) -> list[Table]:
    """The measurements, then the targets."""
    shown = [
        Table(
            f"Cost per prediction, {summary['model']} with {NAMES[summary['engine']]} "
            "(median of rounds ± half range)",
            (
                *("case", "connections", "predictions/s", "CPU ms", "CPU / raw", "Envoy CPU ms"),
                *("p50 ms", "p99 ms", "batch size"),
            ),
            (
                *(_raw_row(name, figures) for name, figures in summary["raw"].items()),
                *map(_case_row, summary["cases"]),
            ),
        ),
        Table(
            "Server overhead over the raw model",
            (
                *("case", "connections", "CPU ms", "raw model at these batch sizes ms"),
                *("overhead ms", "null server CPU ms"),
            ),
            tuple(
                _added_row(case, summary["cases"]) for case in summary["cases"] if case["above_ms"]
            ),
        ),
        Table(
            "Throughput divided by that of other servers in the same round and format",
            (
                *("case", "other server", "connections"),
                *("predictions/s", "other server's", "ratio"),
            ),
            tuple(map(_compared_row, summary["compared"])),
            left=2,
        ),
        Table(
            "Scaling from 1 core to 2 (on 2), shared by server and load generator",
            (
                *("case", "connections/core", "predictions/s", "on 2", "speedup"),
                *("CPU ms", "on 2", "generator CPU ms", "on 2"),
                *("cores used", "on 2", "busiest worker"),
            ),
            tuple(map(_scaling_row, summary["scaling"])),
        ),
        Table(
            "Servers",
            ("server", "cold start s", "RSS MB", "USS MB"),
            tuple(
                (name, *(_text(of[figure], digits) for figure, digits in _SERVER_FIGURES))
                for name, of in summary["servers"].items()
            ),
        ),
        Table(
            "Targets",
            ("metric", "case", "connections", "target", "measured", "met"),
            tuple(map(_target_row, targets)),
            left=2,
        ),
    ]
    return [table for table in shown if table.rows]


_SERVER_FIGURES = (("cold_start_s", 2), ("rss_mb", 0), ("uss_mb", 0))


def remarks(summary: Mapping[str, Any]) -> list[str]:
    """Load generators, invalid cases and limitations."""
    found = []
    tools = sorted({case["tool"] for case in summary["cases"] if case["tool"]})
    if tools:
        found.append(f"load generators: {', '.join(tools)}")
    for case in summary["cases"]:
        name = f"{case['case']} at {case['callers']} connections"
        found += [f"INVALID: {name}: {problem}" for problem in case["problems"]]
        busy = case["client_busy"]
        if busy is not None and busy.median >= BUSY:
            found.append(
                f"{name}: generator CPU utilization is {busy.median:.0%}, expected less than "
                f"{BUSY:.0%}; the load generator may be the limit"
            )
    return found


def show(shown: Sequence[Table]) -> None:
    """Print to stdout, wide if that is not a terminal."""
    console = Console() if sys.stdout.isatty() else Console(width=WIDTH)
    for table in shown:
        drawn = RichTable(title=table.title, title_justify="left", box=box.SIMPLE_HEAD)
        for index, column in enumerate(table.columns):
            drawn.add_column(
                column, justify="left" if index < table.left else "right", no_wrap=True
            )
        for row in table.rows:
            drawn.add_row(*row)
        console.print(drawn)


def markdown(shown: Sequence[Table]) -> str:
    """The tables as Markdown, for docs/performance-log.md."""
    parts = []
    for table in shown:
        rules = ("---" if index < table.left else "---:" for index in range(len(table.columns)))
        lines = [table.columns, tuple(rules), *table.rows]
        parts.append(
            f"{table.title}:\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
        )
    return "\n".join(parts)


def _raw_row(name: str, figures: Mapping[str, Spread | None]) -> tuple[str, ...]:
    return (
        name,
        "",
        _text(figures["per_s"], 0),
        _text(figures["cpu_ms"], 3),
        "",
        "",
        _text(figures["p50_ms"], 2),
        _text(figures["p99_ms"], 2),
        name.partition("-")[2],
    )


def _case_row(case: Mapping[str, Any]) -> tuple[str, ...]:
    batch = mean_batch(case["by_batch"])
    return (
        case["case"] if case["valid"] else f"{case['case']} (INVALID)",
        str(case["callers"]),
        _text(case["per_s"], 0),
        _text(case["server_cpu_ms"], 3),
        _text(case["ratio"], 2),
        _text(case["gateway_cpu_ms"], 3),
        _text(case["p50_ms"], 2),
        _text(case["p99_ms"], 2),
        "" if batch is None else f"{batch:.1f}",
    )


def _added_row(case: Mapping[str, Any], cases: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    same = (f"null-{case['case']}", case["callers"])
    null = next((one for one in cases if (one["case"], one["callers"]) == same), None)
    return (
        case["case"],
        str(case["callers"]),
        _text(case["server_cpu_ms"], 3),
        _text(case["model_ms"], 3),
        _text(case["above_ms"], 3),
        "" if null is None else _text(null["server_cpu_ms"], 3),
    )


def _compared_row(line: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        line["case"],
        line["peer"],
        str(line["callers"]),
        _text(line["own"], 0),
        _text(line["other"], 0),
        _text(line["gain"], 2),
    )


def _scaling_row(line: Mapping[str, Any]) -> tuple[str, ...]:
    one, two, cost = line["one"], line["two"], line["cost"]
    share = two["busiest_worker"]
    return (
        line["name"],
        "" if line["callers_per_core"] is None else str(line["callers_per_core"]),
        _text(one["per_s"], 0),
        _text(two["per_s"], 0),
        _text(line["gain"], 2),
        _text(one[cost], 3),
        _text(two[cost], 3),
        _text(one["client_cpu_ms"], 3),
        _text(two["client_cpu_ms"], 3),
        _text(one["cores_used"], 2),
        _text(two["cores_used"], 2),
        "" if share is None else f"{share.median:.0%}",
    )


def _target_row(row: TargetResult) -> tuple[str, ...]:
    sign = "≥" if row.at_least else "≤"
    return (
        row.what,
        row.case,
        "" if row.callers is None else str(row.callers),
        f"{sign} {row.limit:g} {row.unit}",
        "" if row.measured is None else f"{row.measured:.3g} {row.unit}",
        {True: "yes", False: "no", None: "not measured"}[row.met],
    )


def _text(figure: Spread | None, digits: int) -> str:
    if figure is None:
        return ""
    middle = f"{figure.median:,.{digits}f}"
    if figure.low == figure.high or not figure.median:
        return middle
    return f"{middle} ±{(figure.high - figure.low) / 2 / figure.median:.0%}"
