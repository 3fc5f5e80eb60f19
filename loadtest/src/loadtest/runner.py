"""Runs one load test: the first request, the Locust processes, their end, the report."""

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

LOCUSTFILES = Path(__file__).parent / "locustfiles"
LOG = "locust.log"
MASTER = "master"

Address: TypeAlias = tuple[str, int]  # host and port

START = "start.json"  # as the Locust processes look for it
STOP = "stop"  # likewise the master of load generators elsewhere
READY = "ready"  # as they say it

# Of a load generator, unless the person's environment has another. The thread that sends a call
# waits for its answer on the socket itself, instead of being woken by a thread of grpc's that does.
GENERATOR_DEFAULTS = {"GRPC_EXPERIMENTS": "-event_engine_client"}

POLL_S = 0.1
START_AFTER_S = 0.3
OTHERS_S = 600.0  # for someone to start the load generators elsewhere
START_UP_S = 60.0  # Locust's imports on a slow machine, and its workers finding their master
STOP_S = 10.0
LOG_LINES = 15


def run_load_test(
    settings: LoadTestSettings, credentials: Credentials, bind: Address | None = None
) -> Path:
    """Measure, and write the report.

    Args:
        settings: What is done.
        credentials: The client's.
        bind: Where load generators on other machines are waited for, as many as `processes`; None
            to start them here.

    Returns:
        The run's folder below `settings.output`: settings, raw results, summary, plot, report.

    Raises:
        SettingInvalid: The model's folder holds no model, a schedule cannot be made.
        PreflightFailed: The first request is not answered rightly; no folder is made.
        LoadGeneratorFailed: A Locust process died or did not finish.
        LoadTestInterrupted: SIGINT or SIGTERM; the folder holds what was measured until then.
    """
    return run_together([settings], credentials, bind)[0]


def run_worker(settings: LoadTestSettings, credentials: Credentials, master: Address) -> None:
    """Be a load generator of a run that waits for it at `master`, until that has ended.

    Raises:
        SettingInvalid: As run_load_test.
        PreflightFailed: From here the first request is not answered rightly.
        LoadGeneratorFailed: The run did not end as it should, or never was there.
        KeyboardInterrupt: SIGINT or SIGTERM; the run is not valid without it.
    """
    check(settings)
    preflight.check(settings, credentials)
    with (
        tempfile.TemporaryDirectory(prefix="loadtest-") as folder,
        _stop_signals() as stop_wanted,
    ):
        fleet = Fleet(settings, credentials, RunFolder(Path(folder)))
        try:
            fleet.start_worker(master)
            while (status := fleet.worker_status()) is None:
                if stop_wanted.wait(POLL_S):
                    raise KeyboardInterrupt
            if status != 0:
                raise LoadGeneratorFailed(
                    f"Locust exited with status {status} before the end of the test"
                    f"{fleet.end_of_log()}"
                )
        finally:
            fleet.stop()


def run_together(
    runs: Sequence[LoadTestSettings], credentials: Credentials, bind: Address | None = None
) -> list[Path]:
    """Measure several runs that start at one moment, as interleaved ones do; see run_load_test."""
    for settings in runs:
        check(settings)
        preflight.check(settings, credentials)
    if len(runs) > 1 and any(settings.web_port is not None for settings in runs):
        raise SettingInvalid("--web-port is set, expected none for interleaved runs; remove it")
    protocols = [settings.protocol for settings in runs]
    # Of runs that share the servers nobody can tell whose requests these counted.
    pages = [
        metrics_pages(settings) if protocols.count(settings.protocol) == 1 else None
        for settings in runs
    ]
    fleets = []
    for settings in runs:
        folder = RunFolder.create(settings.output, settings.protocol)
        folder.write_settings(settings.document())
        fleets.append(Fleet(settings, credentials, folder))
    before = [Scraped(failure="the run did not start") for _ in runs]

    def look() -> None:
        before[:] = [scraped(settings, urls) for settings, urls in zip(runs, pages, strict=True)]

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
                look()
            for fleet in fleets:
                fleet.start(bind)
            if bind is None:
                interrupted = _wait(fleets, stop_wanted, display, START_UP_S)
            else:
                # Each load generator elsewhere asks for one prediction before it joins, and its
                # users wait for the start.
                interrupted = _wait(fleets, stop_wanted, display, OTHERS_S, look)
            if interrupted and bind is not None:
                _hand_in_early(fleets)
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
            last = scraped(fleet.settings, urls)
            fleet.folder.write_server_metrics(
                Reading(first.scrape, last.scrape, first.failure or last.failure)
            )
        if interrupted:
            fleet.folder.write_settings(fleet.settings.document(interrupted=True))
        if interrupted or failure:
            with suppress(ResultUnreadable):  # stopped before there was anything
                write_report(fleet.folder.path)
        else:
            write_report(fleet.folder.path)
    if failure:
        raise failure
    if interrupted:
        raise LoadTestInterrupted(fleets[-1].folder.path)
    return [fleet.folder.path for fleet in fleets]


def metrics_pages(settings: LoadTestSettings) -> list[str] | None:
    """Where the servers' metrics are; None if they are not to be read."""
    if settings.server_metrics is None:
        return None
    return server_metrics.urls(settings.server_metrics, settings.protocol)


@dataclass(frozen=True)
class Scraped:
    """What a scrape gave, or why it gave nothing."""

    scrape: Scrape | None = None
    failure: str | None = None


