"""Capacity of a running stack: a load test at each rate that the search asks for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from loadtest.capacity import MAX_PROBES, Capacity, Probe, find_capacity
from loadtest.credentials import Credentials
from loadtest.run_folder import RunFolder, read_json, write_json
from loadtest.settings import OPEN, LoadTestSettings
from loadtest.slo import Slo
from loadtest.summary import SUMMARY, keep_machine

START_RATE = 50.0
CAPACITY = "capacity.json"

Run = Callable[[LoadTestSettings, Credentials], Path]


def measure_capacity(
    settings: LoadTestSettings,
    credentials: Credentials,
    slo: Slo,
    run: Run,
    *,
    start_rate: float = START_RATE,
    max_probes: int = MAX_PROBES,
    told: Callable[[str], None] = lambda text: None,
) -> tuple[Capacity, Path]:
    """Search the highest arrival rate at which the stack keeps `slo`.

    Args:
        settings: Of each probe, but for its rate; `duration_s` is one probe's.
        credentials: The client's.
        slo: What has to be kept.
        run: Runs one load test and returns its folder.
        start_rate: Arrivals per second of the first probe.
        max_probes: Most load tests.
        told: Hears what is being done.

    Returns:
        What was found, and the folder `<time>-<protocol>-capacity`: capacity.json, every run.

    Raises:
        LoadTestError: A load test could not be made.
    """
    folder = RunFolder.create(settings.output, f"{settings.protocol}-capacity").path

    def probe(rate: float) -> Probe:
        told(f"{settings.protocol}: {rate:,.0f} arrivals per second")
        at_rate = replace(settings, loop=OPEN, rate=rate, output=folder)
        return Probe.of_run(rate, read_json(run(at_rate, credentials) / SUMMARY))

    found = find_capacity(probe, slo, start_rate, max_probes)
    keep_machine(folder)
    write_json(folder / CAPACITY, {"protocol": settings.protocol, **found.document()})
    return found, folder
