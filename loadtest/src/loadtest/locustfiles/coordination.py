"""Rendezvous of a run's load generators: the common start, progress and results.

Local load generators use files in the run's folder and share one clock. Remote ones exchange Locust
messages with the master, which writes the same files for them.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import gevent  # type: ignore[import-untyped]  # it ships no types
from locust import events
from locust.env import Environment
from locust.runners import STATE_MISSING, MasterRunner, WorkerRunner

from loadtest.recorder import NS_PER_S
from loadtest.run_folder import RunFolder
from loadtest.settings import LoadTestSettings

STOP = "stop"  # exists once every process must submit its partial result
START = "start.json"  # the common start, written once every process is ready
PROGRESS = "progress"
READY = "ready"
WATCH_S = 0.05
ANSWER_S = 30.0

# Message types.
REPORT = "loadtest-progress"
BEGIN = "loadtest-begin"
END = "loadtest-end"
RESULT = "loadtest-result"
RECEIVED = "loadtest-received"

# Settings that may differ between machines: how each reaches the same servers.
MACHINE_SETTINGS = {"endpoint", "command"}

log = logging.getLogger(__name__)


class Rendezvous(Protocol):
    """A load generator's link to the other processes of the run.

    Attributes:
        name: The name of this load generator; final once the start is known.
    """

    name: str

    def report(self, progress: Mapping[str, Any]) -> None:
        """Report the progress."""

    def start_ns(self) -> int:
        """Wait for the common start, by `time.perf_counter_ns`."""

    def submit(self, result: Mapping[str, Any]) -> None:
        """Submit the raw result."""


class FolderRendezvous:
    """The rendezvous of a local load generator."""

    def __init__(self, folder: Path, name: str) -> None:
        """See Rendezvous."""
        self.name = name
        self._folder = folder

    def report(self, progress: Mapping[str, Any]) -> None:
        write_atomically(self._folder / PROGRESS / f"{self.name}.json", progress)

    def start_ns(self) -> int:
        path = self._folder / START
        while not path.exists():
            gevent.sleep(WATCH_S)
        return int(json.loads(path.read_text(encoding="utf-8"))["start_ns"])

    def submit(self, result: Mapping[str, Any]) -> None:
        write_atomically(RunFolder(self._folder).raw_file(self.name), result)


class LocustRendezvous:
    """The rendezvous of a remote load generator."""

    def __init__(self, settings: LoadTestSettings, name: str, end: Callable[[], None]) -> None:
        """Register with Locust; `end` submits the partial result."""
        self.name = name
        self._settings = shared_settings(settings)
        self._runner: WorkerRunner | None = None
        self._start_ns: int | None = None
        self._received = False

        def begin(environment: Environment, msg: Any, **_: Any) -> None:
            self.name = msg.data["name"]
            self._start_ns = time.perf_counter_ns() + round(msg.data["start_in_s"] * NS_PER_S)

        def received(environment: Environment, msg: Any, **_: Any) -> None:
            self._received = True

        def on_init(environment: Environment, **_: Any) -> None:
            runner = environment.runner
            assert isinstance(runner, WorkerRunner)  # noqa: S101  # started with --worker
            runner.register_message(BEGIN, begin)
            runner.register_message(RECEIVED, received)
            runner.register_message(END, lambda **_: gevent.spawn(end))
            self._runner = runner

        events.init.add_listener(on_init)  # type: ignore[no-untyped-call]

    def report(self, progress: Mapping[str, Any]) -> None:
        if self._runner is not None:
            message = {"settings": self._settings, "progress": {**progress}}
            self._runner.send_message(REPORT, message)

    def start_ns(self) -> int:
        while self._start_ns is None:
            gevent.sleep(WATCH_S)
        return self._start_ns

    def submit(self, result: Mapping[str, Any]) -> None:
        if self._runner is None:
            return
        self._runner.send_message(RESULT, {"result": json.dumps(result)})
        last_s = time.monotonic() + ANSWER_S
        while not self._received:
            if time.monotonic() > last_s:
                abort(f"the master did not acknowledge the result within {ANSWER_S:g} s")
            gevent.sleep(WATCH_S)


class RemoteMaster:
    """The master's side: writes the files of every remote load generator."""

    def __init__(self, folder: Path, settings: LoadTestSettings) -> None:
        """Register with Locust."""
        self._folder = folder
        self._settings = shared_settings(settings)
        self._names: dict[str, str] = {}  # by Locust's client id
        self._done: set[str] = set()

        def on_init(environment: Environment, **_: Any) -> None:
            runner = environment.runner
            assert isinstance(runner, MasterRunner)  # noqa: S101  # started with --master
            runner.register_message(REPORT, self._on_report)
            runner.register_message(RESULT, self._result)
            gevent.spawn(self._begin, runner)
            gevent.spawn(self._watch, runner)

        events.init.add_listener(on_init)  # type: ignore[no-untyped-call]

    def _on_report(self, environment: Environment, msg: Any, **_: Any) -> None:
        name = self._names.setdefault(msg.node_id, f"worker-{len(self._names)}")
        theirs = msg.data["settings"]
        unlike = [key for key, value in self._settings.items() if theirs.get(key) != value]
        if unlike:
            differences = ", ".join(
                f"{key} is {theirs.get(key)}, expected {self._settings[key]}" for key in unlike
            )
            abort(f"{msg.node_id} has unequal settings: {differences}")
        write_atomically(self._folder / PROGRESS / f"{name}.json", msg.data["progress"])

    def _result(self, environment: Environment, msg: Any, **_: Any) -> None:
        name = self._names[msg.node_id]
        result = json.loads(msg.data["result"])
        write_atomically(RunFolder(self._folder).raw_file(name), {**result, "process": name})
        self._done.add(msg.node_id)
        runner = environment.runner
        assert isinstance(runner, MasterRunner)  # noqa: S101  # as above
        runner.send_message(RECEIVED, {}, msg.node_id)

    def _begin(self, runner: MasterRunner) -> None:
        path = self._folder / START
        while not path.exists():
            gevent.sleep(WATCH_S)
        start_ns = int(json.loads(path.read_text(encoding="utf-8"))["start_ns"])
        for client, name in self._names.items():
            start_in_s = (start_ns - time.perf_counter_ns()) / NS_PER_S
            runner.send_message(BEGIN, {"name": name, "start_in_s": start_in_s}, client)

    def _watch(self, runner: MasterRunner) -> None:
        """End the run as soon as a load generator is lost: its result would be invalid."""
        stopped = False
        while True:
            gevent.sleep(WATCH_S)
            if not stopped and (self._folder / STOP).exists():
                stopped = True
                runner.send_message(END, {})
            alive = {one.id for one in runner.clients.values() if one.state != STATE_MISSING}
            lost = self._names.keys() - self._done - alive
            if lost:
                abort(f"load generator {', '.join(sorted(lost))} quit or stopped responding")


def shared_settings(settings: LoadTestSettings) -> dict[str, Any]:
    """The settings that must be equal in every load generator of a run."""
    return {key: one for key, one in settings.document().items() if key not in MACHINE_SETTINGS}


def write_atomically(path: Path, document: Mapping[str, Any]) -> None:
    """Write JSON so that a reader never sees a partial file."""
    path.parent.mkdir(exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(document, indent=2), encoding="utf-8")
    partial.replace(path)


def abort(why: str) -> None:
    """Exit the process; the run then fails with the end of its log."""
    log.error(why)
    logging.shutdown()
    os._exit(1)
