"""Service-level objectives on latency and failures. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from loadtest.errors import SettingInvalid
from loadtest.series import HIGHEST_US, LOWEST_US

FAILURES = "failures"
# Failure limits of an SLO that states only latencies. A failed request has no latency, so a server
# that rejects everything would meet it. A percentile allows the share of requests above it, at most
# 1 %; max allows none.
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

# Margins are clamped: values far from the limit carry no information on where it is crossed.
BEST, WORST = 1.0, -0.7


@dataclass(frozen=True)
class Condition:
    """`statistic` < `limit`, in milliseconds, or a share of the requests in [0, 1]."""

    statistic: str
    limit: float
    text: str


@dataclass(frozen=True)
class Slo:
    """Conditions that must all hold; `text` is their source without spaces."""

    conditions: tuple[Condition, ...]
    text: str

    @classmethod
    def parse(cls, text: str) -> Slo:
        """Parse "p99<20ms", "p50<5ms,p99.9<0.5s" or "p99<20ms,failures<0.1%".

        Raises:
            SettingInvalid: A condition is malformed, repeated or out of range.
        """
        conditions = [_condition(part.strip(), text) for part in text.split(",")]
        statistics = [condition.statistic for condition in conditions]
        twice = next((name for name in statistics if statistics.count(name) > 1), None)
        if twice is not None:
            raise SettingInvalid(f'--slo is "{text}", expected {twice} at most once')
        return cls(tuple(conditions), ",".join(condition.text for condition in conditions))

    def margin(self, latency_ms: Mapping[str, float | None], requests: int, failures: int) -> float:
        """The smallest margin of all conditions, limit / measured - 1.

        It falls about linearly with the arrival rate: in an M/M/1 queue latency is proportional to
        1 / (service rate - arrival rate).

        Args:
            latency_ms: By name of LATENCIES; None where no request succeeded.
            requests: Completed requests, including failed ones.
            failures: Failed requests.

        Returns:
            From WORST to BEST; the SLO is met above 0.
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
        """The limited latency statistics."""
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
