"""Comparison of runs: one folder with their summaries, verdicts and report."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtest import difference, plots, report, verdict
from loadtest.difference import Difference
from loadtest.errors import LoadTestError
from loadtest.run_folder import (
    PROTOCOLS,
    SERVER_METRICS,
    SETTINGS,
    ResultUnreadable,
    RunFolder,
    read_json,
    write_json,
)
from loadtest.summary import (
    MACHINE,
    PLOT,
    REPORT,
    SLIDE,
    SUMMARY,
    Run,
    keep_machine,
    read_run,
)
from loadtest.verdict import Side

SIDES = "sides.json"


class RunsUnlike(LoadTestError):
    """The runs have unequal settings."""


@dataclass(frozen=True)
class Source:
    """One run to compare.

    Attributes:
        folder: The folder of the run.
        key: The name of its copy in the comparison's folder.
        name: Its display name.
    """

    folder: Path
    key: str
    name: str


def sources(folders: Sequence[Path], names: Sequence[str] = ()) -> list[Source]:
    """The runs to compare, named by `names`, else by distinct protocols, else A, B and so on.

    Raises:
        ResultUnreadable: A folder holds no run.
        RunsUnlike: `names` does not have one distinct name per run.
    """
    protocols = [str(read_run(folder).figures["protocol"]) for folder in folders]
    if not names and len(set(protocols)) == len(protocols):
        return [
            Source(folder, protocol, PROTOCOLS[protocol])
            for folder, protocol in zip(folders, protocols, strict=True)
        ]
    names = names or [chr(ord("A") + index) for index in range(len(folders))]
    if len(names) != len(folders) or len({name.lower() for name in names}) != len(names):
        raise RunsUnlike(f"--names is {','.join(names)}, expected {len(folders)} distinct names")
    return [Source(folder, _slug(name), name) for folder, name in zip(folders, names, strict=True)]


def compare(
    runs: Sequence[Source],
    output: Path,
    *,
    allow_differences: bool = False,
    varied: Collection[str] = (),
    what: str | None = None,
) -> Path:
    """Compare every run with the first, in a new folder `<time>-<a>-vs-<b>` below `output`.

    The folder holds copies of the runs, so it can be moved and rebuilt on its own.

    Args:
        runs: Two or more runs.
        output: Parent of the new folder.
        allow_differences: Compare runs with unequal settings and report them as unfair.
        varied: Settings that differ on purpose.
        what: Suffix of the folder's name, instead of `<a>-vs-<b>`.

    Raises:
        ResultUnreadable: A folder holds no run.
        RunsUnlike: The settings differ in more than the protocol and `varied`.
    """
    first, *others = [Side(one.key, one.name, read_run(one.folder).figures) for one in runs]
    unlike = [text for side in others for text in verdict.differences(first, side, varied)]
    if unlike and not allow_differences:
        raise RunsUnlike(
            "the runs have unequal settings: "
            + "; ".join(dict.fromkeys(unlike))
            + "; add --allow-differences to compare them"
        )
    name = what or "-vs-".join(one.key for one in runs)
    folder = RunFolder.create(output, name).path
    for one in runs:
        copy = folder / one.key
        copied = RunFolder(copy)
        copy.mkdir()
        for result in sorted(one.folder.glob("raw/*.json")):
            shutil.copy(result, copied.raw / result.name)
        for file in (SETTINGS, MACHINE, SERVER_METRICS):
            if (one.folder / file).exists():
                shutil.copy(one.folder / file, copy / file)
        keep_machine(copy)
    write_json(
        folder / SIDES,
        {
            "sides": [{"key": one.key, "name": one.name} for one in runs],
            "varied": sorted(varied),
        },
    )
    write_report(folder)
    return folder


def is_comparison(folder: Path) -> bool:
    return (folder / SIDES).is_file()


def write_report(folder: Path) -> dict[str, Any]:
    """Write the comparison's summary.json, plots and report.html; return the summary.

    Raises:
        ResultUnreadable: The folder holds no comparison.
    """
    described = read_json(folder / SIDES)
    named = sides(folder)
    varied = [str(name) for name in described.get("varied", ())]
    runs = {key: read_run(folder / key) for key, _ in named}
    compared = [Side(key, name, runs[key].figures) for key, name in named]
    verdicts = [
        verdict.compare(compared[0], side, between(runs[named[0][0]], runs[side.key]), varied)
        for side in compared[1:]
    ]
    document: dict[str, Any] = {
        "sides": described["sides"],
        "varied": varied,
        "verdicts": verdicts,
        "runs": {key: run.figures for key, run in runs.items()},
    }
    write_json(folder / SUMMARY, document)
    pictures = plots.Pictures.of(
        [
            curve
            for index, (key, name) in enumerate(named)
            for curve in plots.curves_of(name, runs[key].series, index)
        ]
    )
    (folder / PLOT).write_bytes(pictures.png)
    attributions = {side.name: side.figures["attribution"] for side in compared}
    headline = verdicts[0]["sentence"] if len(verdicts) == 1 else ""
    (folder / SLIDE).write_bytes(plots.slide(headline, pictures.curves, attributions))
    (folder / REPORT).write_text(report.of_comparison(document, pictures), encoding="utf-8")
    return document


def sides(folder: Path) -> list[tuple[str, str]]:
    """Key and name of every run of a comparison.

    Raises:
        ResultUnreadable: The folder holds no comparison.
    """
    described = read_json(folder / SIDES)
    try:
        return [(str(side["key"]), str(side["name"])) for side in described["sides"]]
    except (KeyError, TypeError) as error:
        raise ResultUnreadable(f"{folder.name}/{SIDES} is not a valid comparison") from error


def between(a: Run, b: Run) -> Difference | None:
    """The estimated difference of two runs; None if there are too few blocks.

    The k-th blocks of two interleaved runs of one group are a pair: they were measured in the same
    round.
    """
    groups = [run.figures["settings"].get("group") for run in (a, b)]
    paired = groups[0] is not None and groups[0] == groups[1]
    if paired:
        pairs = list(zip(a.blocks.values(), b.blocks.values(), strict=False))
        pairs = [(one, other) for one, other in pairs if one.count and other.count]
        of_a, of_b = [one for one, _ in pairs], [other for _, other in pairs]
    else:
        of_a, of_b = ([one for one in run.blocks.values() if one.count] for run in (a, b))
    if min(len(of_a), len(of_b)) < difference.FEWEST_BLOCKS:
        return None
    return difference.between(of_a, of_b, paired=paired)


def _slug(name: str) -> str:
    """A folder name."""
    slug = "-".join("".join(c if c.isalnum() else " " for c in name.lower()).split())
    return slug or "run"
