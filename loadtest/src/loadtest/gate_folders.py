"""Runs gate.py on result folders."""

from __future__ import annotations

from pathlib import Path

from loadtest import comparison, gate, summary, verdict
from loadtest.comparison import RunsUnlike
from loadtest.gate import Gate, Judged
from loadtest.run_folder import PROTOCOLS
from loadtest.summary import Run
from loadtest.verdict import Side


def judge(before: Path, after: Path, limit: float, *, allow_differences: bool = False) -> Gate:
    """Judge the run, or every run of the comparison, in `after` against `before`.

    Raises:
        ResultUnreadable: A folder holds no result.
        RunsUnlike: The runs or their settings differ.
    """
    earlier, later = _runs(before), _runs(after)
    if earlier.keys() != later.keys():
        raise RunsUnlike(
            f"the runs of AFTER are {', '.join(later)}, expected {', '.join(earlier)} as in BEFORE"
        )
    judged: list[Judged] = []
    broken: list[str] = []
    for name in earlier:
        a, b = earlier[name], later[name]
        unlike = verdict.differences(
            Side("before", "before", a.figures), Side("after", "after", b.figures)
        )
        if unlike and not allow_differences:
            raise RunsUnlike(
                f"{name}: the runs have unequal settings: {'; '.join(unlike)}; "
                "add --allow-differences to judge them"
            )
        broken += gate.broken(name, a.figures, b.figures)
        judged += gate.of_run(name, a.figures, b.figures, comparison.between(b, a), limit)
    return Gate(limit, tuple(judged), tuple(broken))


def _runs(folder: Path) -> dict[str, Run]:
    if comparison.is_comparison(folder):
        return {name: summary.read_run(folder / key) for key, name in comparison.sides(folder)}
    run = summary.read_run(folder)
    return {PROTOCOLS[run.figures["protocol"]]: run}
