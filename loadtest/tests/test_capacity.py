"""The search against servers whose capacity is known, with probes that are draws."""

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from queue_simulation import latencies, percentile

from loadtest.capacity import (
    CONVERGED,
    MAX_PROBES,
    Capacity,
    Probe,
    Stop,
    conclude,
    find_capacity,
    next_step,
)
from loadtest.errors import SettingInvalid
from loadtest.slo import LATENCIES, Slo

SERVICE_S = 0.005
SERVICE_RATE = 1 / SERVICE_S
SLO = Slo.parse("p99<50ms")
LOST_MS = 10_000.0


def probe_of(rate: float, p99_ms: float, **changes: Any) -> Probe:
    latency = {**dict.fromkeys(LATENCIES, 1.0), "p99": p99_ms}
    fields: dict[str, Any] = {
        "rate_per_s": rate,
        "offered_per_s": rate,
        "achieved_per_s": rate,
        "latency_ms": latency,
        "requests": 10_000,
    }
    return Probe(**{**fields, **changes})


def mm1(rate: float) -> float:
    """The p99 of M/M/1 in milliseconds."""
    return math.log(100) / (SERVICE_RATE - rate) * 1000 if rate < SERVICE_RATE else LOST_MS


def mm1_capacity(limit_ms: float) -> float:
    return SERVICE_RATE - math.log(100) / limit_ms * 1000


MM1_CAPACITY = mm1_capacity(50)


def cliff(rate: float, capacity: float = 171.0) -> float:
    """The p99 of a server that does not queue until it is full."""
    return 6.0 if rate <= capacity else LOST_MS


def noisy(
    p99_ms: Callable[[float], float], spread: float, rng: np.random.Generator
) -> Callable[[float], Probe]:
    return lambda rate: probe_of(rate, p99_ms(rate) * math.exp(rng.normal(0, spread)))


def starts(seeds: int) -> list[tuple[np.random.Generator, float]]:
    """Another first rate and other luck each time."""
    return [
        (rng, float(rng.uniform(8, 60)))
        for rng in (np.random.default_rng(seed) for seed in range(seeds))
    ]


@pytest.mark.parametrize(
    ("limit_ms", "spread", "misses"),
    [(100, 0.0, 0), (100, 0.05, 0), (100, 0.1, 0), (50, 0.0, 0), (50, 0.05, 2)],
)
def test_the_capacity_of_mm1_is_found_within_five_percent(
    limit_ms: float, spread: float, misses: int
) -> None:
    """Near its knee even with probes that are off by 10 %.

    At 50 ms the server is half idle and p99 is as flat as the rate: 5 % of the one is 5 % of the
    other.
    """
    true, slo = mm1_capacity(limit_ms), Slo.parse(f"p99<{limit_ms}ms")
    missed = held = 0
    for rng, start in starts(200):
        found = find_capacity(noisy(mm1, spread, rng), slo, start)
        assert len(found.probes) <= MAX_PROBES
        assert found.rate_per_s is not None
        assert found.low_per_s is not None
        assert found.high_per_s is not None
        missed += abs(found.rate_per_s / true - 1) >= 0.05
        held += found.low_per_s <= true <= found.high_per_s
    assert missed <= misses
    assert held >= 186  # the range that is called likely holds the truth


def test_a_cliff_is_found_within_five_percent() -> None:
    for rng, start in starts(200):
        found = find_capacity(noisy(cliff, 0.1, rng), SLO, start)
        assert found.rate_per_s == pytest.approx(171, rel=0.025)
        assert found.low_per_s is not None
        assert found.high_per_s is not None
        assert found.low_per_s <= 171 <= found.high_per_s <= found.low_per_s * CONVERGED


def constant(count: int) -> np.ndarray:
    return np.full(count, SERVICE_S)


