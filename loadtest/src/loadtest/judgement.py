"""Validity of a run: whether the load generator distorted it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from monitoring.limits import (
    DISPATCH_LAG_P99_LOADED_S,
    DISPATCH_LAG_P99_S,
    GENERATOR_CPU,
    LIGHT_CPU,
)

ACHIEVED = 0.99


def faults(figures: Mapping[str, Any]) -> list[str]:
    """Reasons why the load generator makes a run invalid.

    Args:
        figures: `client_cpu` of a run; of an open loop also `offered` and the `lag` latency.
    """
    found = []
    share = figures["client_cpu"]["busiest_share_of_a_core"]
    if share is not None and share > GENERATOR_CPU:
        found.append(
            f"generator CPU utilization is {share * 100:.0f} %, expected at most "
            f"{GENERATOR_CPU * 100:.0f} %; use more load generators (WORKERS=) or a lower rate"
        )
    offered = figures.get("offered")
    if offered:
        found += _of_schedule(figures, offered)
    return found


def is_late(figures: Mapping[str, Any]) -> bool:
    """Whether the dispatch lag of an open loop exceeds its limit."""
    lag = figures["latency_ms"]["lag"]["p99"]
    share = figures["client_cpu"]["busiest_share_of_a_core"] or 0.0
    return lag is not None and lag > _lag_limit_ms(share)


def _lag_limit_ms(share: float) -> float:
    limit_s = DISPATCH_LAG_P99_S if share <= LIGHT_CPU else DISPATCH_LAG_P99_LOADED_S
    return limit_s * 1000


def _of_schedule(figures: Mapping[str, Any], offered: Mapping[str, Any]) -> list[str]:
    found = []
    arrivals, ended = offered["arrivals"], figures["requests"]
    if ended < ACHIEVED * arrivals:
        found.append(
            f"the completed share is {ended / arrivals * 100:.1f} % of {arrivals:,} arrivals, "
            f"expected at least {ACHIEVED * 100:.0f} %; use a lower rate"
        )
    late = offered["late_for_want_of_a_thread"]
    if late:
        limit = figures["settings"]["max_in_flight"]
        found.append(
            f"the number of arrivals delayed by --max-in-flight is {late:,}, expected 0; "
            f"raise the limit of {limit:,} or use a lower rate"
        )
    if is_late(figures):
        lag = figures["latency_ms"]["lag"]["p99"]
        share = figures["client_cpu"]["busiest_share_of_a_core"] or 0.0
        found.append(
            f"dispatch lag p99 is {lag:.2f} ms, expected at most {_lag_limit_ms(share):g} ms; "
            "stop other work on this machine or use a lower rate"
        )
    return found
