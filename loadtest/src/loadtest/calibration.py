"""Calibration: the load test's own overhead, against a server that responds immediately.

It gives the lowest measurable latency and the highest arrival rate of one load generator.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtest.credentials import Credentials
from loadtest.errors import LoadGeneratorFailed
from loadtest.run_folder import RunFolder, read_json, write_json
from loadtest.settings import GRPC_PREDICT, JS_PREDICT, OPEN, LoadTestSettings
from loadtest.summary import SUMMARY, keep_machine

FLOOR_RATE = 200.0
RATES = (500.0, 1_000.0, 1_500.0, 2_000.0, 2_500.0, 3_000.0, 4_000.0)
SECONDS = 5.0
WARM_UP_S = 1.0
CALIBRATION = "calibration.json"
# The instant server accepts any key.
KEYS = Credentials("instant", "instant", "instant")

Run = Callable[[LoadTestSettings, Credentials], Path]


@dataclass(frozen=True)
class Instant:
    """The ports of the instant server."""

    http_port: int
    grpc_port: int


def calibrate(
    output: Path,
    run: Run,
    rates: Sequence[float] = RATES,
    seconds: float = SECONDS,
    notify: Callable[[str], None] = lambda text: None,
) -> Path:
    """Measure the latency floor of both protocols and the highest valid rate of one process.

    Args:
        output: Parent of the new folder `<time>-calibration`.
        run: Runs one load test and returns its folder.
        rates: Arrivals per second, ascending; the first invalid one ends the search.
        seconds: Duration of each measurement.
        notify: Receives progress messages.

    Returns:
        The folder, with calibration.json and every run.

    Raises:
        LoadGeneratorFailed: The instant server or a load test failed.
    """
    folder = RunFolder.create(output, "calibration").path
    found: dict[str, Any] = {}
    with instant_server() as instant:
        for test_type in (JS_PREDICT, GRPC_PREDICT):

            def at(rate: float, test_type: str = test_type) -> Mapping[str, Any]:
                settings = _settings(instant, test_type, rate, seconds, folder)
                notify(f"{settings.protocol}: {rate:,.0f} arrivals/s")
                return read_json(run(settings, KEYS) / SUMMARY)

            protocol = "rest" if test_type == JS_PREDICT else "grpc"
            found[protocol] = measure(at, rates)
    keep_machine(folder)
    write_json(folder / CALIBRATION, found)
    return folder


def measure(at: Callable[[float], Mapping[str, Any]], rates: Sequence[float]) -> dict[str, Any]:
    """One protocol's latency floor and highest rate; `at` runs a load test at a rate."""
    low = at(FLOOR_RATE)
    kept: Mapping[str, Any] = low
    highest, limit = FLOOR_RATE, None
    for rate in rates:
        figures = at(rate)
        if not _kept(figures):
            figures = at(rate)  # repeated, as other work on the machine may have disturbed it
        if not _kept(figures):
            limit = [*figures["invalid_because"], *figures["failures_by_reason"]]
            break
        kept, highest = figures, rate
    return {
        "floor": {
            "rate": FLOOR_RATE,
            "valid": low["valid"],
            **{name: low["latency_ms"]["client"][name] for name in ("p50", "p99")},
            "lag_p99": low["latency_ms"]["lag"]["p99"],
        },
        "highest_rate": highest,
        "cpu_ms_per_request": round(
            kept["client_cpu"]["cores_used"] * kept["measured_s"] * 1000 / kept["requests"],
            3,
        ),
        "ended_by": limit,
    }


def _kept(figures: Mapping[str, Any]) -> bool:
    return bool(figures["valid"]) and not figures["failures"]


@contextmanager
def instant_server() -> Iterator[Instant]:
    """Run the instant server in its own process.

    Raises:
        LoadGeneratorFailed: It did not start.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "loadtest.instant_server"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None  # noqa: S101
        ports = process.stdout.readline().split()
        if len(ports) != 2:
            raise LoadGeneratorFailed("the instant server did not start")
        yield Instant(*map(int, ports))
    finally:
        process.terminate()
        process.communicate()


def _settings(
    instant: Instant, test_type: str, rate: float, seconds: float, folder: Path
) -> LoadTestSettings:
    return LoadTestSettings(
        client="instant",
        test_type=test_type,
        host=f"http://127.0.0.1:{instant.http_port}",
        grpc_endpoint=f"127.0.0.1:{instant.grpc_port}",
        oauth_endpoint=f"http://127.0.0.1:{instant.http_port}",
        loop=OPEN,
        rate=rate,
        duration_s=seconds,
        warmup_s=WARM_UP_S,
        output=folder,
    )
