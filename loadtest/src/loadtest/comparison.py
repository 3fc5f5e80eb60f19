"""A REST run and a gRPC run side by side: figures, verdict and report."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from loadtest import difference, plots, report, verdict
from loadtest.difference import Difference
from loadtest.run_folder import PROTOCOLS, SETTINGS, ResultUnreadable, RunFolder, write_json
from loadtest.summary import MACHINE, PLOT, REPORT, SUMMARY, Run, keep_machine, read_run


def compare(rest: Path, grpc: Path, output: Path) -> Path:
    """Compare two runs in a new folder `<time>-rest-vs-grpc` below `output`.

    The folder gets a copy of both runs, so that it can be read, moved and rebuilt by itself.

    Raises:
        ResultUnreadable: A folder holds no run, or that of the other protocol.
    """
    for protocol, source in (("rest", rest), ("grpc", grpc)):
        _expect(read_run(source), protocol, source)
    folder = RunFolder.create(output, "rest-vs-grpc").path
    for protocol, source in (("rest", rest), ("grpc", grpc)):
        copy = folder / protocol
        copied = RunFolder(copy)
        copy.mkdir()
        for result in sorted(source.glob("raw/*.json")):
            shutil.copy(result, copied.raw / result.name)
        for name in (SETTINGS, MACHINE):
            if (source / name).exists():
                shutil.copy(source / name, copy / name)
        keep_machine(copy)
    write_report(folder)
    return folder


def is_comparison(folder: Path) -> bool:
    return all((folder / protocol).is_dir() for protocol in PROTOCOLS)


def write_report(folder: Path) -> dict[str, Any]:
    """Write the comparison's summary.json, percentiles.png and report.html; return the first.

    Raises:
        ResultUnreadable: The folder holds no comparison.
    """
    runs = {protocol: read_run(folder / protocol) for protocol in PROTOCOLS}
    for protocol, run in runs.items():
        _expect(run, protocol, folder / protocol)
    rest, grpc = runs["rest"].figures, runs["grpc"].figures
    between = _difference(runs["rest"], runs["grpc"])
    document = {"verdict": verdict.compare(rest, grpc, between), "rest": rest, "grpc": grpc}
    write_json(folder / SUMMARY, document)
    curves = [
        curve for protocol, run in runs.items() for curve in plots.curves_of(protocol, run.series)
    ]
    pictures = plots.draw_all(curves)
    (folder / PLOT).write_bytes(pictures.light)
    (folder / REPORT).write_text(report.of_comparison(document, pictures), encoding="utf-8")
    return document


def _difference(rest: Run, grpc: Run) -> Difference | None:
    """REST's difference from gRPC over pairs of neighbouring turns; None if there are too few."""
    pairs = [
        (a, b) for a, b in difference.neighbours(rest.blocks, grpc.blocks) if a.count and b.count
    ]
    if len(pairs) < difference.FEWEST_BLOCKS or rest.blocks.keys() & grpc.blocks.keys():
        return None
    return difference.between([a for a, _ in pairs], [b for _, b in pairs], paired=True)


def _expect(run: Run, protocol: str, folder: Path) -> None:
    if run.figures["protocol"] != protocol:
        raise ResultUnreadable(
            f"{folder.name} is a run of {PROTOCOLS[run.figures['protocol']]}, "
            f"expected one of {PROTOCOLS[protocol]}"
        )
