"""What every Locust process of a run does around its users: the window, the progress, the end.

The process that has started it gives the settings, the folder and the keys in the environment.
"""

from __future__ import annotations

import gc
import itertools
import json
import logging
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent  # type: ignore[import-untyped]  # it ships no types
from locust import User, events, task
from locust.env import Environment
from locust.exception import StopUser

from loadtest import payloads
from loadtest.credentials import Credentials
from loadtest.recorder import Outcome, Recorder
from loadtest.run_folder import RunFolder
from loadtest.settings import REQUEST_TIMEOUT_S, LoadTestSettings

SETTINGS = "LOADTEST_RUN_SETTINGS"
FOLDER = "LOADTEST_RUN_FOLDER"
PROCESS = "LOADTEST_RUN_PROCESS"
PARENT = "LOADTEST_RUN_PARENT"
MASTER = "master"
PROGRESS_S = 1.0
WATCH_S = 0.05

log = logging.getLogger(__name__)


class RequestFailed(Exception):
    """What Locust's own statistics show of a failure."""


class LoadProcess:
    """One Locust process: what its users send, what it records, when it measures."""

    def __init__(self, environ: dict[str, str]) -> None:
        self.settings = LoadTestSettings.from_json(environ[SETTINGS])
        self.credentials = Credentials.from_environment(environ)
        self.name = environ[PROCESS]
        self._folder = RunFolder(Path(environ[FOLDER]))
        self._parent = int(environ[PARENT])
        settings = self.settings
        self.payloads = payloads.build(settings.payload, settings.data_size, settings.seed)
        self.recorder = Recorder(
            self.name,
            settings.protocol,
            self.payloads.labels,
            payloads.model_wrong(settings.model_folder) if self.payloads.labels else None,
        )
        self.user_numbers = itertools.count()
        self.in_flight = 0
        self._phase = "starting users"
        self._written = False

    def listen(self) -> None:
        """Take part in Locust's events. The master of several has no users, and no part."""
        # At once: a worker whose master is gone waits for it without any event.
        gevent.spawn(self._watch_parent)
        if self.name == MASTER:
            return

        def warm_up(**_: Any) -> None:
            if self._phase == "starting users":
                self._phase = "warming up"
                gevent.spawn(self._measure)

        def end(**_: Any) -> None:
            self._write()

        gevent.spawn(self._report_progress)
        events.spawning_complete.add_listener(warm_up)  # type: ignore[no-untyped-call]
        events.quitting.add_listener(end)  # type: ignore[no-untyped-call]

    def _measure(self) -> None:
        gevent.sleep(self.settings.warmup_s)
        gc.collect()
        gc.freeze()  # so that no collection walks what Locust and we have loaded
        self.recorder.open(self.settings.duration_s)
        self._phase = "measuring"
        while not self.recorder.over:
            gevent.sleep(WATCH_S)
        self.recorder.close()
        self._phase = "waiting for the last answers"
        last_s = time.monotonic() + 2 * REQUEST_TIMEOUT_S  # a refused call is made again
        while self.in_flight and time.monotonic() < last_s:
            gevent.sleep(WATCH_S)
        self._write()

    def _write(self) -> None:
        """Leave the result; once, whether the run ends or is ended."""
        if self._written:
            return
        self._written = True
        self.recorder.close()
        target = self._folder.raw_file(self.name)
        partial = target.with_suffix(".partial")
        partial.write_text(json.dumps(self.recorder.result(), indent=2), encoding="utf-8")
        partial.replace(target)
        self._phase = "done"

    def _report_progress(self) -> None:
        folder = self._folder.path / "progress"
        folder.mkdir(exist_ok=True)
        partial = folder / f"{self.name}.partial"
        while True:
            text = json.dumps({"phase": self._phase, **self.recorder.progress()})
            partial.write_text(text, encoding="utf-8")
            partial.replace(folder / f"{self.name}.json")
            gevent.sleep(PROGRESS_S)

    def _watch_parent(self) -> None:
        """End with the process that started this one, even if that was killed."""
        while os.getppid() == self._parent:
            gevent.sleep(PROGRESS_S)
        log.error("the process that started the load test is gone")
        if self.name != MASTER:
            self._write()
        os._exit(1)


process = LoadProcess(dict(os.environ))
process.listen()


class PredictionUser(User):
    """Asks for one prediction, judges the answer, waits; each user in an order of its own."""

    abstract = True
    request_type = ""
    request_name = ""

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        number = next(process.user_numbers)
        settings = process.settings
        self._rng = random.Random(f"{settings.seed}-{process.name}-{number}")  # noqa: S311
        self._instances: Iterator[int] = payloads.in_own_order(len(process.payloads), self._rng)

    def on_start(self) -> None:
        """Locust starts a second's users at once; the original spread them over it."""
        gevent.sleep(self._rng.uniform(0, min(1.0, process.settings.wait_ms[1] / 1000)))

    def wait_time(self) -> float:
        low, high = process.settings.wait_ms
        return self._rng.uniform(low, high) / 1000

    def predict(self, instance: int, puid: str) -> Outcome:
        """One request for the instance of that index. Every failure is an outcome."""
        raise NotImplementedError

    @task
    def one_prediction(self) -> None:
        if process.recorder.over:
            raise StopUser
        instance = next(self._instances)
        puid = str(self._rng.randrange(100_000_000))
        process.in_flight += 1
        try:
            outcome = self.predict(instance, puid)
            process.recorder.record(outcome, instance)
        finally:
            process.in_flight -= 1
        self.environment.events.request.fire(
            request_type=self.request_type,
            name=self.request_name,
            response_time=outcome.latency_us / 1000,
            response_length=0,
            exception=RequestFailed(outcome.failure) if outcome.failure else None,
            context={},
        )
