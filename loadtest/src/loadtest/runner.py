"""Runs a load test: preflight request, Locust processes, report."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO, Any, TypeAlias

from loadtest import arrivals, live_metrics, payloads, preflight, progress, server_metrics
from loadtest.credentials import Credentials
from loadtest.errors import LoadGeneratorFailed, LoadTestInterrupted, SettingInvalid
from loadtest.recorder import NS_PER_S
from loadtest.run_folder import ResultUnreadable, RunFolder
from loadtest.server_metrics import Reading, Scrape
from loadtest.settings import REQUEST_TIMEOUT_S, LoadTestSettings
from loadtest.summary import write_report
from serving_core.protocols.open_inference.common import signature_document
from serving_core.tensors import Signature

LOCUSTFILES = Path(__file__).parent / "locustfiles"
LOG = "locust.log"
MASTER = "master"

Address: TypeAlias = tuple[str, int]  # host and port

START = "start.json"  # read by the Locust processes
STOP = "stop"  # read by the master of remote load generators
READY = "ready"  # a phase that load generators report

# Defaults of the load generators' environment. Without gRPC's event engine the sending thread polls
# the socket itself, instead of being woken by a gRPC thread.
GENERATOR_DEFAULTS = {"GRPC_EXPERIMENTS": "-event_engine_client"}

POLL_S = 0.1
START_AFTER_S = 0.3
REMOTE_START_S = 600.0  # for a person to start the remote load generators
START_UP_S = 60.0  # for Locust's imports on a slow machine and its workers' connections
STOP_S = 10.0
LOG_LINES = 15


def run_load_test(
    settings: LoadTestSettings, credentials: Credentials, bind: Address | None = None
) -> Path:
    """Run a load test and write its report.

    Args:
        settings: The run's settings.
        credentials: The client's keys.
        bind: Listen here for `processes` remote load generators; None starts local ones.

    Returns:
        The run's folder below `settings.output`: settings, raw results, summary, plot, report.

    Raises:
        SettingInvalid: The model folder, the schedule or the payload is invalid.
        PreflightFailed: The preflight request failed; there is no folder.
        LoadGeneratorFailed: A Locust process exited early or timed out.
        LoadTestInterrupted: SIGINT or SIGTERM; the folder holds the partial result.
    """
    return run_interleaved([settings], credentials, bind)[0]


def run_worker(settings: LoadTestSettings, credentials: Credentials, master: Address) -> None:
    """Run one load generator of the run at `master` until that ends.

    Raises:
        SettingInvalid: As run_load_test.
        PreflightFailed: The preflight request from this machine failed.
        LoadGeneratorFailed: The run failed or was not found.
        KeyboardInterrupt: SIGINT or SIGTERM; the run is then invalid.
    """
    check(settings)
    signature = preflight.check(settings, credentials)
    with (
        tempfile.TemporaryDirectory(prefix="loadtest-") as folder,
        _stop_signals() as stop_wanted,
    ):
        fleet = Fleet(settings, credentials, RunFolder(Path(folder)), signature)
        try:
            fleet.start_worker(master)
            while (status := fleet.worker_status()) is None:
                if stop_wanted.wait(POLL_S):
                    raise KeyboardInterrupt
            if status != 0:
                raise LoadGeneratorFailed(
                    f"Locust exited with status {status} before the end of the test"
                    f"{fleet.log_tail()}"
                )
        finally:
            fleet.stop()


def run_interleaved(
    runs: Sequence[LoadTestSettings], credentials: Credentials, bind: Address | None = None
) -> list[Path]:
    """Run several load tests with a common start, such as interleaved ones."""
    signatures = []
    for settings in runs:
        check(settings)
        signatures.append(preflight.check(settings, credentials))
    if len(runs) > 1 and any(settings.web_port is not None for settings in runs):
        raise SettingInvalid("--web-port is set, expected none for interleaved runs; remove it")
    protocols = [settings.protocol for settings in runs]
    # Server metrics cannot separate runs that share the servers.
    pages = [
        metrics_urls(settings) if protocols.count(settings.protocol) == 1 else None
        for settings in runs
    ]
    fleets = []
    for settings, signature in zip(runs, signatures, strict=True):
        folder = RunFolder.create(settings.output, settings.protocol)
        folder.write_settings(settings.document())
        fleets.append(Fleet(settings, credentials, folder, signature))
    before = [ScrapeResult(failure="the run did not start") for _ in runs]

    def scrape_before() -> None:
        before[:] = [try_scrape(settings, urls) for settings, urls in zip(runs, pages, strict=True)]

    failure: LoadGeneratorFailed | None = None
    interrupted = False
    with (
        _stop_signals() as stop_wanted,
        progress.Display(runs) as display,
        live_metrics.served(
            runs, lambda: [one for fleet in fleets for one in fleet.progress], display.note
        ),
    ):
        try:
            if bind is None:
                scrape_before()
            for fleet in fleets:
                fleet.start(bind)
            if bind is None:
                interrupted = _wait(fleets, stop_wanted, display, START_UP_S)
            else:
                # Each remote load generator sends a preflight request before it joins.
                interrupted = _wait(fleets, stop_wanted, display, REMOTE_START_S, scrape_before)
            if interrupted and bind is not None:
                _collect_partial_results(fleets)
        except LoadGeneratorFailed as error:
            failure = error
        finally:
            for fleet in fleets:
                fleet.terminate()
            for fleet in fleets:
                fleet.stop()
    for fleet, urls, first in zip(fleets, pages, before, strict=True):
        fleet.clean_up()
        if urls is not None:
            last = try_scrape(fleet.settings, urls)
            fleet.folder.write_server_metrics(
                Reading(first.scrape, last.scrape, first.failure or last.failure)
            )
        if interrupted:
            fleet.folder.write_settings(fleet.settings.document(interrupted=True))
        if interrupted or failure:
            with suppress(ResultUnreadable):  # stopped before the first result
                write_report(fleet.folder.path)
        else:
            write_report(fleet.folder.path)
    if failure:
        raise failure
    if interrupted:
        raise LoadTestInterrupted(fleets[-1].folder.path)
    return [fleet.folder.path for fleet in fleets]


def metrics_urls(settings: LoadTestSettings) -> list[str] | None:
    """The servers' /metrics URLs; None if they are not scraped."""
    if settings.server_metrics is None:
        return None
    return server_metrics.urls(settings.server_metrics, settings.protocol)