def test_the_capacity_of_a_drawn_md1_is_found_within_five_percent() -> None:
    """Every probe is a minute of a queue: its p99 is what that minute happens to give."""

    def p99_ms(rate: float, seconds: float, rng: np.random.Generator) -> float:
        return percentile(latencies(rate, seconds, constant, rng), 99) * 1000

    low, high = 100.0, 199.0
    for _ in range(10):  # the truth, from hours of the same queue
        middle = (low + high) / 2
        kept = p99_ms(middle, 10_000, np.random.default_rng(11)) < 50
        low, high = (middle, high) if kept else (low, middle)
    near = held = 0
    for rng, start in starts(100):
        found = find_capacity(
            lambda rate, rng=rng: probe_of(  # type: ignore[misc]
                rate, p99_ms(rate, 60, rng) if rate < 300 else LOST_MS
            ),
            SLO,
            start,
        )
        assert len(found.probes) <= MAX_PROBES
        assert found.rate_per_s is not None
        assert found.low_per_s is not None
        assert found.high_per_s is not None
        near += abs(found.rate_per_s / low - 1) < 0.05
        held += found.low_per_s <= low <= found.high_per_s
    assert near >= 97
    assert held >= 90


def test_one_wild_probe_does_not_decide() -> None:
    """Whichever probe something else on the machine spoils, the search gets over it."""
    for spoilt in range(8):
        made: list[float] = []

        def probe(rate: float, spoilt: int = spoilt, made: list[float] = made) -> Probe:
            made.append(rate)
            return probe_of(rate, LOST_MS if len(made) == spoilt + 1 else mm1(rate))

        found = find_capacity(probe, SLO, 25)
        assert found.rate_per_s == pytest.approx(MM1_CAPACITY, rel=0.1), spoilt


def test_it_doubles_then_halves_then_looks_again() -> None:
    found = find_capacity(lambda rate: probe_of(rate, cliff(rate)), SLO, 50)
    rates = [probe.rate_per_s for probe in found.probes]
    assert rates[:4] == [50, 100, 200, 141.4]
    assert found.stop is Stop.FOUND
    kept = max(rate for rate in rates if rate <= 171)
    broken = min(rate for rate in rates if rate > 171)
    assert broken / kept <= CONVERGED
    assert rates.count(kept) == rates.count(broken) == 2
    assert found.sentence == (
        f"p99<50ms is met up to {found.rate_per_s:.0f} requests/s "
        f"(likely range {kept:.0f} to {broken:.0f})"
    )
    assert found.confidence == (
        f"met by all probes up to {kept:.0f}/s (2 probes at that rate), "
        f"by none from {broken:.0f}/s (2 probes at that rate)"
    )
    assert found.because == "the search converged"


def test_a_rate_that_was_kept_by_luck_is_given_up() -> None:
    made: list[float] = []

    def probe(rate: float) -> Probe:
        made.append(rate)
        lucky = made == [50, 100]  # 100 is above the capacity and looks well at first
        return probe_of(rate, 45.0 if lucky else cliff(rate, 97))

    found = find_capacity(probe, SLO, 50)
    assert found.rate_per_s is not None
    assert found.rate_per_s < 100
    assert "in between" in found.confidence


def test_it_goes_down_when_the_first_rate_is_too_high() -> None:
    found = find_capacity(lambda rate: probe_of(rate, cliff(rate)), SLO, 1_000)
    assert found.stop is Stop.FOUND
    assert found.rate_per_s == pytest.approx(171, rel=0.05)


def test_never_met_is_reported() -> None:
    found = find_capacity(lambda rate: probe_of(rate, 60), SLO, 160)
    assert found.stop is Stop.NEVER_MET
    assert (found.rate_per_s, found.low_per_s, found.high_per_s) == (None, None, None)
    assert [probe.rate_per_s for probe in found.probes] == [160, 80, 40, 20, 10, 10]
    assert found.sentence == "p99<50ms is not met at 10 requests/s, the lowest rate tried"
    assert found.because == "the search ended at its lowest rate"
    assert found.confidence == "met by none from 10/s (2 probes at that rate)"


def test_running_out_of_probes_is_reported() -> None:
    found = find_capacity(lambda rate: probe_of(rate, mm1(rate)), SLO, 1, max_probes=9)
    assert found.stop is Stop.OUT_OF_PROBES
    assert len(found.probes) == 9
    assert found.low_per_s is not None
    assert found.high_per_s is not None
    assert found.low_per_s <= MM1_CAPACITY <= found.high_per_s
    assert found.because == "the search used all 9 probes"


