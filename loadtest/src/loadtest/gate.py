"""A regression gate: fails a build if latency regressed by more than a limit. Pure.

A statistic has regressed (its ratio exceeds the limit and its interval lies above 1), is within the
limit (the whole interval is), or is inconclusive; --strict also fails on the last. The interval
covers variation within the two runs. A machine that drifts between runs by as much as the limit
causes false regressions: use a wider limit there, or interleave both sides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from loadtest.difference import STATISTICS, Difference, Estimate
from loadtest.errors import SettingInvalid


class Outcome(StrEnum):
    """The outcome of a statistic; the values are those of --json."""

    REGRESSED = "regressed"
    KEPT = "within the limit"
    CANNOT_TELL = "cannot tell"


@dataclass(frozen=True)
class Judged:
    """One statistic.

    Attributes:
        run: The display name of the run.
        statistic: mean, p50 or p99.
        before_ms: The statistic of the earlier run.
        after_ms: The statistic of the later run.
        ratio: after / before.
        low: Lower bound of the ratio's interval; None without an interval.
        high: Upper bound of the ratio's interval; None without an interval.
        outcome: The outcome.
    """

    run: str
    statistic: str
    before_ms: float
    after_ms: float
    ratio: float
    low: float | None
    high: float | None
    outcome: Outcome


@dataclass(frozen=True)
class Gate:
    """The result of a gate.

    Attributes:
        limit: The largest allowed ratio.
        judged: Every statistic of every run.
        broken: Invalid runs and increased failure rates.
    """

    limit: float
    judged: tuple[Judged, ...]
    broken: tuple[str, ...]

    def passes(self, *, strict: bool) -> bool:
        """Whether the gate passes."""
        bad = {Outcome.REGRESSED, Outcome.CANNOT_TELL} if strict else {Outcome.REGRESSED}
        return not self.broken and not any(one.outcome in bad for one in self.judged)

    def document(self) -> dict[str, Any]:
        return asdict(self)


def max_ratio(text: str) -> float:
    """The largest ratio that a limit of "10%" or "0.1" allows.

    Raises:
        SettingInvalid: Neither.
    """
    number = text.strip()
    try:
        share = float(number[:-1]) / 100 if number.endswith("%") else float(number)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 10:
        raise SettingInvalid(f'--max-regression is "{text}", expected 0% to 1000%, such as 10%')
    return 1 + share


def broken(name: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Why a run is invalid or fails more often than before."""
    found = [
        f"{name}, {when}: {reason}"
        for when, run in (("before", before), ("after", after))
        for reason in run["invalid_because"]
    ]
    shares = [
        run["failures"] / run["requests"] if run["requests"] else 0 for run in (before, after)
    ]
    if shares[1] > shares[0]:
        found.append(
            f"{name}: the failure rate is {shares[1]:.2%}, expected at most {shares[0]:.2%}, as "
            "before".replace("%", " %")
        )
    return found


def of_run(
    name: str,
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    between: Difference | None,
    limit: float,
) -> list[Judged]:
    """Judge every statistic of one run; `between` is the difference of after (a) and before (b)."""
    judged = []
    for statistic in STATISTICS:
        old, new = (run["latency_ms"]["client"][statistic] for run in (before, after))
        if not old or not new:
            continue
        estimate = between.estimates[statistic] if between else None
        ratio = estimate.ratio if estimate else new / old
        interval = estimate.ratio_interval if estimate else None
        judged.append(
            Judged(
                run=name,
                statistic=statistic,
                before_ms=old,
                after_ms=new,
                ratio=round(ratio, 4),
                low=round(interval.low, 4) if interval else None,
                high=round(interval.high, 4) if interval else None,
                outcome=outcome(ratio, estimate, limit),
            )
        )
    return judged


def outcome(ratio: float, estimate: Estimate | None, limit: float) -> Outcome:
    """The outcome of a ratio and its interval."""
    if estimate is None:
        return Outcome.CANNOT_TELL
    if ratio > limit and estimate.ratio_interval.low > 1:
        return Outcome.REGRESSED
    return Outcome.KEPT if estimate.ratio_interval.high <= limit else Outcome.CANNOT_TELL