def scraped(settings: LoadTestSettings, urls: list[str] | None) -> Scraped:
    """Read the servers' metrics; what goes wrong is for the report, not the end of the run."""
    if not urls:
        return Scraped(failure=f"no target has the label protocol={settings.protocol}")
    try:
        return Scraped(server_metrics.scrape(urls, settings.protocol))
    except (OSError, ValueError) as error:
        return Scraped(failure=f"scraping {', '.join(urls)} failed: {error}")


def check(settings: LoadTestSettings) -> None:
    """Refuse, in a sentence, what a Locust process would only fail at.

    Raises:
        SettingInvalid: The model's folder holds no model, a schedule cannot be made.
    """
    payloads.model_wrong(settings.model_folder)
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
    """Until every result is there; True if a signal came first."""
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
            # Late enough for each to have read it.
            start_ns = time.perf_counter_ns() + round(START_AFTER_S * NS_PER_S)
            for fleet in fleets:
                fleet.begin(start_ns)
        if time.monotonic() > deadline:
            raise LoadGeneratorFailed(
                f"Locust did not finish within {limit_s:.0f} s{fleets[0].end_of_log()}"
            )
        display.show([one for fleet in fleets for one in fleet.progress])
    return False


def _hand_in_early(fleets: Sequence[Fleet]) -> None:
    """Ask load generators elsewhere for what they have measured until now."""
    for fleet in fleets:
        (fleet.folder.path / STOP).touch()
    deadline = time.monotonic() + STOP_S
    while time.monotonic() < deadline and not all(fleet.finished for fleet in fleets):
        time.sleep(POLL_S)


@contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """Set on SIGINT and SIGTERM, instead of what these do: no process is left half stopped."""
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
    _running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    _has_master: bool = False

    def start(self, bind: Address | None = None) -> None:
        """Start the load generators, or with `bind` only the master of those elsewhere."""
        self._has_master = self.settings.processes > 1 or bind is not None
        (self.folder.path / "progress").mkdir()
        _ = self.folder.raw
        with (self.folder.path / LOG).open("ab") as log:
            if not self._has_master:
                self._start("locust", self._load(), log)
                return
            host, port = ("127.0.0.1", _free_port()) if bind is None else bind
            arrive_s = int(START_UP_S if bind is None else OTHERS_S)
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
        """Start one load generator of the run that waits at `master`."""
        with (self.folder.path / LOG).open("ab") as log:
            # A name of its own: its users' waits and digits are drawn from it.
            name = f"remote-x{secrets.token_hex(8)}"
            self._start(name, _of_master(*master), log, remote=True)

    def worker_status(self) -> int | None:
        """How that one has ended; None while it runs."""
        (process,) = self._running.values()
        return process.poll()

    @property
    def progress(self) -> list[dict[str, Any]]:
        """What the load generators have said last."""
        return progress.read(self.folder.path / "progress")

    @property
    def ready(self) -> bool:
        """Whether every load generator has its users."""
        said = self.progress
        return len(said) == self.settings.processes and all(one["phase"] == READY for one in said)

    def begin(self, start_ns: int) -> None:
        """Tell every load generator when the common clock starts."""
        partial = self.folder.path / f"{START}.partial"
        partial.write_text(json.dumps({"start_ns": start_ns}), encoding="utf-8")
        partial.replace(self.folder.path / START)

    def clean_up(self) -> None:
        """Remove what only a run that goes on needs."""
        shutil.rmtree(self.folder.path / "progress", ignore_errors=True)
        for name in (START, STOP):
            (self.folder.path / name).unlink(missing_ok=True)

    @property
    def finished(self) -> bool:
        return not self._unfinished()

    def check(self) -> None:
        """Notice a process that has ended before its result was there.

        Raises:
            LoadGeneratorFailed: One has; with the end of the log.
        """
        ended = {name: process.poll() for name, process in self._running.items()}
        needed = self._unfinished()
        for name, status in ended.items():
            if status is not None and needed and name in {*needed, MASTER}:
                how = f"on signal {-status}" if status < 0 else f"with status {status}"
                raise LoadGeneratorFailed(
                    f"Locust process {name} exited {how} before the end of the test"
                    f"{self.end_of_log()}"
                )

    def terminate(self) -> None:
        """Ask every process that still runs to end."""
        for process in self._running.values():
            process.terminate()

    def stop(self) -> None:
        """End every process that still runs: by request, then by force."""
        self.terminate()
        deadline = time.monotonic() + STOP_S
        for process in self._running.values():
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._running.clear()

    def end_of_log(self) -> str:
        """For the end of a sentence."""
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
            *("--exit-code-on-error", "0"),  # failures are counted, not a crash
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
            "LOADTEST_RUN_FOLDER": str(self.folder.path.resolve()),
            "LOADTEST_RUN_PROCESS": name,
            "LOADTEST_RUN_PARENT": str(os.getpid()),
            "LOADTEST_RUN_REMOTE": "1" if remote else "",
            # Requests are sent in native threads, whose locks and sockets must be Python's own.
            "LOCUST_SKIP_MONKEY_PATCH": "1",
            "PYTHONSAFEPATH": "1",
            "PYTHONUNBUFFERED": "1",
        }
        locustfile = LOCUSTFILES / f"{self.settings.protocol}_user.py"
        command = [sys.executable, "-m", "locust", "-f", str(locustfile), "--only-summary"]
        self._running[name] = subprocess.Popen(
            [*command, *options],
            env=environment,
            cwd=self.folder.path,  # no settings file of Locust's lies there
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is ours to pass on
        )


def _of_master(host: str, port: int) -> list[str]:
    return ["--worker", "--master-host", host, "--master-port", str(port)]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
