"""Measures the capacity of a running stack, with a load test per probe."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from loadtest import capacity_report
from loadtest.capacity import (
    MAX_PROBES,
    Capacity,
    Probe,
    Stop,
    conclude,
    find_capacity,
)
from loadtest.credentials import Credentials
from loadtest.run_folder import RunFolder, read_json, write_json
from loadtest.settings import OPEN, LoadTestSettings
from loadtest.slo import Slo
from loadtest.summary import SUMMARY, keep_machine

START_RATE = 50.0

Run = Callable[[LoadTestSettings, Credentials], Path]


def measure_capacities(
    wanted: Sequence[LoadTestSettings],
    credentials: Callable[[LoadTestSettings], Credentials],
    slo: Slo,
    run: Run,
    *,
    start_rate: float = START_RATE,
    max_probes: int = MAX_PROBES,
    notify: Callable[[str], None] = lambda text: None,
) -> Path:
    """Search the highest arrival rate at which the stack meets `slo`, protocol by protocol.

    Args:
        wanted: The settings of a probe for each protocol, without its rate.
        credentials: Returns the client's keys for the settings.
        slo: The objective.
        run: Runs one load test and returns its folder.
        start_rate: Arrival rate of the first probe, requests per second.
        max_probes: Maximum number of probes per protocol.
        notify: Receives progress messages.

    Returns:
        The folder `<time>-capacity`: capacity.json, its page and plot, every run.

    Raises:
        LoadTestError: A load test failed; the results until then are kept.
    """
    folder = RunFolder.create(wanted[0].output, "capacity").path
    keep_machine(folder)
    document: dict[str, Any] = {}
    for settings in wanted:
        measured = _probe(settings, credentials(settings), run, folder / settings.protocol, notify)
        done: list[Probe] = []

        def probe(
            rate: float, measured: Callable[[float], Probe] = measured, done: list[Probe] = done
        ) -> Probe:
            done.append(measured(rate))
            return done[-1]

        found: Capacity | None = None
        try:
            found = find_capacity(probe, slo, start_rate, max_probes)
        finally:  # keep partial results, also on Ctrl-C
            if found is None and done:
                found = conclude(done, slo, Stop.INTERRUPTED)
            if found is not None:
                document[settings.protocol] = found.document()
                write_json(folder / capacity_report.CAPACITY, document)
                capacity_report.write(folder)
    return folder


def _probe(
    settings: LoadTestSettings,
    credentials: Credentials,
    run: Run,
    output: Path,
    notify: Callable[[str], None],
) -> Callable[[float], Probe]:
    """A function that probes a rate with a load test."""

    def probe(rate: float) -> Probe:
        notify(f"{settings.protocol}: {rate:,.0f} arrivals/s")
        at_rate = replace(settings, loop=OPEN, rate=rate, output=output)
        figures = read_json(run(at_rate, credentials) / SUMMARY)
        cpu_ms = (figures["server_metrics"] or {}).get("cpu_ms")
        return Probe.of_run(rate, figures, cpu_ms)

    return probe