def test_a_server_that_keeps_everything_has_a_lower_bound() -> None:
    found = find_capacity(lambda rate: probe_of(rate, 1), SLO, 10, max_probes=4)
    assert found.stop is Stop.OUT_OF_PROBES
    assert (found.rate_per_s, found.high_per_s) == (80, None)
    assert found.sentence == "p99<50ms is met at 80 requests/s, the upper limit is unknown"


def test_out_of_probes_without_one_that_kept() -> None:
    found = find_capacity(lambda rate: probe_of(rate, 60), SLO, 160, max_probes=2)
    assert found.stop is Stop.NEVER_MET


BUSY = "generator CPU utilization is 93 %"


def limited(rate: float) -> Probe:
    """A generator that cannot offer 1,000 requests per second, and a server that could."""
    return probe_of(rate, 6.0, invalid_because=(BUSY,) if rate > 1000 else ())


def test_the_generators_own_limit_is_not_the_servers() -> None:
    found = find_capacity(limited, SLO, 100)
    assert found.stop is Stop.GENERATOR
    assert found.rate_per_s is not None
    assert 1000 / 1.2 <= found.rate_per_s <= 1000
    assert found.high_per_s is None
    assert "the upper limit is unknown" in found.sentence
    assert BUSY in found.because
    assert "the load generator is the limit" in found.because
    assert "inconclusive" in found.confidence


def test_a_generator_that_cannot_do_anything() -> None:
    found = find_capacity(lambda rate: probe_of(rate, 6, invalid_because=(BUSY,)), SLO, 160)
    assert found.stop is Stop.GENERATOR
    assert found.rate_per_s is None
    assert found.sentence == (
        "p99<50ms is untested: the load generator is saturated at 10 requests/s"
    )


def test_a_run_that_is_not_valid_by_accident_is_made_again() -> None:
    made: list[float] = []

    def probe(rate: float) -> Probe:
        made.append(rate)
        return probe_of(rate, cliff(rate), invalid_because=("sent late",) * (len(made) % 3 == 2))

    found = find_capacity(probe, SLO, 50)
    assert found.rate_per_s == pytest.approx(171, rel=0.05)
    assert found.high_per_s is not None
    assert "inconclusive" in found.confidence


def test_a_generator_out_of_probes_says_so() -> None:
    assert find_capacity(limited, SLO, 100, max_probes=5).stop is Stop.GENERATOR


def test_a_server_that_falls_behind_breaks_it_though_the_run_is_not_valid() -> None:
    """2,000 requests without an answer make a run invalid: that is the server's doing."""

    def probe(rate: float) -> Probe:
        if rate <= 171:
            return probe_of(rate, 6.0)
        return probe_of(rate, LOST_MS, invalid_because=("sent late",), server_behind=True)

    found = find_capacity(probe, SLO, 50)
    assert found.stop is Stop.FOUND
    assert found.rate_per_s == pytest.approx(171, rel=0.05)


def test_an_invalid_run_never_keeps_it() -> None:
    probe = probe_of(100, 6.0, invalid_because=("sent late",), server_behind=True)
    assert probe.margin(SLO) is None


def test_an_objective_that_is_kept_though_requests_are_sent_late_is_kept() -> None:
    """How late they are is part of their latency; a broken one may be the lateness's doing."""
    late = {"invalid_because": ("sent over 1.3 ms late",), "only_late": True}
    assert probe_of(100, 6.0, **late).margin(SLO) > 0  # type: ignore[operator]
    assert probe_of(100, LOST_MS, **late).margin(SLO) is None
    figures = run_of(invalid_because=["sent late"])
    figures["latency_ms"]["lag"] = {"p99": 1.3}
    assert Probe.of_run(100, figures).only_late
    twice = run_of(invalid_because=["sent late", "wrong digits"])
    twice["latency_ms"]["lag"] = {"p99": 1.3}
    assert not Probe.of_run(100, twice).only_late


