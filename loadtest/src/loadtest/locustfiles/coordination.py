"""How the load generators of a run learn when it starts, and where their results go.

On one machine the run's folder is the meeting place, and its clock is everybody's. From another
machine nothing of that is seen: there a load generator speaks by Locust's own messages with the
master's process, which writes for it what a local one writes itself.
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

STOP = "stop"  # there when every process is to hand in what it has
START = "start.json"  # when the common clock starts: written once every process is ready
PROGRESS = "progress"
READY = "ready"
WATCH_S = 0.05
ANSWER_S = 30.0

# Kinds of messages.
SAID = "loadtest-said"
BEGIN = "loadtest-begin"
END = "loadtest-end"
RESULT = "loadtest-result"
RECEIVED = "loadtest-received"

# Of settings that may differ between machines: how each of them reaches the same servers.
OF_A_MACHINE = {"endpoint", "command"}

log = logging.getLogger(__name__)


class Meeting(Protocol):
    """What a load generator needs of the others.

    Attributes:
        name: Of this load generator in the run; final once the start is known.
    """

    name: str

    def say(self, progress: Mapping[str, Any]) -> None:
        """How far it is."""

    def start_ns(self) -> int:
        """Wait until the start is known; by the clock of `time.perf_counter_ns`."""

    def hand_in(self, result: Mapping[str, Any]) -> None:
        """Leave the result."""


class InFolder:
    """A load generator beside the process that has started the run."""

    def __init__(self, folder: Path, name: str) -> None:
        """See Meeting."""
        self.name = name
        self._folder = folder

    def say(self, progress: Mapping[str, Any]) -> None:
        write_whole(self._folder / PROGRESS / f"{self.name}.json", progress)

    def start_ns(self) -> int:
        path = self._folder / START
        while not path.exists():
            gevent.sleep(WATCH_S)
        return int(json.loads(path.read_text(encoding="utf-8"))["start_ns"])

    def hand_in(self, result: Mapping[str, Any]) -> None:
        write_whole(RunFolder(self._folder).raw_file(self.name), result)


class OverLocust:
    """A load generator on another machine than the master."""

    def __init__(self, settings: LoadTestSettings, name: str, end: Callable[[], None]) -> None:
        """Takes part once Locust has its runner; `end` hands in what there is."""
        self.name = name
        self._settings = compared(settings)
        self._runner: WorkerRunner | None = None
        self._start_ns: int | None = None
        self._received = False

        def begin(environment: Environment, msg: Any, **_: Any) -> None:
            self.name = msg.data["name"]
            self._start_ns = time.perf_counter_ns() + round(msg.data["start_in_s"] * NS_PER_S)

        def received(environment: Environment, msg: Any, **_: Any) -> None:
            self._received = True

        def meet(environment: Environment, **_: Any) -> None:
            runner = environment.runner
            assert isinstance(runner, WorkerRunner)  # noqa: S101  # started with --worker
            runner.register_message(BEGIN, begin)
            runner.register_message(RECEIVED, received)
            runner.register_message(END, lambda **_: gevent.spawn(end))
            self._runner = runner

        events.init.add_listener(meet)  # type: ignore[no-untyped-call]

    def say(self, progress: Mapping[str, Any]) -> None:
        if self._runner is not None:
            self._runner.send_message(SAID, {"settings": self._settings, "progress": {**progress}})

    def start_ns(self) -> int:
        while self._start_ns is None:
            gevent.sleep(WATCH_S)
        return self._start_ns

    def hand_in(self, result: Mapping[str, Any]) -> None:
        if self._runner is None:
            return
        self._runner.send_message(RESULT, {"result": json.dumps(result)})
        last_s = time.monotonic() + ANSWER_S
        while not self._received:
            if time.monotonic() > last_s:
                give_up(f"the master did not acknowledge the result within {ANSWER_S:g} s")
            gevent.sleep(WATCH_S)


class MasterOfRemotes:
    """In the master's process: for every load generator elsewhere, what a local one does itself."""

    def __init__(self, folder: Path, settings: LoadTestSettings) -> None:
        """Takes part once Locust has its runner."""
        self._folder = folder
        self._settings = compared(settings)
        self._names: dict[str, str] = {}  # of a client of Locust's, in the run
        self._done: set[str] = set()

        def meet(environment: Environment, **_: Any) -> None:
            runner = environment.runner
            assert isinstance(runner, MasterRunner)  # noqa: S101  # started with --master
            runner.register_message(SAID, self._said)
            runner.register_message(RESULT, self._result)
            gevent.spawn(self._begin, runner)
            gevent.spawn(self._watch, runner)

        events.init.add_listener(meet)  # type: ignore[no-untyped-call]

    def _said(self, environment: Environment, msg: Any, **_: Any) -> None:
        name = self._names.setdefault(msg.node_id, f"worker-{len(self._names)}")
        theirs = msg.data["settings"]
        unlike = [key for key, value in self._settings.items() if theirs.get(key) != value]
        if unlike:
            told = ", ".join(
                f"{key} is {theirs.get(key)}, expected {self._settings[key]}" for key in unlike
            )
            give_up(f"{msg.node_id} has unequal settings: {told}")
        write_whole(self._folder / PROGRESS / f"{name}.json", msg.data["progress"])

    def _result(self, environment: Environment, msg: Any, **_: Any) -> None:
        name = self._names[msg.node_id]
        result = json.loads(msg.data["result"])
        write_whole(RunFolder(self._folder).raw_file(name), {**result, "process": name})
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
        """A load generator that is lost makes the run worthless: end it at once."""
        stopped = False
        while True:
            gevent.sleep(WATCH_S)
            if not stopped and (self._folder / STOP).exists():
                stopped = True
                runner.send_message(END, {})
            alive = {one.id for one in runner.clients.values() if one.state != STATE_MISSING}
            lost = self._names.keys() - self._done - alive
            if lost:
                give_up(f"load generator {', '.join(sorted(lost))} quit or stopped responding")


def compared(settings: LoadTestSettings) -> dict[str, Any]:
    """The settings in which every load generator of a run has to agree."""
    return {key: one for key, one in settings.document().items() if key not in OF_A_MACHINE}


def write_whole(path: Path, document: Mapping[str, Any]) -> None:
    """So that a reader sees all of it or nothing."""
    path.parent.mkdir(exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(document, indent=2), encoding="utf-8")
    partial.replace(path)


def give_up(why: str) -> None:
    """End the process, and with it the run, which reads the log's end."""
    log.error(why)
    logging.shutdown()
    os._exit(1)
