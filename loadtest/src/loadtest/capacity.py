"""Search for the highest arrival rate at which a server meets an SLO. Pure.

A probe is a run at one arrival rate. The rate doubles until a probe misses the SLO. Then the search
bisects the bracket between the highest rate that met it and the lowest that missed it, in the
logarithm of the rate, and repeats the probes at both ends. Near the knee a probe is noisy: a
percentile of a few thousand clustered requests is off by 10 % and more. So no single probe decides:
a rate counts by the median of its probes, contradictory probes reopen the bracket, and the capacity
is where a line through nearby probes crosses the limit. In simulated queues its error is a third of
that of the bracket's middle.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from statistics import median
from typing import Any

import numpy as np

from loadtest import crossing, judgement
from loadtest.errors import SettingInvalid
from loadtest.slo import LATENCIES, WORST, Slo
from monitoring.limits import GENERATOR_CPU

MAX_PROBES = 12
CONVERGED = 1.045  # high / low of a converged bracket: four bisections of a doubling
CONVERGED_AT_GENERATOR_LIMIT = 1.2  # the same where the load generator limits the upper end
RANGE_CONVERGED = 1.1  # high / low of a converged likely range
HALVINGS = 4  # of the first rate, before the search ends
DOUBTED_AFTER = 2  # met rates below an upper end with one probe, before that probe is repeated

KEEPS_UP = 0.95  # completed / offered; below it a backlog grew during the whole probe


@dataclass(frozen=True)
class Probe:
    """The result of a run at one arrival rate.

    Attributes:
        rate_per_s: The target arrival rate.
        offered_per_s: The arrival rate of the drawn schedule.
        achieved_per_s: Completed requests per second, including failed ones.
        latency_ms: Request latency from the scheduled send, by name of slo.LATENCIES; None where
            no request succeeded.
        requests: Completed requests, including failed ones.
        failures: Failed requests.
        invalid_because: Why the run is invalid; empty if it is valid.
        server_behind: The run is invalid only because the server left requests unanswered. The
            server is then past its capacity.
        only_late: The run is invalid only because of its dispatch lag. The latency includes the
            lag, so an SLO that is met nevertheless is met.
        server_cpu_ms: CPU time of all server processes per prediction; None if unknown.
    """

    rate_per_s: float
    offered_per_s: float
    achieved_per_s: float
    latency_ms: Mapping[str, float | None]
    requests: int
    failures: int = 0
    invalid_because: tuple[str, ...] = ()
    server_behind: bool = False
    only_late: bool = False
    server_cpu_ms: float | None = None

    def margin(self, slo: Slo) -> float | None:
        """The margin to `slo`, as Slo.margin; None if the run is inconclusive."""
        margin = slo.margin(self.latency_ms, self.requests, self.failures)
        if self.achieved_per_s < KEEPS_UP * self.offered_per_s:
            margin = WORST
        conclusive = (self.server_behind and margin <= 0) or (self.only_late and margin > 0)
        if self.invalid_because and not conclusive:
            return None
        return margin

    @classmethod
    def of_run(
        cls, rate_per_s: float, figures: Mapping[str, Any], server_cpu_ms: float | None = None
    ) -> Probe:
        """A probe from the summary of an open-loop run."""
        offered = figures["offered"]
        busy = figures["client_cpu"]["busiest_share_of_a_core"] or 0.0
        kept_up = (
            not offered["late_for_want_of_a_thread"]
            and figures["requests"] >= judgement.ACHIEVED * offered["arrivals"]
        )
        seconds = figures["measured_s"] or math.inf
        client = figures["latency_ms"]["client"]
        return cls(
            rate_per_s=rate_per_s,
            offered_per_s=round(offered["arrivals"] / seconds, 2),
            achieved_per_s=round(figures["requests"] / seconds, 2),
            latency_ms={name: client[name] for name in LATENCIES},
            requests=figures["requests"],
            failures=figures["failures"],
            invalid_because=tuple(figures["invalid_because"]),
            server_behind=not kept_up and busy <= GENERATOR_CPU,
            only_late=judgement.is_late(figures) and len(figures["invalid_because"]) == 1,
            server_cpu_ms=server_cpu_ms,
        )


class Stop(StrEnum):
    """Why a search ended; the values are those of capacity.json."""

    FOUND = "found"
    OUT_OF_PROBES = "out of probes"
    GENERATOR = "load generator is the limit"
    NEVER_MET = "never kept"
    INTERRUPTED = "cut short"


@dataclass(frozen=True)
class Capacity:
    """The result of a search.

    Attributes:
        slo: The objective.
        stop: Why the search ended.
        rate_per_s: The highest arrival rate that meets the SLO; None if no rate does. A lower
            bound if `high_per_s` is None.
        low_per_s: Lower end of the likely range.
        high_per_s: Upper end of the likely range; None if no probe missed the SLO.
        probes: All probes in order of time.
    """

    slo: Slo
    stop: Stop
    rate_per_s: float | None
    low_per_s: float | None
    high_per_s: float | None
    probes: tuple[Probe, ...]

    @property
    def server_cpu_ms(self) -> float | None:
        """CPU time of the servers per prediction, at the highest rate that met the SLO."""
        low = _History.of(self.probes, self.slo).low
        known = [
            probe.server_cpu_ms
            for probe in self.probes
            if low is not None and probe.rate_per_s == low.rate and probe.server_cpu_ms is not None
        ]
        return median(known) if known else None

    @property
    def sentence(self) -> str:
        """The capacity in words."""
        slo = self.slo.text
        if self.rate_per_s is None:
            lowest = rate_text(min(probe.rate_per_s for probe in self.probes))
            if self.stop is Stop.GENERATOR:
                return f"{slo} is untested: the load generator is saturated at {lowest} requests/s"
            return f"{slo} is not met at {lowest} requests/s, the lowest rate tried"
        rate = rate_text(self.rate_per_s)
        if self.low_per_s is None or self.high_per_s is None:
            return f"{slo} is met at {rate} requests/s, the upper limit is unknown"
        return (
            f"{slo} is met up to {rate} requests/s "
            f"(likely range {rate_text(self.low_per_s)} to {rate_text(self.high_per_s)})"
        )

    @property
    def confidence(self) -> str:
        """The evidence of the probes in words."""
        margins = [(probe.rate_per_s, probe.margin(self.slo)) for probe in self.probes]
        kept = sorted(rate for rate, margin in margins if margin is not None and margin > 0)
        broken = sorted(rate for rate, margin in margins if margin is not None and margin <= 0)
        # Outside the overlap of both sets all probes agree.
        all_met = [rate for rate in kept if not broken or rate < broken[0]]
        all_missed = [rate for rate in broken if not kept or rate > kept[-1]]
        between = len(kept) + len(broken) - len(all_met) - len(all_missed)
        parts = []
        if all_met:
            parts.append(
                f"met by all probes up to {rate_text(all_met[-1])}/s "
                f"({_probes(all_met.count(all_met[-1]))} at that rate)"
            )
        if between:
            parts.append(f"by {len(kept) - len(all_met)} of {_probes(between)} in between")
        if all_missed:
            parts.append(
                f"{'met ' if not kept else ''}by none from {rate_text(all_missed[0])}/s "
                f"({_probes(all_missed.count(all_missed[0]))} at that rate)"
            )
        inconclusive = len(margins) - len(kept) - len(broken)
        if inconclusive:
            parts.append(f"{inconclusive} of {_probes(len(margins))} inconclusive")
        return ", ".join(parts)

    @property
    def because(self) -> str:
        """Why the search ended, in words."""
        match self.stop:
            case Stop.FOUND:
                return "the search converged"
            case Stop.OUT_OF_PROBES:
                return f"the search used all {_probes(len(self.probes))}"
            case Stop.INTERRUPTED:
                return f"the search was interrupted after {_probes(len(self.probes))}"
            case Stop.NEVER_MET:
                return "the search ended at its lowest rate"
            case Stop.GENERATOR:
                inconclusive = [probe for probe in self.probes if probe.margin(self.slo) is None]
                lowest = min(inconclusive, key=lambda probe: probe.rate_per_s)
                return (
                    f"the load generator is the limit at {rate_text(lowest.rate_per_s)} "
                    f"requests/s: {'; '.join(lowest.invalid_because)}"
                )

    def document(self) -> dict[str, Any]:
        """For capacity.json."""
        return {
            "slo": self.slo.text,
            "stop": str(self.stop),
            "rate_per_s": self.rate_per_s,
            "low_per_s": self.low_per_s,
            "high_per_s": self.high_per_s,
            "server_cpu_ms": self.server_cpu_ms,
            "sentence": self.sentence,
            "confidence": self.confidence,
            "because": self.because,
            "probes": [
                {**asdict(probe), "kept": None if margin is None else margin > 0}
                for probe in self.probes
                for margin in [probe.margin(self.slo)]
            ],
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Capacity:
        """The inverse of `document`; derived values are computed from the probes."""
        probes = []
        for one in document["probes"]:
            fields = {name: value for name, value in one.items() if name != "kept"}
            probes.append(Probe(**{**fields, "invalid_because": tuple(one["invalid_because"])}))
        return cls(
            Slo.parse(document["slo"]),
            Stop(document["stop"]),
            document["rate_per_s"],
            document["low_per_s"],
            document["high_per_s"],
            tuple(probes),
        )


def find_capacity(
    probe: Callable[[float], Probe], slo: Slo, start_rate: float, max_probes: int = MAX_PROBES
) -> Capacity:
    """Search the highest arrival rate that meets `slo`.

    Args:
        probe: Runs a probe at an arrival rate per second. An exception ends the search; a caller
            that has kept the probes passes them to `conclude`.
        slo: The objective.
        start_rate: Arrival rate of the first probe, > 0; ideally well below the capacity.
        max_probes: Maximum number of probes, >= 1.

    Raises:
        SettingInvalid: `start_rate` or `max_probes` is out of range.
    """
    if not (math.isfinite(start_rate) and start_rate > 0):
        raise SettingInvalid(f"--start-rate is {start_rate:g}, expected more than 0")
    if max_probes < 1:
        raise SettingInvalid(f"--probes is {max_probes}, expected 1 or more")
    probes: list[Probe] = []
    while not isinstance(step := next_step(probes, slo, start_rate, max_probes), Stop):
        probes.append(probe(step))
    return conclude(probes, slo, step)


def next_step(
    probes: Sequence[Probe], slo: Slo, start_rate: float, max_probes: int = MAX_PROBES
) -> float | Stop:
    """The arrival rate of the next probe, or why there is none."""
    if not probes:
        return _rounded(start_rate)
    seen = _History.of(probes, slo)
    if len(probes) >= max_probes:
        return seen.out_of_probes
    for one in seen.rates:
        if one.probes_made == 1 and not one.conclusive:
            return one.rate  # other work on the machine may have disturbed it
        if one.probes_made == 2 and one.contradictory:
            return one.rate
    low, high = seen.low, seen.high
    if high is None:
        return _rounded(2 * seen.rates[-1].rate)
    if low is None:
        return seen.below(high, start_rate)
    if high.probes_made == 1 and seen.kept_since(high, probes) >= DOUBTED_AFTER:
        return high.rate
    narrow = CONVERGED if high.conclusive else CONVERGED_AT_GENERATOR_LIMIT
    if high.rate / low.rate > narrow:
        return _rounded(seen.between(low, high))
    once = [one for one in (low, high) if one.probes_made == 1]
    if once:
        return min(once, key=lambda one: abs(one.margin or 0.0)).rate
    if not high.conclusive:
        return Stop.GENERATOR
    place = seen.crossing
    return (
        Stop.FOUND
        if place.high - place.low <= math.log(RANGE_CONVERGED)
        else _rounded(math.exp(place.at))
    )


def conclude(probes: Sequence[Probe], slo: Slo, stop: Stop) -> Capacity:
    """The capacity from the probes of a search that ended with `stop`."""
    seen = _History.of(probes, slo)
    low, high = seen.low, seen.high
    if low is None or high is None or not high.conclusive:
        rate = None if low is None else low.rate
        return Capacity(slo, stop, rate, rate, None, tuple(probes))
    place = seen.crossing
    rate, least, most = (_rounded(math.exp(log)) for log in (place.at, place.low, place.high))
    return Capacity(slo, stop, rate, least, most, tuple(probes))


def rate_text(rate: float) -> str:
    """A rate with three significant digits, more than a search can resolve."""
    return f"{float(f'{rate:.3g}'):,g}" if rate < 1000 else f"{float(f'{rate:.3g}'):,.0f}"


@dataclass(frozen=True)
class _Rate:
    """The probes at one rate: how many, and the margins of the conclusive ones."""

    rate: float
    probes_made: int
    conclusive: tuple[float, ...]

    @property
    def margin(self) -> float | None:
        return median(self.conclusive) if self.conclusive else None

    @property
    def kept(self) -> bool:
        return self.margin is not None and self.margin > 0

    @property
    def conflicting(self) -> bool:
        return bool(self.conclusive) and min(self.conclusive) <= 0 < max(self.conclusive)

    @property
    def contradictory(self) -> bool:
        """Whether the margins differ by more than chance, so that one probe was disturbed."""
        return (
            self.conflicting and max(self.conclusive) - min(self.conclusive) >= 2 * crossing.CLEAR
        )

    @property
    def trusted(self) -> tuple[float, ...]:
        """The margins without outliers against the majority."""
        if self.contradictory and len(self.conclusive) > 2:
            return tuple(margin for margin in self.conclusive if (margin > 0) == self.kept)
        return self.conclusive


@dataclass(frozen=True)
class _History:
    """All probes so far, by ascending rate."""

    rates: tuple[_Rate, ...]

    @classmethod
    def of(cls, probes: Sequence[Probe], slo: Slo) -> _History:
        margins: dict[float, list[float | None]] = {}
        for probe in probes:
            margins.setdefault(probe.rate_per_s, []).append(probe.margin(slo))
        return cls(
            tuple(
                _Rate(rate, len(probes_made), tuple(one for one in probes_made if one is not None))
                for rate, probes_made in sorted(margins.items())
            )
        )

    @property
    def high(self) -> _Rate | None:
        """The lowest rate that misses the SLO or is inconclusive."""
        return next((one for one in self.rates if not one.kept), None)

    @property
    def low(self) -> _Rate | None:
        """The highest rate below `high`; it meets the SLO."""
        below = [one for one in self.rates if self.high is None or one.rate < self.high.rate]
        return below[-1] if below else None

    @property
    def out_of_probes(self) -> Stop:
        if self.high is not None and not self.high.conclusive:
            return Stop.GENERATOR
        return Stop.OUT_OF_PROBES if self.low is not None else Stop.NEVER_MET

    def below(self, high: _Rate, start_rate: float) -> float | Stop:
        """The next step if no rate below `high` meets the SLO."""
        if high.rate > start_rate / 2**HALVINGS * 1.01:
            return _rounded(high.rate / 2)
        if high.probes_made == 1:
            return high.rate
        return Stop.NEVER_MET if high.conclusive else Stop.GENERATOR

    def kept_since(self, high: _Rate, probes: Sequence[Probe]) -> int:
        """How many rates below `high` met the SLO after its only probe."""
        rates = [probe.rate_per_s for probe in probes]
        since = set(rates[rates.index(high.rate) + 1 :])
        return sum(one.kept and one.rate in since for one in self.rates if one.rate < high.rate)

    def between(self, low: _Rate, high: _Rate) -> float:
        """The middle of the bracket; the crossing of all probes if some conflict."""
        width = math.log(high.rate / low.rate)
        part = 0.5
        if high.conclusive and any(one.conflicting for one in self.rates):
            # Near an end the bracket would hardly shrink.
            part = min(max((self.crossing.at - math.log(low.rate)) / width, 0.15), 0.85)
        return low.rate * math.exp(part * width)

    @property
    def crossing(self) -> crossing.Crossing:
        """Where the margin crosses 0, between `low` and `high`."""
        points = [(math.log(one.rate), margin) for one in self.rates for margin in one.trusted]
        return crossing.find(*np.array(points).T)


def _rounded(rate: float) -> float:
    """Four significant digits, so that a repeated probe has the same rate."""
    return float(f"{rate:.4g}")


def _probes(number: int) -> str:
    return f"{number} probe{'' if number == 1 else 's'}"
