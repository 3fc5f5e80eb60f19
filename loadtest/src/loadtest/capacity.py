"""The highest arrival rate at which a server keeps an objective, from a dozen probes. Pure.

A probe is a run at one arrival rate. The rate is doubled until the objective is broken; then the
bracket between the highest rate that kept it and the lowest that did not is halved, in the
logarithm of the rate, and both its ends are looked at again. Near the knee a probe is a draw: a
percentile of a few thousand requests, which come in clusters, is off by 10 % and more. So no single
probe decides: looks at one rate are taken together (their median), a rate whose looks disagree
opens the bracket again, and the capacity is where a line through the probes nearby crosses the
limit. In simulated queues its error is a third of that of the bracket's middle.
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

MAX_PROBES = 12
NARROW = 1.045  # high / low of a bracket that is narrow enough: four halvings of a doubling
NARROW_OF_GENERATOR = 1.2  # … whose upper end is the load generator's limit, not the server's
SURE = 1.1  # high / low of the range that likely holds the capacity: good enough to stop
HALVINGS = 4  # of the first rate, before giving up
STALE = 2  # after so many steps up from below, an upper end that was seen only once is doubted

KEEPS_UP = 0.95  # of what was offered; below, a backlog grew as long as the probe lasted


@dataclass(frozen=True)
class Probe:
    """What a run at one arrival rate has shown.

    Attributes:
        rate_per_s: The arrival rate that was asked for.
        offered_per_s: Arrivals per second of the schedule as it was drawn.
        achieved_per_s: Requests per second of it that ended, failed ones included.
        latency_ms: Client side, counted from when the request was due; by name of slo.LATENCIES.
            None where no request succeeded.
        requests: How many ended, failed ones included.
        failures: How many of them failed.
        invalid_because: Why the run is not valid; empty of a valid one.
        server_behind: Whether it is so only because the server left too many requests without an
            answer: that is no fault of the load generator, and shows a server past its capacity.
        only_late: Whether it is so only because requests were sent late. That is part of their
            latency, so an objective that is kept all the same is kept.
        server_cpu_ms: CPU time of the servers, all their processes together, for each prediction;
            None where it is not known.
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
        """How far inside `slo` it is, as Slo.margin; None where the run tells nothing of that."""
        margin = slo.margin(self.latency_ms, self.requests, self.failures)
        if self.achieved_per_s < KEEPS_UP * self.offered_per_s:
            margin = WORST
        told = (self.server_behind and margin <= 0) or (self.only_late and margin > 0)
        if self.invalid_because and not told:
            return None
        return margin

    @classmethod
    def of_run(
        cls, rate_per_s: float, figures: Mapping[str, Any], server_cpu_ms: float | None = None
    ) -> Probe:
        """The probe that an open loop's run at `rate_per_s` is; `figures` is its summary."""
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
            server_behind=not kept_up and busy <= judgement.BUSY,
            only_late=judgement.is_late(figures) and len(figures["invalid_because"]) == 1,
            server_cpu_ms=server_cpu_ms,
        )


class Stop(StrEnum):
    """Why a search ended."""

    FOUND = "found"
    OUT_OF_PROBES = "out of probes"
    GENERATOR = "load generator is the limit"
    NEVER_KEPT = "never kept"
    CUT_SHORT = "cut short"