@dataclass(frozen=True)
class ScrapeResult:
    """A scrape, or why it failed."""

    scrape: Scrape | None = None
    failure: str | None = None


def try_scrape(settings: LoadTestSettings, urls: list[str] | None) -> ScrapeResult:
    """Scrape the servers' metrics; a failure is reported and does not end the run."""
    if not urls:
        return ScrapeResult(failure=f"no target has the label protocol={settings.protocol}")
    try:
        return ScrapeResult(server_metrics.scrape(urls, settings.protocol))
    except (OSError, ValueError) as error:
        return ScrapeResult(failure=f"scraping {', '.join(urls)} failed: {error}")


def check(settings: LoadTestSettings) -> None:
    """Check what would otherwise fail in a Locust process.

    Raises:
        SettingInvalid: The model folder or the schedule is invalid.
    """
    payloads.misclassified(settings.model_folder)
    if settings.open:
        seconds = settings.warmup_s + settings.measuring_s
        arrivals.schedule(settings.arrivals, settings.rate, seconds, settings.seed)


def _wait(
    fleets: Sequence[Fleet],
    stop_wanted: threading.Event,
    display: progress.Display,
    arrive_s: float,
    before_begin: Callable[[], None] = lambda: None,
) -> bool:
    """Wait for every result; True if a signal came first."""
    total_s = max(fleet.settings.total_s for fleet in fleets)
    limit_s = arrive_s + total_s + 2 * REQUEST_TIMEOUT_S
    deadline = time.monotonic() + limit_s
    started = False
    while not all(fleet.finished for fleet in fleets):
        if stop_wanted.wait(POLL_S):
            return True
        for fleet in fleets:
            fleet.check()
        if not started and all(fleet.ready for fleet in fleets):
            started = True
            before_begin()
            # Late enough for every process to have read it.
            start_ns = time.perf_counter_ns() + round(START_AFTER_S * NS_PER_S)
            for fleet in fleets:
                fleet.begin(start_ns)
        if time.monotonic() > deadline:
            raise LoadGeneratorFailed(
                f"Locust did not finish within {limit_s:.0f} s{fleets[0].log_tail()}"
            )
        display.show([one for fleet in fleets for one in fleet.progress])
    return False


