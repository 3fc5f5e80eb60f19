"""The summary of one run: its figures, validity, warnings and report."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtest import attribution, histogram_files, judgement, machine, plots, report, server_metrics
from loadtest.histogram_files import Segment
from loadtest.payloads import DIGITS
from loadtest.recorder import SERIES
from loadtest.run_folder import PROTOCOLS, ResultUnreadable, RunFolder, read_json, write_json
from loadtest.series import Series
from loadtest.server_metrics import Reading

# Series of open loops, and of gateways that send timings.
OPTIONAL_SERIES = {"sent", "lag", "gateway", "upstream", "server_every"}
PERCENTILES = (50, 66, 75, 80, 90, 95, 98, 99, 99.9)

ACCURACY_POINTS = 0.5  # allowed distance from the expected accuracy, percentage points

SUMMARY = "summary.json"
MACHINE = "machine.json"
PLOT = "percentiles.png"
SLIDE = "summary.png"
REPORT = "report.html"


@dataclass(frozen=True)
class Run:
    """One run: its figures and the series behind them.

    `blocks` are the request latencies by number of the interleaved block.
    """

    figures: dict[str, Any]
    series: dict[str, Series]
    blocks: dict[int, Series]
    segments: list[Segment]


def summarise(folder: Path) -> dict[str, Any]:
    """The figures of the run in `folder`, merged over its load generators; writes nothing.

    Latencies are milliseconds with microsecond resolution. Without a `machine.json` the machine is
    this one.

    Raises:
        ResultUnreadable: The folder holds no valid run.
    """
    return read_run(folder).figures


def read_run(folder: Path) -> Run:
    """The figures and the merged series of the run in `folder`; raises as `summarise`."""
    run_folder = RunFolder(folder)
    settings = run_folder.settings()
    try:
        raw = run_folder.raw_results()
        series = {name: merged(raw, name) for name in SERIES}
        blocks = merged_blocks(raw)
        segments = _segments(raw, blocks)
        figures = _figures(settings, raw, series, blocks, run_folder.server_metrics())
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ResultUnreadable(
            f"{folder.name} is not a valid load-test result: {error!r}"
        ) from error
    figures["machine"] = (
        read_json(folder / MACHINE) if (folder / MACHINE).exists() else machine.describe()
    )
    return Run(figures, series, blocks, segments)


def write_report(folder: Path) -> dict[str, Any]:
    """Write the run's summary.json, plots and report.html; return its figures.

    The first call also writes machine.json, so that later calls on any machine write the same
    files.
    """
    keep_machine(folder)
    run = read_run(folder)
    write_json(folder / SUMMARY, run.figures)
    histogram_files.write(
        folder, run.series, run.segments, run.figures["started"], run.figures["measured_s"]
    )
    protocol = run.figures["protocol"]
    name = PROTOCOLS[protocol]
    pictures = plots.Pictures.of(plots.curves_of(name, run.series, list(PROTOCOLS).index(protocol)))
    (folder / PLOT).write_bytes(pictures.png)
    (folder / SLIDE).write_bytes(
        plots.slide(
            report.headline_of_run(run.figures),
            pictures.curves,
            {name: run.figures["attribution"]},
        )
    )
    (folder / REPORT).write_text(report.of_run(run.figures, pictures), encoding="utf-8")
    return run.figures


def keep_machine(folder: Path) -> None:
    """Write machine.json for this machine, unless it exists."""
    if not (folder / MACHINE).exists():
        write_json(folder / MACHINE, machine.describe())


def merged(raw: list[dict[str, Any]], name: str) -> Series:
    series = Series()
    for result in raw:
        if name in result["series"] or name not in OPTIONAL_SERIES:
            series.merge(Series.decode(result["series"][name]))
    return series


def merged_blocks(raw: list[dict[str, Any]]) -> dict[int, Series]:
    """The request latencies by block number, merged over the processes."""
    found: dict[int, Series] = {}
    for result in raw:
        for block in result.get("blocks") or []:
            series = found.setdefault(int(block["number"]), Series())
            series.merge(Series.decode(block["series"]))
    return dict(sorted(found.items()))


def _segments(raw: list[dict[str, Any]], blocks: dict[int, Series]) -> list[Segment]:
    """The blocks with their times, which are the same in every process."""
    times = {
        int(block["number"]): (float(block["begin_s"]), float(block["length_s"]))
        for result in raw
        for block in result.get("blocks") or []
        if "begin_s" in block
    }
    return [Segment(*times[number], one) for number, one in blocks.items() if number in times]


def latency(series: Series) -> dict[str, Any]:
    """Count, mean, p50 … p99.9 and max of one series, milliseconds; None if it is empty."""
    found = series.percentiles_ms(PERCENTILES)
    return {
        "count": series.count,
        "mean": series.mean_ms,
        **{f"p{percentile:g}": ms for percentile, ms in zip(PERCENTILES, found, strict=True)},
        "max": series.max_ms,
    }


def _figures(
    settings: dict[str, Any],
    raw: list[dict[str, Any]],
    series: dict[str, Series],
    blocks: dict[int, Series],
    reading: Reading | None,
) -> dict[str, Any]:
    protocol = settings["protocol"]
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol is {protocol!r}, expected one of {', '.join(PROTOCOLS)}")
    reasons: Counter[str] = Counter()
    for result in raw:
        reasons.update(result["failures"])
    measured_s = max((float(result["measured_s"]) for result in raw), default=0.0)
    requests = sum(int(result["requests"]) for result in raw)
    shares = [
        float(result["cpu_s"]) / float(result["cpu_over_s"])
        for result in raw
        if result["cpu_over_s"]
    ]
    figures: dict[str, Any] = {
        "protocol": protocol,
        "started": min(
            (str(result["started"]) for result in raw if result["started"]), default=None
        ),
        "measured_s": round(measured_s, 3),
        "requests": requests,
        "requests_per_s": round(requests / measured_s, 2) if measured_s else None,
        "warm_up_requests": sum(int(result["warm_up_requests"]) for result in raw),
        "warm_up_failures": dict(
            sum((Counter(result.get("warm_up_failures") or {}) for result in raw), Counter())
        ),
        "failures": sum(reasons.values()),
        "failures_by_reason": dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0]))),
        "latency_ms": {name: latency(series[name]) for name in SERIES},
        "blocks": [_block(number, one) for number, one in blocks.items()],
        "attribution": _attribution(raw, series["client"]),
        "server_metrics": None
        if reading is None
        else server_metrics.figures(reading, series["server_every"]),
        "digits": _digits(raw),
        "client_cpu": {
            "cores_used": round(sum(shares), 3),
            "busiest_share_of_a_core": round(max(shares), 3) if shares else None,
        },
        "offered": _offered(raw),
        "processes": len(raw),
        "settings": settings,
    }
    figures["invalid_because"] = _invalid_because(figures)
    figures["valid"] = not figures["invalid_because"]
    figures["warnings"] = _warnings(figures)
    return figures


def _attribution(raw: list[dict[str, Any]], client: Series) -> dict[str, Any]:
    """The latency breakdown of the mean, p50, p90 and p99; empty for too few requests."""
    samples = [result.get("rows") or [] for result in raw]
    counts = [int(result.get("rows_of") or 0) for result in raw]
    rows = attribution.merge(samples, counts)
    found = attribution.attribute(rows, latency(client))
    return {name: one.document() for name, one in found.items()}


def _block(number: int, series: Series) -> dict[str, Any]:
    p50, p99 = series.percentiles_ms([50, 99])
    mean = series.mean_ms
    return {"number": number, "count": series.count, "mean": mean, "p50": p50, "p99": p99}


def _offered(raw: list[dict[str, Any]]) -> dict[str, int] | None:
    """The schedule of an open loop and its unanswered arrivals; None for a closed loop."""
    parts = [result["offered"] for result in raw if result.get("offered")]
    if not parts:
        return None
    return {name: sum(int(part[name]) for part in parts) for name in parts[0]}


def _digits(raw: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Accuracy on the labels, of digits or of a file; None without labels."""
    parts = [result["digits"] for result in raw if result["digits"] is not None]
    if not parts:
        return None
    scored = sum(int(part["scored"]) for part in parts)
    correct = sum(int(part["correct"]) for part in parts)
    numbers = [part["expected_correct"] for part in parts]  # None if unknown
    expected = None if None in numbers else sum(float(number) for number in numbers)
    return {
        "scored": scored,
        "correct": correct,
        "expected_correct": None if expected is None else round(expected, 3),
        "accuracy": round(correct / scored, 5) if scored else None,
        "expected_accuracy": (
            None if expected is None or not scored else round(expected / scored, 5)
        ),
    }


