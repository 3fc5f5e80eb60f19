"""report.html: a self-contained page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from loadtest import tables
from loadtest.attribution import LABELS, PARTS
from loadtest.plots import COLOURS, PART_COLOURS, Pictures
from loadtest.run_folder import PROTOCOLS
from loadtest.verdict import display

SETTING_NAMES = {
    "test_type": "test type",
    "hatch_rate": "spawn rate, users/s",
    "wait_ms": "wait time, ms",
    "rate": "arrival rate, requests/s",
    "trace_sha256": "trace SHA-256",
    "data_size": "numbers per instance",
    "max_in_flight": "max in-flight requests",
    "blocks": "interleaved blocks",
    "group": "interleaved group",
    "settle_s": "settling time per block, s",
    "duration_s": "duration, s",
    "warmup_s": "warm-up, s",
    "rest_form": "REST request",
    "images": "images or rows per request",
    "payload_sha256": "payload SHA-256",
    "dialect": "protocol dialect",
    "model_name": "model name in requests",
    "processes": "load generators",
}


def headline_of_run(run: Mapping[str, Any]) -> str:
    mean = run["latency_ms"]["client"]["mean"]
    name = PROTOCOLS[run["protocol"]]
    if mean is None:
        return f"{name}: no request succeeded"
    return f"{name}: mean latency {mean:.3f} ms"


def of_run(run: Mapping[str, Any], pictures: Pictures) -> str:
    """The report of one run."""
    named = [(PROTOCOLS[run["protocol"]], run)]
    return _render(
        headline=headline_of_run(run),
        lead=_lead(named),
        named=named,
        figures=tables.of_run(run),
        pictures=pictures,
        invalid=run["invalid_because"],
        unfair=[],
        caveats=[],
    )


def of_comparison(document: Mapping[str, Any], pictures: Pictures) -> str:
    """The report of a comparison; `document` is its summary.json."""
    named = [(side["name"], document["runs"][side["key"]]) for side in document["sides"]]
    verdicts = document["verdicts"]
    if len(verdicts) == 1:
        sentences = [verdicts[0]["sentences"]["p50"], verdicts[0]["sentences"]["p99"]]
        title = tables.headline(verdicts[0])
    else:
        sentences = [tables.headline(verdict) for verdict in verdicts]
        title = f"{len(named)} request variants compared"
    caveats = (text for verdict in verdicts for text in verdict["caveats"])
    return _render(
        headline=title,
        lead=[*_lead(named), *sentences],
        named=named,
        figures=tables.of_comparison(document),
        pictures=pictures,
        invalid=tables.invalid_because(document),
        unfair=tables.unfair(document),
        caveats=list(dict.fromkeys(caveats)),
    )


def environment() -> Environment:
    """The Jinja environment of every page."""
    return Environment(
        loader=PackageLoader("loadtest"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def machine_rows(machines: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """Rows of machine properties, one column per machine."""
    return _beside([_flat(machine) for machine in machines], {})


def _render(
    *, named: list[tuple[str, Mapping[str, Any]]], pictures: Pictures, **values: Any
) -> str:
    runs = [run for _, run in named]
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            **values,
            names=[name for name, _ in named],
            open_loop=any(run["settings"].get("loop") == "open" for run in runs),
            conditions=tables.of_conditions(named),
            attributions=[
                (name, table, _bars(run["attribution"]))
                for name, run in named
                if (table := tables.of_attribution(name, run))
            ],
            parts=[(label, PART_COLOURS[part]) for part, label in LABELS.items()],
            colours=COLOURS,
            longest=_longest(runs),
            warnings=[f"{name}: {text}" for name, run in named for text in run["warnings"]],
            failures=[
                (name, reason, number)
                for name, run in named
                for reason, number in run["failures_by_reason"].items()
            ],
            settings=_beside([_tabled(run["settings"]) for run in runs], SETTING_NAMES),
            machine=machine_rows([run["machine"] for run in runs]),
            commands=[run["settings"]["command"] for run in runs if "command" in run["settings"]],
            started=[_time(run["started"]) for run in runs],
            wide=pictures.wide,
            narrow=pictures.narrow,
        )
    )


def _bars(attribution: Mapping[str, Any]) -> list[tuple[str, float, list[tuple[str, float]]]]:
    """A bar per statistic: name, length and parts in milliseconds."""
    return [
        (name, one["total"], [(LABELS[part], max(one["parts"][part], 0.0)) for part in PARTS])
        for name, one in attribution.items()
    ]


def _longest(runs: Sequence[Mapping[str, Any]]) -> float:
    """The length of the longest bar, milliseconds."""
    sums = [sum(ms for _, ms in parts) for run in runs for _, _, parts in _bars(run["attribution"])]
    return max(sums, default=0.0) or 1.0


def _lead(named: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
    """One line per run: requests, failures and latency."""
    found = []
    for name, run in named:
        client = run["latency_ms"]["client"]
        text = f"{name}: {run['requests']:,} requests, {run['failures']:,} failures"
        if client["mean"] is not None:
            text += (
                f", latency mean {client['mean']:.3f} ms, p50 {client['p50']:.3f} ms, "
                f"p99 {client['p99']:.3f} ms"
            )
        found.append(text)
    return found


def _beside(
    columns: Sequence[Mapping[str, Any]], names: Mapping[str, str]
) -> list[tuple[str, list[str]]]:
    """Rows of a label and one value per run, or a single value if all are equal."""
    keys = list(dict.fromkeys(key for column in columns for key in column))
    rows = []
    for key in keys:
        values = [display(column.get(key)) for column in columns]
        rows.append((names.get(key, key), values[:1] if len(set(values)) == 1 else values))
    return rows


def _tabled(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings except those shown elsewhere on the page."""
    return {key: value for key, value in settings.items() if key not in ("protocol", "command")}


def _time(iso: str | None) -> str:
    return "-" if iso is None else iso[:19].replace("T", " ")


def _flat(machine: Mapping[str, Any]) -> dict[str, Any]:
    labels = {"cpu": "CPU", "memory_gib": "memory, GiB", "os": "OS", "python": "Python"}
    facts = {labels.get(key, key): value for key, value in machine.items() if key != "packages"}
    return facts | dict(machine.get("packages", {}))