def _collect_partial_results(fleets: Sequence[Fleet]) -> None:
    """Request the partial results of remote load generators."""
    for fleet in fleets:
        (fleet.folder.path / STOP).touch()
    deadline = time.monotonic() + STOP_S
    while time.monotonic() < deadline and not all(fleet.finished for fleet in fleets):
        time.sleep(POLL_S)


@contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set, so that all processes are stopped in order."""
    wanted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield wanted
        return

    def want(signum: int, frame: FrameType | None) -> None:
        wanted.set()

    before = {one: signal.signal(one, want) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield wanted
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


@dataclass
class Fleet:
    """The Locust processes of one run: one, or a master and its workers."""

    settings: LoadTestSettings
    credentials: Credentials = field(repr=False)
    folder: RunFolder
    signature: Signature | None
    _running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    _has_master: bool = False

    def start(self, bind: Address | None = None) -> None:
        """Start the load generators, or with `bind` only the master of remote ones."""
        self._has_master = self.settings.processes > 1 or bind is not None
        (self.folder.path / "progress").mkdir()
        _ = self.folder.raw
        with (self.folder.path / LOG).open("ab") as log:
            if not self._has_master:
                self._start("locust", self._load(), log)
                return
            host, port = ("127.0.0.1", _free_port()) if bind is None else bind
            arrive_s = int(START_UP_S if bind is None else REMOTE_START_S)
            self._start(
                MASTER,
                [
                    *("--master", *self._load()),
                    *("--expect-workers", str(self.settings.processes)),
                    *("--expect-workers-max-wait", str(arrive_s)),
                    *("--master-bind-host", host, "--master-bind-port", str(port)),
                ],
                log,
                remote=bind is not None,
            )
            for name in self._load_generators() if bind is None else ():
                self._start(name, _of_master(host, port), log)

    def start_worker(self, master: Address) -> None:
        """Start one load generator of the run at `master`."""
        with (self.folder.path / LOG).open("ab") as log:
            # A unique name: it seeds the users' wait times and instance order.
            name = f"remote-x{secrets.token_hex(8)}"
            self._start(name, _of_master(*master), log, remote=True)

    def worker_status(self) -> int | None:
        """The exit status of that load generator; None while it runs."""
        (process,) = self._running.values()
        return process.poll()

    @property
    def progress(self) -> list[dict[str, Any]]:
        """The latest reports of the load generators."""
        return progress.read(self.folder.path / "progress")

    @property
    def ready(self) -> bool:
        """Whether every load generator has started its users."""
        reports = self.progress
        ready = [one for one in reports if one["phase"] == READY]
        return len(ready) == len(reports) == self.settings.processes

    def begin(self, start_ns: int) -> None:
        """Publish the common start."""
        partial = self.folder.path / f"{START}.partial"
        partial.write_text(json.dumps({"start_ns": start_ns}), encoding="utf-8")
        partial.replace(self.folder.path / START)

    def clean_up(self) -> None:
        """Remove files that only a running test needs."""
        shutil.rmtree(self.folder.path / "progress", ignore_errors=True)
        for name in (START, STOP):
            (self.folder.path / name).unlink(missing_ok=True)

    @property
    def finished(self) -> bool:
        return not self._unfinished()

    def check(self) -> None:
        """Check for processes that exited without a result.

        Raises:
            LoadGeneratorFailed: One did; the message has the end of the log.
        """
        ended = {name: process.poll() for name, process in self._running.items()}
        needed = self._unfinished()
        for name, status in ended.items():
            if status is not None and needed and name in {*needed, MASTER}:
                how = f"on signal {-status}" if status < 0 else f"with status {status}"
                raise LoadGeneratorFailed(
                    f"Locust process {name} exited {how} before the end of the test"
                    f"{self.log_tail()}"
                )

    def terminate(self) -> None:
        """Send SIGTERM to every running process."""
        for process in self._running.values():
            process.terminate()

    def stop(self) -> None:
        """Stop every running process: SIGTERM, then SIGKILL."""
        self.terminate()
        deadline = time.monotonic() + STOP_S
        for process in self._running.values():
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._running.clear()

    def log_tail(self) -> str:
        """The end of the log, as a suffix of an error message."""
        try:
            lines = (self.folder.path / LOG).read_text("utf-8", errors="replace").splitlines()
        except OSError:
            return ""
        end = [line for line in lines if line.strip()][-LOG_LINES:]
        return f"; last lines of {LOG}:\n  " + "\n  ".join(end) if end else f"; {LOG} is empty"

    def _load_generators(self) -> list[str]:
        if not self._has_master:
            return ["locust"]
        return [f"worker-{number}" for number in range(self.settings.processes)]

    def _unfinished(self) -> set[str]:
        return {name for name in self._load_generators() if not self.folder.raw_file(name).exists()}

    def _load(self) -> list[str]:
        settings = self.settings
        # The schedule of an open loop is one user's in each process.
        users = settings.processes if settings.open else settings.users
        rate = float(users) if settings.open else settings.hatch_rate
        page = ["--headless"]
        if settings.web_port is not None:
            page = ["--autostart", "--web-host", "127.0.0.1", "--web-port", str(settings.web_port)]
        return [
            *page,
            *("--users", str(users)),
            *("--spawn-rate", str(rate)),
            *("--exit-code-on-error", "0"),  # failed requests are results
        ]

    def _start(
        self, name: str, options: list[str], log: IO[bytes], *, remote: bool = False
    ) -> None:
        environment = GENERATOR_DEFAULTS | {
            variable: value
            for variable, value in os.environ.items()
            if not variable.startswith("LOCUST_")  # Locust reads options there
        }
        environment |= self.credentials.environment()
        environment |= {
            "LOADTEST_RUN_SETTINGS": self.settings.to_json(),
            "LOADTEST_RUN_MODEL": (
                "" if self.signature is None else json.dumps(signature_document(self.signature))
            ),
            "LOADTEST_RUN_FOLDER": str(self.folder.path.resolve()),
            "LOADTEST_RUN_PROCESS": name,
            "LOADTEST_RUN_PARENT": str(os.getpid()),
            "LOADTEST_RUN_REMOTE": "1" if remote else "",
            # Native threads need Python's own locks and sockets.
            "LOCUST_SKIP_MONKEY_PATCH": "1",
            "PYTHONSAFEPATH": "1",
            "PYTHONUNBUFFERED": "1",
        }
        locustfile = LOCUSTFILES / f"{self.settings.protocol}_user.py"
        command = [sys.executable, "-m", "locust", "-f", str(locustfile), "--only-summary"]
        self._running[name] = subprocess.Popen(
            [*command, *options],
            env=environment,
            cwd=self.folder.path,  # has no Locust configuration file
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches only this process
        )


def _of_master(host: str, port: int) -> list[str]:
    return ["--worker", "--master-host", host, "--master-port", str(port)]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
