"""The Locust process of a run: measurement windows, progress, result, and the base user classes.

The parent process passes settings, folder and keys in the environment.
"""

from __future__ import annotations

import gc
import itertools
import json
import logging
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import gevent  # type: ignore[import-untyped]  # it ships no types
import numpy as np
from gevent import monkey
from gevent.threadpool import ThreadPool  # type: ignore[import-untyped]
from locust import User, events, task
from locust.env import Environment
from locust.exception import StopUser

from loadtest import arrivals, payloads
from loadtest.credentials import Credentials
from loadtest.dialects import payload_of
from loadtest.dispatch import Connection, Dispatcher, Request
from loadtest.locustfiles.coordination import (
    READY,
    WATCH_S,
    FolderRendezvous,
    LocustRendezvous,
    RemoteMaster,
    Rendezvous,
)
from loadtest.payloads import DIGITS
from loadtest.recorder import NS_PER_S, Outcome, Recorder, Window
from loadtest.settings import REQUEST_TIMEOUT_S, LoadTestSettings
from serving_core.protocols.open_inference.client import signature_of

SETTINGS = "LOADTEST_RUN_SETTINGS"
MODEL = "LOADTEST_RUN_MODEL"  # its inputs and outputs; empty for digits
FOLDER = "LOADTEST_RUN_FOLDER"
PROCESS = "LOADTEST_RUN_PROCESS"
PARENT = "LOADTEST_RUN_PARENT"
MASTER = "master"
REMOTE = "LOADTEST_RUN_REMOTE"  # the load generators are on other machines

BLOCKS = 10  # of a run that is not interleaved
PROGRESS_S = 1.0
DRAIN_S = 0.02
SWITCH_INTERVAL_S = 0.0005  # of the GIL: limits how long a computing thread delays a send

# The only patch of gevent's that is needed: Locust's sleeps must not block its event loop.
native_sleep = time.sleep
monkey.patch_time()

log = logging.getLogger(__name__)

Predict = Callable[[int, str], Outcome]


class RequestFailed(Exception):
    """A failure as Locust's own statistics show it."""