def test_a_backlog_that_only_the_end_of_the_probe_hides_breaks_it() -> None:
    generous = Slo.parse("p99<60s")
    assert probe_of(200, 4_000.0, achieved_per_s=171.0).margin(generous) < 0  # type: ignore[operator]
    assert probe_of(200, 4_000.0, achieved_per_s=199.0).margin(generous) > 0  # type: ignore[operator]


def test_server_cpu_is_that_at_the_highest_rate_that_kept_it() -> None:
    found = find_capacity(
        lambda rate: probe_of(rate, cliff(rate), server_cpu_ms=rate / 100), SLO, 50
    )
    kept = max(probe.rate_per_s for probe in found.probes if probe.rate_per_s <= 171)
    assert found.server_cpu_ms == pytest.approx(kept / 100)
    assert find_capacity(lambda rate: probe_of(rate, cliff(rate)), SLO, 50).server_cpu_ms is None


def test_probes_cut_short_still_say_something() -> None:
    """As after Ctrl-C: what was measured until then."""
    probes = [probe_of(rate, cliff(rate)) for rate in (50, 100, 200)]
    found = conclude(probes, SLO, Stop.OUT_OF_PROBES)
    assert found.low_per_s is not None
    assert found.high_per_s is not None
    assert 100 <= found.low_per_s <= found.high_per_s <= 200


def test_the_next_step_follows_from_the_probes_alone() -> None:
    found = find_capacity(lambda rate: probe_of(rate, mm1(rate)), SLO, 30)
    for number, probe in enumerate(found.probes):
        assert next_step(found.probes[:number], SLO, 30) == probe.rate_per_s
    assert next_step(found.probes, SLO, 30) is found.stop


@pytest.mark.parametrize(
    ("start", "most", "option"),
    [(0, 12, "--start-rate"), (math.nan, 12, "--start-rate"), (10, 0, "--probes")],
)
def test_no_search_starts_nowhere(start: float, most: int, option: str) -> None:
    with pytest.raises(SettingInvalid, match=option):
        find_capacity(lambda rate: probe_of(rate, 1), SLO, start, most)


@pytest.mark.parametrize("probe", [limited, lambda rate: probe_of(rate, mm1(rate))])
def test_a_capacity_survives_json(probe: Callable[[float], Probe]) -> None:
    found = find_capacity(probe, SLO, 100)
    document = found.document()
    again = Capacity.from_document(json.loads(json.dumps(document)))
    assert again == found
    assert again.document() == document


def run_of(**changes: Any) -> Mapping[str, Any]:
    figures: dict[str, Any] = {
        "requests": 1_000,
        "failures": 3,
        "measured_s": 10.0,
        "latency_ms": {
            "client": {**dict.fromkeys(LATENCIES, 2.0), "p66": 2.0},
            "lag": {"p99": 0.4},
        },
        "client_cpu": {"busiest_share_of_a_core": 0.3},
        "offered": {"arrivals": 1_004, "unanswered": 4, "late_for_want_of_a_thread": 0},
        "invalid_because": [],
    }
    return {**figures, **changes}


def test_a_run_becomes_a_probe() -> None:
    probe = Probe.of_run(99.5, run_of(), 1.25)
    assert probe == Probe(
        rate_per_s=99.5,
        offered_per_s=100.4,
        achieved_per_s=100.0,
        latency_ms=dict.fromkeys(LATENCIES, 2.0),
        requests=1_000,
        failures=3,
        server_cpu_ms=1.25,
    )


@pytest.mark.parametrize(
    ("busy", "requests", "late", "behind"),
    [
        (0.3, 1_000, 0, False),
        (0.3, 1_000, 7, True),
        (0.3, 900, 0, True),
        (0.9, 900, 7, False),  # then the generator is
    ],
)
def test_who_is_behind(busy: float, requests: int, late: int, behind: bool) -> None:
    probe = Probe.of_run(
        100,
        run_of(
            requests=requests,
            client_cpu={"busiest_share_of_a_core": busy},
            offered={"arrivals": 1_000, "unanswered": 0, "late_for_want_of_a_thread": late},
            invalid_because=["…"],
        ),
    )
    assert probe.server_behind is behind