def _invalid_because(figures: dict[str, Any]) -> list[str]:
    reasons = []
    expected = int(figures["settings"].get("processes", 1))
    if figures["processes"] < expected:
        reasons.append(
            f"the number of load-generator results is {figures['processes']}, expected {expected}; "
            "see locust.log"
        )
    if not figures["requests"]:
        reasons.append("the number of measured requests is 0, expected 1 or more; measure longer")
    elif not figures["latency_ms"]["client"]["count"]:
        reasons.append(
            "the number of successful requests is 0, expected 1 or more; see the failures"
        )
    reasons += judgement.faults(figures)
    digits = figures["digits"]
    if digits and digits["scored"] and digits["expected_correct"] is not None:
        points = abs(digits["correct"] - digits["expected_correct"]) / digits["scored"] * 100
        if round(points, 6) > ACCURACY_POINTS:
            reasons.append(
                f"accuracy is {digits['accuracy'] * 100:.2f} %, expected "
                f"{digits['expected_accuracy'] * 100:.2f} % within {ACCURACY_POINTS} points; "
                "check that the server has the model of --model-folder"
            )
    return reasons


def _warnings(figures: dict[str, Any]) -> list[str]:
    warnings = []
    if figures["failures"]:
        warnings.append(
            f"{figures['failures']:,} of {figures['requests']:,} requests failed; "
            "latencies are of successful requests only"
        )
    if figures["warm_up_failures"]:
        worst, times = max(figures["warm_up_failures"].items(), key=lambda item: item[1])
        warnings.append(
            f"{sum(figures['warm_up_failures'].values()):,} of {figures['warm_up_requests']:,} "
            f"warm-up requests failed; most frequent reason: {worst} ({times:,})"
        )
    if figures["settings"].get("interrupted"):
        warnings.append(
            f"duration is {figures['measured_s']:.1f} s, expected "
            f"{figures['settings'].get('duration_s')} s; the run was interrupted"
        )
    succeeded = figures["latency_ms"]["client"]["count"]
    timed = figures["latency_ms"]["server_total"]["count"]
    if succeeded and not timed:
        warnings.append(
            "Server-Timing is missing in all responses; server latency and breakdown are unknown"
        )
    elif timed < succeeded:
        warnings.append(
            f"Server-Timing is missing in {succeeded - timed:,} of {succeeded:,} responses; "
            "server latency excludes them"
        )
    if timed and figures["latency_ms"]["gateway"]["count"] < succeeded:
        warnings.append(
            "x-gateway-timing is missing in some responses; "
            "their gateway time counts as client and network"
        )
    if figures["server_metrics"]:
        warnings += server_metrics.disagreements(figures["server_metrics"])
    digits = figures["digits"] if figures["settings"].get("payload") == DIGITS else None
    if digits and digits["expected_correct"] is None:
        warnings.append("expected accuracy is unknown; accuracy was not checked")
    return warnings
