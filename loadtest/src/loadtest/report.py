"""report.html: one file that holds everything it shows and loads nothing."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from loadtest import tables
from loadtest.plots import Pictures
from loadtest.run_folder import PROTOCOLS
from loadtest.verdict import words

SETTING_NAMES = {
    "test_type": "test type",
    "hatch_rate": "users started per second",
    "wait_ms": "wait between requests, ms",
    "duration_s": "measured, s",
    "warmup_s": "warm-up left out, s",
    "processes": "load generators",
}


def of_run(run: Mapping[str, Any], pictures: Pictures) -> str:
    """The report of one run."""
    mean = run["latency_ms"]["client"]["mean"]
    name = PROTOCOLS[run["protocol"]]
    headline = (
        f"{name}: no request succeeded"
        if mean is None
        else f"{name} answers in {mean:.3f} ms on average"
    )
    return _render(
        headline=headline,
        lead=_lead([run]),
        runs=[run],
        figures=tables.of_run(run),
        pictures=pictures,
        invalid=run["invalid_because"],
        unfair=[],
        caveats=[],
    )


def of_comparison(document: Mapping[str, Any], pictures: Pictures) -> str:
    """The report of a comparison; `document` is its summary.json."""
    runs = [document["rest"], document["grpc"]]
    verdict = document["verdict"]
    return _render(
        headline=tables.headline(verdict),
        lead=[*_lead(runs), verdict["sentences"]["p50"], verdict["sentences"]["p99"]],
        runs=runs,
        figures=tables.of_comparison(*runs),
        pictures=pictures,
        invalid=verdict["invalid_because"],
        unfair=verdict["unfair"],
        caveats=verdict["caveats"],
    )


def _render(*, runs: list[Mapping[str, Any]], pictures: Pictures, **values: Any) -> str:
    environment = Environment(
        loader=PackageLoader("loadtest"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2").render(
        **values,
        names=[PROTOCOLS[run["protocol"]] for run in runs],
        runs=runs,
        conditions=tables.of_conditions(runs),
        parts=[
            (PROTOCOLS[run["protocol"]], run["latency_ms"]["client"]["mean"], parts)
            for run in runs
            if (parts := tables.where_time_goes(run))
        ],
        longest=max(run["latency_ms"]["client"]["mean"] or 0.0 for run in runs) or 1.0,
        warnings=[
            f"{PROTOCOLS[run['protocol']]}: {text}" for run in runs for text in run["warnings"]
        ],
        failures=[
            (PROTOCOLS[run["protocol"]], reason, number)
            for run in runs
            for reason, number in run["failures_by_reason"].items()
        ],
        settings=_beside([_tabled(run["settings"]) for run in runs], SETTING_NAMES),
        machine=_beside([_flat(run["machine"]) for run in runs], {}),
        commands=[run["settings"]["command"] for run in runs if "command" in run["settings"]],
        started=[_time(run["started"]) for run in runs],
        plots=[
            (media, _data_url(png))
            for media, png in (
                ("(prefers-color-scheme: dark) and (max-width: 600px)", pictures.dark_narrow),
                ("(prefers-color-scheme: dark)", pictures.dark),
                ("(max-width: 600px)", pictures.light_narrow),
                ("", pictures.light),
            )
        ],
    )


def _lead(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """What was done, in one sentence for each run."""
    found = []
    for run in runs:
        client = run["latency_ms"]["client"]
        name = PROTOCOLS[run["protocol"]]
        text = f"{name}: {run['requests']:,} requests, {run['failures']:,} failures"
        if client["mean"] is not None:
            text += (
                f", mean {client['mean']:.3f} ms, p50 {client['p50']:.3f} ms, "
                f"p99 {client['p99']:.3f} ms (client side)"
            )
        found.append(text)
    return found


def _beside(
    columns: Sequence[Mapping[str, Any]], names: Mapping[str, str]
) -> list[tuple[str, list[str]]]:
    """Rows of a name and one value for each run, or one value where all agree."""
    keys = list(dict.fromkeys(key for column in columns for key in column))
    rows = []
    for key in keys:
        values = [words(column.get(key)) for column in columns]
        rows.append((names.get(key, key), values[:1] if len(set(values)) == 1 else values))
    return rows


def _tabled(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings without what stands in the heading and below the table."""
    return {key: value for key, value in settings.items() if key not in ("protocol", "command")}


def _time(iso: str | None) -> str:
    return "-" if iso is None else iso[:19].replace("T", " ")


def _flat(machine: Mapping[str, Any]) -> dict[str, Any]:
    labels = {"cpu": "processor", "memory_gib": "memory, GiB", "os": "system", "python": "Python"}
    facts = {labels.get(key, key): value for key, value in machine.items() if key != "packages"}
    return facts | dict(machine.get("packages", {}))


def _data_url(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")
