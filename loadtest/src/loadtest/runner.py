"""Runs one load test: the first request, the Locust processes, their end, the report."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO

from loadtest import payloads, preflight, progress
from loadtest.credentials import Credentials
from loadtest.errors import LoadGeneratorFailed, LoadTestInterrupted
from loadtest.run_folder import ResultUnreadable, RunFolder
from loadtest.settings import REQUEST_TIMEOUT_S, LoadTestSettings
from loadtest.summary import write_report

LOCUSTFILES = Path(__file__).parent / "locustfiles"
LOG = "locust.log"
MASTER = "master"

POLL_S = 0.1
START_UP_S = 60.0  # Locust's imports on a slow machine, and its workers finding their master
STOP_S = 10.0
LOG_LINES = 15


def run_load_test(settings: LoadTestSettings, credentials: Credentials) -> Path:
    """Measure, and write the report.

    Returns:
        The run's folder below `settings.output`: settings, raw results, summary, plot, report.

    Raises:
        SettingInvalid: The model's folder holds no model.
        PreflightFailed: The first request is not answered rightly; no folder is made.
        LoadGeneratorFailed: A Locust process died or did not finish.
        LoadTestInterrupted: SIGINT or SIGTERM; the folder holds what was measured until then.
    """
    payloads.model_wrong(settings.model_folder)  # here, where it can be said in a sentence
    preflight.check(settings, credentials)
    folder = RunFolder.create(settings.output, settings.protocol)
    folder.write_settings(settings.document())
    with _stop_signals() as stop_wanted, progress.Display(settings) as display:
        fleet = Fleet(settings, credentials, folder)
        try:
            fleet.start()
            interrupted = _wait(fleet, settings, folder, stop_wanted, display)
        finally:
            fleet.stop()
            shutil.rmtree(folder.path / "progress", ignore_errors=True)
        if interrupted:
            folder.write_settings(settings.document(interrupted=True))
            with suppress(ResultUnreadable):  # stopped before there was anything
                write_report(folder.path)
            raise LoadTestInterrupted(folder.path)
    write_report(folder.path)
    return folder.path


def _wait(
    fleet: Fleet,
    settings: LoadTestSettings,
    folder: RunFolder,
    stop_wanted: threading.Event,
    display: progress.Display,
) -> bool:
    """Until every result is there; True if a signal came first."""
    limit_s = START_UP_S + settings.total_s + 2 * REQUEST_TIMEOUT_S
    deadline = time.monotonic() + limit_s
    while not fleet.finished:
        if stop_wanted.wait(POLL_S):
            return True
        fleet.check()
        if time.monotonic() > deadline:
            raise LoadGeneratorFailed(
                f"Locust has not finished within {limit_s:.0f} s{fleet.end_of_log()}"
            )
        display.show(progress.read(folder.path / "progress"))
    return False


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

    def start(self) -> None:
        several = self.settings.processes > 1
        (self.folder.path / "progress").mkdir()
        _ = self.folder.raw
        with (self.folder.path / LOG).open("ab") as log:
            if not several:
                self._start("locust", ["--headless", *self._load()], log)
                return
            port = str(_free_port())
            self._start(
                MASTER,
                [
                    *("--headless", "--master", *self._load()),
                    *("--expect-workers", str(self.settings.processes)),
                    *("--expect-workers-max-wait", str(int(START_UP_S))),
                    *("--master-bind-host", "127.0.0.1", "--master-bind-port", port),
                ],
                log,
            )
            for name in self._load_generators():
                self._start(
                    name, ["--worker", "--master-host", "127.0.0.1", "--master-port", port], log
                )

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
                how = f"by signal {-status}" if status < 0 else f"with status {status}"
                raise LoadGeneratorFailed(
                    f"the Locust process {name} ended {how} before the test was over"
                    f"{self.end_of_log()}"
                )

    def stop(self) -> None:
        """End every process that still runs: by request, then by force."""
        for process in self._running.values():
            process.terminate()
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
        return "; its log ends:\n  " + "\n  ".join(end) if end else "; its log is empty"

    def _load_generators(self) -> list[str]:
        if self.settings.processes == 1:
            return ["locust"]
        return [f"worker-{number}" for number in range(self.settings.processes)]

    def _unfinished(self) -> set[str]:
        return {name for name in self._load_generators() if not self.folder.raw_file(name).exists()}

    def _load(self) -> list[str]:
        return [
            *("--users", str(self.settings.users)),
            *("--spawn-rate", str(self.settings.hatch_rate)),
            *("--exit-code-on-error", "0"),  # failures are counted, not a crash
        ]

    def _start(self, name: str, options: list[str], log: IO[bytes]) -> None:
        environment = {
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


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
