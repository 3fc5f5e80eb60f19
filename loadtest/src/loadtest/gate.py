"""Is a run slower than an earlier one by more than is allowed? For a build that must say no. Pure.

There are three answers: a regression (the estimate is over the limit and the whole interval above
1), none (the whole interval is below the limit), and "cannot tell" for what is between; --strict
fails on that as well. The interval is from what varied within the two runs. A machine that drifts
from run to run by as much as the limit makes regressions of its own: there the limit has to be
wider, or both sides have to be measured in turns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from loadtest.difference import STATISTICS, Difference, Estimate
from loadtest.errors import SettingInvalid


class Outcome(StrEnum):
    """What a statistic of the later run has come to."""

    REGRESSED = "regressed"
    KEPT = "within the limit"
    CANNOT_TELL = "cannot tell"


@dataclass(frozen=True)
class Judged:
    """One statistic.

    Attributes:
        run: Which of the runs, as people call it.
        statistic: mean, p50 or p99.
        before_ms: Of the earlier run.
        after_ms: Of the later.
        ratio: after / before.
        low: Of the ratio's interval; None where there is none.
        high: Likewise.
        outcome: What to make of it.
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
    """What a gate has found.

    Attributes:
        limit: The largest ratio that is allowed.
        judged: Every statistic of every run.
        broken: Why there is nothing to judge, or what is worse than slow.
    """

    limit: float
    judged: tuple[Judged, ...]
    broken: tuple[str, ...]

    def passes(self, *, strict: bool) -> bool:
        """Whether to go on."""
        bad = {Outcome.REGRESSED, Outcome.CANNOT_TELL} if strict else {Outcome.REGRESSED}
        return not self.broken and not any(one.outcome in bad for one in self.judged)

    def document(self) -> dict[str, Any]:
        return asdict(self)


def max_ratio(text: str) -> float:
    """The ratio that "10%" or "0.1" more allows.

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
    """Why a run cannot be judged, or fails more often than before."""
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
    """Every statistic of one run; `between` is how far the later (a) is from the earlier (b)."""
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
    """What a ratio, with its interval if there is one, has come to."""
    if estimate is None:
        return Outcome.CANNOT_TELL
    if ratio > limit and estimate.ratio_interval.low > 1:
        return Outcome.REGRESSED
    return Outcome.KEPT if estimate.ratio_interval.high <= limit else Outcome.CANNOT_TELL