class LoadProcess:
    """One Locust process: its payload, recorder and measurement windows."""

    def __init__(self, environ: dict[str, str]) -> None:
        self.settings = LoadTestSettings.from_json(environ[SETTINGS])
        self.credentials = Credentials.from_environment(environ)
        settings = self.settings
        name, folder, remote = environ[PROCESS], Path(environ[FOLDER]), bool(environ.get(REMOTE))
        self._is_master = name == MASTER
        self._remote = remote
        self._parent = int(environ[PARENT])
        if remote and self._is_master:
            RemoteMaster(folder, settings)
        self.rendezvous: Rendezvous = FolderRendezvous(folder, name)
        if remote and not self._is_master:
            self.rendezvous = LocustRendezvous(settings, name, self._write)
        model = environ.get(MODEL)
        self.payload = payload_of(
            settings, self.credentials.js_key, signature_of(json.loads(model)) if model else None
        )
        self.recorder = Recorder(
            name,
            settings.protocol,
            self.payload.labels,
            payloads.misclassified(settings.model_folder) if settings.payload == DIGITS else None,
        )
        self.user_numbers = itertools.count()
        self.in_flight = 0
        self.dispatcher: Dispatcher | None = None
        self._scheduled = 0
        # When users of an interleaved run may send; None before the common start is known.
        self._blocks: list[tuple[int, int]] | None = None
        self._phase = "starting users"
        self._written = False

    @property
    def number(self) -> int:
        """The index of this load generator, from 0."""
        _, _, number = self.rendezvous.name.rpartition("-")
        return int(number) if number.isdecimal() else 0

    def listen(self) -> None:
        """Register with Locust's events; a master of several processes has no users."""
        # At once: a worker without its master receives no event.
        gevent.spawn(self._watch_parent)
        if self._is_master:
            return

        def warm_up(**_: Any) -> None:
            if self._phase == "starting users":
                self._phase = READY
                gevent.spawn(self._measure)

        def end(**_: Any) -> None:
            self._write()

        gevent.spawn(self._report_progress)
        events.spawning_complete.add_listener(warm_up)  # type: ignore[no-untyped-call]
        events.quitting.add_listener(end)  # type: ignore[no-untyped-call]

    def _measure(self) -> None:
        start_ns = self.rendezvous.start_ns()
        self._phase = "warming up"
        measuring_ns = start_ns + round(self.settings.warmup_s * NS_PER_S)
        self._blocks = self._send_intervals(measuring_ns)
        if self.settings.open:
            self._start_schedule(start_ns, measuring_ns)
        gevent.sleep(max(0.0, (measuring_ns - time.perf_counter_ns()) / NS_PER_S - 0.5))
        gc.collect()
        gc.freeze()  # exclude all loaded modules from collections
        self.recorder.open_windows(self._windows(measuring_ns))
        self._phase = "measuring"
        while not self.recorder.over:
            gevent.sleep(WATCH_S)
            self.recorder.sample_cpu()
        self.recorder.close()
        self._phase = "draining"
        last_s = time.monotonic() + 2 * REQUEST_TIMEOUT_S  # a rejected call is retried once
        while not self.drained and time.monotonic() < last_s:
            gevent.sleep(WATCH_S)
        self._write()

    def _windows(self, measuring_ns: int) -> list[Window]:
        if not self.settings.blocks:  # equal blocks, whose spread gives the confidence interval
            ends = [
                measuring_ns + _ns(self.settings.duration_s * n / BLOCKS) for n in range(BLOCKS + 1)
            ]
            return [Window(*pair, number) for number, pair in enumerate(itertools.pairwise(ends))]
        return [
            Window(
                measuring_ns + _ns(block.begin_s + block.settle_s),
                measuring_ns + _ns(block.end_s),
                block.number,
            )
            for block in self.settings.blocks
        ]

    def _send_intervals(self, measuring_ns: int) -> list[tuple[int, int]]:
        if not self.settings.blocks:
            return [(0, measuring_ns + _ns(self.settings.duration_s))]
        return [
            (0, measuring_ns),  # all runs share the warm-up
            *(
                (measuring_ns + _ns(block.begin_s), measuring_ns + _ns(block.end_s))
                for block in self.settings.blocks
            ),
        ]

    def wait_for_block(self, rng: random.Random) -> bool:
        """Wait until requests may be sent; False after the last block.

        Each user starts a block at a random time within its wait time: 50 simultaneous requests
        would be a burst that the run does not measure.
        """
        while True:
            now = time.perf_counter_ns()
            blocks = self._blocks
            if blocks is None and self._remote:
                # The server metrics are scraped before the start.
                while self._blocks is None:
                    gevent.sleep(WATCH_S)
                gevent.sleep(rng.uniform(0, self.settings.wait_ms[1] / 1000))
                continue
            if blocks is None:
                return True  # users start at the spawn rate
            block = next(((begins, ends) for begins, ends in blocks if now < ends), None)
            if block is None:
                return False
            if now >= block[0]:
                return True
            spread_s = rng.uniform(0, self.settings.wait_ms[1] / 1000)
            gevent.sleep((block[0] - now) / NS_PER_S + spread_s)

    def _start_schedule(self, start_ns: int, measuring_ns: int) -> None:
        """Start the dispatcher with this process's share of the arrivals."""
        settings = self.settings
        due_s = self._schedule()
        places = arrivals.share(len(due_s), self.number, settings.processes)
        due_ns = (due_s[places] * NS_PER_S).astype(np.int64) + start_ns
        self._scheduled = sum(
            int(np.count_nonzero((w.begins_ns <= due_ns) & (due_ns < w.ends_ns)))
            for w in self._windows(measuring_ns)
        )
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        (user,) = OpenLoopUser.running
        order = payloads.order(len(self.payload), settings.seed)
        self.dispatcher = Dispatcher(
            due_ns,
            [Request(int(order[p % len(order)]), f"{settings.seed}-{p}") for p in places.tolist()],
            user.new_connection,
            max(1, settings.max_in_flight // settings.processes),
            native_sleep,
        )
        self.dispatcher.start()

    def _schedule(self) -> arrivals.Times:
        """Arrival times in seconds from the common start: the warm-up, then the blocks."""
        settings = self.settings
        pieces = [(0.0, settings.warmup_s, 0)]
        if settings.blocks:
            pieces += [
                (settings.warmup_s + block.begin_s, settings.warmup_s + block.end_s, block.number)
                for block in settings.blocks
            ]
        else:
            pieces = [(0.0, settings.warmup_s + settings.duration_s, 0)]
        return np.concatenate(
            [
                begin_s
                + arrivals.schedule(
                    settings.arrivals, settings.rate, end_s - begin_s, settings.seed + number
                )
                for begin_s, end_s, number in pieces
                if end_s > begin_s
            ]
        )

    def drain_completed(self) -> Iterator[tuple[int, Outcome]]:
        """The dispatcher's completed requests: instances and outcomes."""
        done = self.dispatcher.done if self.dispatcher else ()
        while done:
            yield done.popleft()

    @property
    def drained(self) -> bool:
        """Whether every sent request is completed and recorded."""
        if self.dispatcher is not None:
            return self.dispatcher.finished and not self.dispatcher.done
        return not self.in_flight

    def _write(self) -> None:
        """Submit the result once, at the end of the run or on interruption."""
        if self._written:
            return
        self._written = True
        self.recorder.close()
        result = self.recorder.result()
        if self.dispatcher is not None:
            self.dispatcher.stop()
            result["offered"] = {
                "arrivals": self._scheduled,
                "unanswered": self.dispatcher.in_flight,
                "late_for_want_of_a_thread": self.dispatcher.delayed_by_limit,
            }
        self.rendezvous.submit(result)
        self._phase = "done"

    def _report_progress(self) -> None:
        while True:
            state = {"protocol": self.settings.protocol, "phase": self._phase}
            self.rendezvous.report(state | self.recorder.progress())
            # The start waits for every process's report.
            waiting = self._phase in (READY, "starting users")
            gevent.sleep(WATCH_S if waiting else PROGRESS_S)

    def _watch_parent(self) -> None:
        """Exit with the parent process, even if that was killed."""
        while os.getppid() == self._parent:
            gevent.sleep(PROGRESS_S)
        log.error("the parent process exited")
        if not self._is_master:
            self._write()
        os._exit(1)


def _ns(seconds: float) -> int:
    return round(seconds * NS_PER_S)


process = LoadProcess(dict(os.environ))
process.listen()
threads = ThreadPool(-(-process.settings.users // process.settings.processes))


def in_native_thread(predict: Predict, instance: int, puid: str) -> Outcome:
    """Send one request in a native thread, which also reads the clock.

    Both protocols need this. grpcio's gevent support runs every event of a call on the one event
    loop: with 50 users and an idle server that raised p99 from 4 ms to 175 ms. A REST request on
    gevent's sockets waits for the loop too.
    """
    outcome: Outcome = threads.apply(predict, (instance, puid))
    return outcome


class PredictionUser(User):
    """Base class of all users."""

    abstract = True
    request_type = ""
    request_name = ""

    def _tell_locust(self, outcome: Outcome) -> None:
        self.environment.events.request.fire(
            request_type=self.request_type,
            name=self.request_name,
            response_time=outcome.latency_us / 1000,
            response_length=0,
            exception=RequestFailed(outcome.failure) if outcome.failure else None,
            context={},
        )


class ClosedLoopUser(PredictionUser):
    """Sends a request, validates the response, waits; each user has its own instance order."""

    abstract = True

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        number = next(process.user_numbers)
        settings = process.settings
        self._rng = random.Random(f"{settings.seed}-{process.rendezvous.name}-{number}")  # noqa: S311
        self._instances: Iterator[int] = payloads.shuffled(len(process.payload), self._rng)

    def on_start(self) -> None:
        """Spread the start of users over a second, as in the original."""
        gevent.sleep(self._rng.uniform(0, min(1.0, process.settings.wait_ms[1] / 1000)))

    def wait_time(self) -> float:
        low, high = process.settings.wait_ms
        return self._rng.uniform(low, high) / 1000

    def predict(self, instance: int, puid: str) -> Outcome:
        """Send one request; a failure is an outcome, not an exception."""
        raise NotImplementedError

    @task
    def one_prediction(self) -> None:
        if not process.wait_for_block(self._rng):
            raise StopUser
        instance = next(self._instances)
        puid = str(self._rng.randrange(100_000_000))
        process.in_flight += 1
        try:
            outcome = self.predict(instance, puid)
            process.recorder.record(outcome, instance)
        finally:
            process.in_flight -= 1
        self._tell_locust(outcome)


class OpenLoopUser(PredictionUser):
    """One per process: the dispatcher's threads send its requests on schedule."""

    abstract = True
    running: ClassVar[list[OpenLoopUser]] = []

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self.running.append(self)

    def new_connection(self) -> Connection:
        """Create a connection for one native thread."""
        raise NotImplementedError

    @task
    def all_predictions(self) -> None:
        """Record completed requests outside the sending threads."""
        while not (process.recorder.over and process.drained):
            for instance, outcome in process.drain_completed():
                process.recorder.record(outcome, instance)
                self._tell_locust(outcome)
            gevent.sleep(DRAIN_S)
        raise StopUser
