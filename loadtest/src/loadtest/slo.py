"""A service-level objective: what a run's latencies and failures have to stay below. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from loadtest.errors import SettingInvalid
from loadtest.series import HIGHEST_US, LOWEST_US

FAILURES = "failures"
# A failed request has no latency, so an objective of latencies alone would be kept by a server that
# refuses everyone. Failures count as slower than any limit: a percentile leaves room for as many as
# it leaves requests, but for no more than 1 %; the slowest of all leaves none.
FAILURES_LEFT: Mapping[str, float] = {
    "mean": 0.01,
    "p50": 0.01,
    "p90": 0.01,
    "p95": 0.01,
    "p99": 0.01,
    "p99.9": 0.001,
    "max": 0.0,
}
LATENCIES = tuple(FAILURES_LEFT)

_MS = {"us": 0.001, "µs": 0.001, "ms": 1.0, "s": 1000.0}
_CONDITION = re.compile(r"([a-z0-9.]+)\s*<\s*([0-9]+(?:\.[0-9]+)?|\.[0-9]+)\s*(us|µs|ms|s|%)")
_EXPECTED = (
    "expected conditions such as p99<20ms or failures<0.1%, joined by commas: "
    f"{', '.join(LATENCIES)} in us, ms or s, and {FAILURES} in %"
)

# Twice as good as asked for is as good as it gets, and three times as bad as bad: how far beyond
# says nothing of where the limit is crossed.
BEST, WORST = 1.0, -0.7


@dataclass(frozen=True)
class Condition:
    """`statistic` has to be below `limit`: milliseconds, or a share of the requests in [0, 1]."""

    statistic: str
    limit: float
    text: str


@dataclass(frozen=True)
class Slo:
    """Conditions that all have to hold. `text` is how it was written, without spaces."""

    conditions: tuple[Condition, ...]
    text: str

    @classmethod
    def parse(cls, text: str) -> Slo:
        """Read "p99<20ms", "p50<5ms,p99.9<0.5s" or "p99<20ms,failures<0.1%".

        Raises:
            SettingInvalid: Not of that form, a statistic given twice, or a limit that no
                measurement can have.
        """
        conditions = [_condition(part.strip(), text) for part in text.split(",")]
        statistics = [condition.statistic for condition in conditions]
        twice = next((name for name in statistics if statistics.count(name) > 1), None)
        if twice is not None:
            raise SettingInvalid(f'--slo is "{text}", expected {twice} at most once')
        return cls(tuple(conditions), ",".join(condition.text for condition in conditions))

    def margin(self, latency_ms: Mapping[str, float | None], requests: int, failures: int) -> float:
        """How far inside the objective a measurement is, by the condition that is nearest to it.

        limit / measured - 1, which is 0 at the limit and falls about linearly with the arrival
        rate: in the queue M/M/1 a latency is proportional to 1 / (service rate - arrival rate).

        Args:
            latency_ms: By name of LATENCIES, those of the conditions at least; None where no
                request succeeded.
            requests: How many ended, failed ones included.
            failures: How many of them failed.

        Returns:
            From WORST to BEST; the objective is kept where it is above 0.
        """
        share = failures / requests if requests else 1.0
        margins = [_margin(share, self._failures_limit)]
        for condition in self.conditions:
            if condition.statistic != FAILURES:
                measured = latency_ms[condition.statistic]
                margins.append(_margin(math.inf if measured is None else measured, condition.limit))
        return min(margins)

    @property
    def statistics(self) -> tuple[str, ...]:
        """The latencies that it limits."""
        names = (condition.statistic for condition in self.conditions)
        return tuple(name for name in names if name != FAILURES)

    @property
    def _failures_limit(self) -> float:
        stated = [one.limit for one in self.conditions if one.statistic == FAILURES]
        return stated[0] if stated else min(FAILURES_LEFT[name] for name in self.statistics)


def _condition(part: str, text: str) -> Condition:
    found = _CONDITION.fullmatch(part.lower())
    if found is None:
        raise SettingInvalid(f'--slo is "{text}", {_EXPECTED}')
    statistic, number, unit = found[1], float(found[2]), found[3]
    if statistic not in (*LATENCIES, FAILURES) or (statistic == FAILURES) != (unit == "%"):
        raise SettingInvalid(f'--slo is "{text}", {_EXPECTED}')
    written = f"{statistic}<{found[2]}{unit}"
    if statistic == FAILURES:
        if not 0 < number <= 100:
            raise SettingInvalid(f'--slo has "{written}", expected more than 0 and at most 100 %')
        return Condition(statistic, number / 100, written)
    limit_ms = number * _MS[unit]
    if not LOWEST_US / 1000 <= limit_ms <= HIGHEST_US / 1000:
        raise SettingInvalid(
            f'--slo has "{written}", expected {LOWEST_US} us to {HIGHEST_US / 1e6:g} s'
        )
    return Condition(statistic, limit_ms, written)


def _margin(measured: float, limit: float) -> float:
    if measured == 0:
        return BEST
    return min(max(limit / measured - 1, WORST), BEST)