@dataclass(frozen=True)
class Capacity:
    """A search and what it found.

    Attributes:
        slo: What had to be kept.
        stop: Why it ended.
        rate_per_s: The highest arrival rate that keeps the objective; None where no rate did. It
            is only a lower bound where `high_per_s` is None.
        low_per_s: It is likely not below.
        high_per_s: It is likely not above; None where no probe broke the objective.
        probes: All of them, in the order in which they were made.
    """

    slo: Slo
    stop: Stop
    rate_per_s: float | None
    low_per_s: float | None
    high_per_s: float | None
    probes: tuple[Probe, ...]

    @property
    def server_cpu_ms(self) -> float | None:
        """CPU time of the servers for each prediction, at the highest rate that kept it."""
        low = _Seen.of(self.probes, self.slo).low
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
            lowest = said(min(probe.rate_per_s for probe in self.probes))
            if self.stop is Stop.GENERATOR:
                return f"{slo} is untested: the load generator is saturated at {lowest} requests/s"
            return f"{slo} is not met at {lowest} requests/s, the lowest rate tried"
        rate = said(self.rate_per_s)
        if self.low_per_s is None or self.high_per_s is None:
            return f"{slo} is met at {rate} requests/s, the upper limit is unknown"
        return (
            f"{slo} is met up to {rate} requests/s "
            f"(likely range {said(self.low_per_s)} to {said(self.high_per_s)})"
        )

    @property
    def confidence(self) -> str:
        """What the probes have shown, in words."""
        margins = [(probe.rate_per_s, probe.margin(self.slo)) for probe in self.probes]
        kept = sorted(rate for rate, margin in margins if margin is not None and margin > 0)
        broken = sorted(rate for rate, margin in margins if margin is not None and margin <= 0)
        # Below the lowest that broke it and above the highest that kept it they are all of a mind.
        surely = [rate for rate in kept if not broken or rate < broken[0]]
        surely_not = [rate for rate in broken if not kept or rate > kept[-1]]
        between = len(kept) + len(broken) - len(surely) - len(surely_not)
        parts = []
        if surely:
            parts.append(
                f"met by all probes up to {said(surely[-1])}/s "
                f"({_probes(surely.count(surely[-1]))} at that rate)"
            )
        if between:
            parts.append(f"by {len(kept) - len(surely)} of {_probes(between)} in between")
        if surely_not:
            parts.append(
                f"{'met ' if not kept else ''}by none from {said(surely_not[0])}/s "
                f"({_probes(surely_not.count(surely_not[0]))} at that rate)"
            )
        untold = len(margins) - len(kept) - len(broken)
        if untold:
            parts.append(f"{untold} of {_probes(len(margins))} inconclusive")
        return ", ".join(parts)

    @property
    def because(self) -> str:
        """Why the search ended, in words."""
        match self.stop:
            case Stop.FOUND:
                return "the search converged"
            case Stop.OUT_OF_PROBES:
                return f"the search used all {_probes(len(self.probes))}"
            case Stop.CUT_SHORT:
                return f"the search was interrupted after {_probes(len(self.probes))}"
            case Stop.NEVER_KEPT:
                return "the search ended at its lowest rate"
            case Stop.GENERATOR:
                untold = [probe for probe in self.probes if probe.margin(self.slo) is None]
                lowest = min(untold, key=lambda probe: probe.rate_per_s)
                return (
                    f"the load generator is the limit at {said(lowest.rate_per_s)} requests/s: "
                    f"{'; '.join(lowest.invalid_because)}"
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
        """Read back what `document` gave; what follows from the probes is made anew."""
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
    """Search the highest arrival rate that keeps `slo`.

    Args:
        probe: Measures at an arrival rate per second. What it raises ends the search; of the
            probes that its caller has kept until then `conclude` makes a Capacity.
        slo: What has to be kept.
        start_rate: Arrivals per second of the first probe, > 0; best one that is surely kept.
        max_probes: Most probes, >= 1.

    Returns:
        The capacity, every probe, and why the search ended.

    Raises:
        SettingInvalid: `start_rate` or `max_probes` is no such number.
    """
    if not (math.isfinite(start_rate) and start_rate > 0):
        raise SettingInvalid(f"--start-rate is {start_rate:g}, expected more than 0 per second")
    if max_probes < 1:
        raise SettingInvalid(f"--probes is {max_probes}, expected 1 or more")
    probes: list[Probe] = []
    while not isinstance(step := next_step(probes, slo, start_rate, max_probes), Stop):
        probes.append(probe(step))
    return conclude(probes, slo, step)


def next_step(
    probes: Sequence[Probe], slo: Slo, start_rate: float, max_probes: int = MAX_PROBES
) -> float | Stop:
    """The arrival rate of the next probe after these, or why there is none."""
    if not probes:
        return _rounded(start_rate)
    seen = _Seen.of(probes, slo)
    if len(probes) >= max_probes:
        return seen.out_of_probes
    for one in seen.rates:
        if one.looks == 1 and not one.told:
            return one.rate  # other work on the machine may have been in the way
        if one.looks == 2 and one.at_odds:
            return one.rate
    low, high = seen.low, seen.high
    if high is None:
        return _rounded(2 * seen.rates[-1].rate)
    if low is None:
        return seen.below(high, start_rate)
    if high.looks == 1 and seen.kept_since(high, probes) >= STALE:
        return high.rate
    narrow = NARROW if high.told else NARROW_OF_GENERATOR
    if high.rate / low.rate > narrow:
        return _rounded(seen.between(low, high))
    once = [one for one in (low, high) if one.looks == 1]
    if once:
        return min(once, key=lambda one: abs(one.margin or 0.0)).rate
    if not high.told:
        return Stop.GENERATOR
    place = seen.crossing
    return Stop.FOUND if place.high - place.low <= math.log(SURE) else _rounded(math.exp(place.at))


def conclude(probes: Sequence[Probe], slo: Slo, stop: Stop) -> Capacity:
    """What these probes say of the capacity, after a search that ended because of `stop`."""
    seen = _Seen.of(probes, slo)
    low, high = seen.low, seen.high
    if low is None or high is None or not high.told:
        rate = None if low is None else low.rate
        return Capacity(slo, stop, rate, rate, None, tuple(probes))
    place = seen.crossing
    rate, least, most = (_rounded(math.exp(log)) for log in (place.at, place.low, place.high))
    return Capacity(slo, stop, rate, least, most, tuple(probes))


def said(rate: float) -> str:
    """A rate in words: three digits, which is more than a search can tell."""
    return f"{float(f'{rate:.3g}'):,g}" if rate < 1000 else f"{float(f'{rate:.3g}'):,.0f}"


@dataclass(frozen=True)
class _Rate:
    """Every look at one rate.

    `margins` are those of the probes that told something; `looks` counts the others too.
    """

    rate: float
    looks: int
    told: tuple[float, ...]

    @property
    def margin(self) -> float | None:
        return median(self.told) if self.told else None

    @property
    def kept(self) -> bool:
        return self.margin is not None and self.margin > 0

    @property
    def torn(self) -> bool:
        return bool(self.told) and min(self.told) <= 0 < max(self.told)

    @property
    def at_odds(self) -> bool:
        """Whether looks differ by more than luck: something else came between in one of them."""
        return self.torn and max(self.told) - min(self.told) >= 2 * crossing.CLEAR

    @property
    def trusted(self) -> tuple[float, ...]:
        """The margins without those that a majority has overruled."""
        if self.at_odds and len(self.told) > 2:
            return tuple(margin for margin in self.told if (margin > 0) == self.kept)
        return self.told


@dataclass(frozen=True)
class _Seen:
    """All looks so far, by rate, ascending."""

    rates: tuple[_Rate, ...]

    @classmethod
    def of(cls, probes: Sequence[Probe], slo: Slo) -> _Seen:
        margins: dict[float, list[float | None]] = {}
        for probe in probes:
            margins.setdefault(probe.rate_per_s, []).append(probe.margin(slo))
        return cls(
            tuple(
                _Rate(rate, len(looks), tuple(one for one in looks if one is not None))
                for rate, looks in sorted(margins.items())
            )
        )

    @property
    def high(self) -> _Rate | None:
        """The lowest rate that is not kept, or of which nothing is known."""
        return next((one for one in self.rates if not one.kept), None)

    @property
    def low(self) -> _Rate | None:
        """The highest rate below `high`; all of these are kept."""
        below = [one for one in self.rates if self.high is None or one.rate < self.high.rate]
        return below[-1] if below else None

    @property
    def out_of_probes(self) -> Stop:
        if self.high is not None and not self.high.told:
            return Stop.GENERATOR
        return Stop.OUT_OF_PROBES if self.low is not None else Stop.NEVER_KEPT

    def below(self, high: _Rate, start_rate: float) -> float | Stop:
        """Where to go when nothing has been kept below `high`."""
        if high.rate > start_rate / 2**HALVINGS * 1.01:
            return _rounded(high.rate / 2)
        if high.looks == 1:
            return high.rate
        return Stop.NEVER_KEPT if high.told else Stop.GENERATOR

    def kept_since(self, high: _Rate, probes: Sequence[Probe]) -> int:
        """How many rates below `high` were found to be kept after its only look."""
        rates = [probe.rate_per_s for probe in probes]
        since = set(rates[rates.index(high.rate) + 1 :])
        return sum(one.kept and one.rate in since for one in self.rates if one.rate < high.rate)

    def between(self, low: _Rate, high: _Rate) -> float:
        """Half way; where looks have disagreed, at the crossing of all of them."""
        width = math.log(high.rate / low.rate)
        part = 0.5
        if high.told and any(one.torn for one in self.rates):
            # Not so near to an end that the bracket would hardly get narrower.
            part = min(max((self.crossing.at - math.log(low.rate)) / width, 0.15), 0.85)
        return low.rate * math.exp(part * width)

    @property
    def crossing(self) -> crossing.Crossing:
        """Where the margin falls through 0; `low` is kept and `high` is broken."""
        looks = [(math.log(one.rate), margin) for one in self.rates for margin in one.trusted]
        return crossing.find(*np.array(looks).T)


def _rounded(rate: float) -> float:
    """Fit to be read, and the same number whenever it is asked for again."""
    return float(f"{rate:.4g}")


def _probes(number: int) -> str:
    return f"{number} probe{'' if number == 1 else 's'}"
