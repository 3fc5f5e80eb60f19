"""What every Locust process of a run does around its users: the windows, the progress, the end.

The process that has started it gives the settings, the folder and the keys in the environment.
"""

from __future__ import annotations

import gc
import itertools
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
from loadtest.dispatch import Connection, Dispatcher, Request
from loadtest.locustfiles.coordination import (
    READY,
    WATCH_S,
    InFolder,
    MasterOfRemotes,
    Meeting,
    OverLocust,
)
from loadtest.recorder import NS_PER_S, Outcome, Recorder, Window
from loadtest.settings import REQUEST_TIMEOUT_S, LoadTestSettings

SETTINGS = "LOADTEST_RUN_SETTINGS"
FOLDER = "LOADTEST_RUN_FOLDER"
PROCESS = "LOADTEST_RUN_PROCESS"
PARENT = "LOADTEST_RUN_PARENT"
MASTER = "master"
REMOTE = "LOADTEST_RUN_REMOTE"  # its load generators are on other machines

STRETCHES = 10
PROGRESS_S = 1.0
DRAIN_S = 0.02
# So often may a thread that computes keep the others from sending on time.
SWITCH_INTERVAL_S = 0.0005

# Of what Locust replaces by default, only this: its own waiting must not stop its event loop.
native_sleep = time.sleep
monkey.patch_time()

log = logging.getLogger(__name__)

Predict = Callable[[int, str], Outcome]


class RequestFailed(Exception):
    """What Locust's own statistics show of a failure."""


class LoadProcess:
    """One Locust process: what its users send, what it records, when it measures."""

    def __init__(self, environ: dict[str, str]) -> None:
        self.settings = LoadTestSettings.from_json(environ[SETTINGS])
        self.credentials = Credentials.from_environment(environ)
        settings = self.settings
        name, folder, remote = environ[PROCESS], Path(environ[FOLDER]), bool(environ.get(REMOTE))
        self._is_master = name == MASTER
        self._remote = remote
        self._parent = int(environ[PARENT])
        if remote and self._is_master:
            MasterOfRemotes(folder, settings)
        self.meeting: Meeting = InFolder(folder, name)
        if remote and not self._is_master:
            self.meeting = OverLocust(settings, name, self._write)
        self.payloads = settings.build_payloads()
        self.recorder = Recorder(
            name,
            settings.protocol,
            self.payloads.labels,
            payloads.model_wrong(settings.model_folder) if self.payloads.labels else None,
        )
        self.user_numbers = itertools.count()
        self.in_flight = 0
        self.dispatcher: Dispatcher | None = None
        self._planned = 0
        # When users of an interleaved run may send; None until the common start is known.
        self._turns: list[tuple[int, int]] | None = None
        self._phase = "starting users"
        self._written = False

    @property
    def number(self) -> int:
        """Its place among the load generators, from 0."""
        _, _, number = self.meeting.name.rpartition("-")
        return int(number) if number.isdecimal() else 0

    def listen(self) -> None:
        """Take part in Locust's events. The master of several has no users, and no part."""
        # At once: a worker whose master is gone waits for it without any event.
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
        start_ns = self.meeting.start_ns()
        self._phase = "warming up"
        measuring_ns = start_ns + round(self.settings.warmup_s * NS_PER_S)
        self._turns = self._own_turns(measuring_ns)
        if self.settings.open:
            self._start_schedule(start_ns, measuring_ns)
        gevent.sleep(max(0.0, (measuring_ns - time.perf_counter_ns()) / NS_PER_S - 0.5))
        gc.collect()
        gc.freeze()  # so that no collection walks what Locust and we have loaded
        self.recorder.open_windows(self._windows(measuring_ns))
        self._phase = "measuring"
        while not self.recorder.over:
            gevent.sleep(WATCH_S)
            self.recorder.look()
        self.recorder.close()
        self._phase = "draining"
        last_s = time.monotonic() + 2 * REQUEST_TIMEOUT_S  # a refused call is made again
        while not self.answered and time.monotonic() < last_s:
            gevent.sleep(WATCH_S)
        self._write()

    def _windows(self, measuring_ns: int) -> list[Window]:
        if not self.settings.blocks:  # one piece, in stretches that say how much it varied
            ends = [
                measuring_ns + _ns(self.settings.duration_s * n / STRETCHES)
                for n in range(STRETCHES + 1)
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

    def _own_turns(self, measuring_ns: int) -> list[tuple[int, int]]:
        if not self.settings.blocks:
            return [(0, measuring_ns + _ns(self.settings.duration_s))]
        return [
            (0, measuring_ns),  # the warm-up is everybody's
            *(
                (measuring_ns + _ns(block.begin_s), measuring_ns + _ns(block.end_s))
                for block in self.settings.blocks
            ),
        ]

    def wait_for_turn(self, rng: random.Random) -> bool:
        """Until requests may be sent; False when that is never again.

        A user whose turn comes starts at a random moment of its wait: all 50 at once would be
        another load than the one that is measured.
        """
        while True:
            now = time.perf_counter_ns()
            turns = self._turns
            if turns is None and self._remote:
                # The servers' counts are read between the last one's arrival and the start.
                while self._turns is None:
                    gevent.sleep(WATCH_S)
                gevent.sleep(rng.uniform(0, self.settings.wait_ms[1] / 1000))
                continue
            if turns is None:
                return True  # as they come, at the rate that was asked for
            turn = next(((begins, ends) for begins, ends in turns if now < ends), None)
            if turn is None:
                return False
            if now >= turn[0]:
                return True
            spread_s = rng.uniform(0, self.settings.wait_ms[1] / 1000)
            gevent.sleep((turn[0] - now) / NS_PER_S + spread_s)

    def _start_schedule(self, start_ns: int, measuring_ns: int) -> None:
        """Send this process's share of the arrivals from now on, in threads of their own."""
        settings = self.settings
        due_s = self._schedule()
        places = arrivals.share(len(due_s), self.number, settings.processes)
        due_ns = (due_s[places] * NS_PER_S).astype(np.int64) + start_ns
        self._planned = sum(
            int(np.count_nonzero((w.begins_ns <= due_ns) & (due_ns < w.ends_ns)))
            for w in self._windows(measuring_ns)
        )
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        (user,) = OpenLoopUser.running
        order = payloads.order(len(self.payloads), settings.seed)
        self.dispatcher = Dispatcher(
            due_ns,
            [Request(int(order[p % len(order)]), f"{settings.seed}-{p}") for p in places.tolist()],
            user.new_connection,
            max(1, settings.max_in_flight // settings.processes),
            native_sleep,
        )
        self.dispatcher.start()

    def _schedule(self) -> arrivals.Times:
        """Seconds from the common start: the warm-up, then the blocks or the one piece."""
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

    def take_done(self) -> Iterator[tuple[int, Outcome]]:
        """What the schedule's threads have ended: instances and outcomes."""
        done = self.dispatcher.done if self.dispatcher else ()
        while done:
            yield done.popleft()

    @property
    def answered(self) -> bool:
        """Whether every request that was sent has ended and is recorded."""
        if self.dispatcher is not None:
            return self.dispatcher.finished and not self.dispatcher.done
        return not self.in_flight

    def _write(self) -> None:
        """Leave the result; once, whether the run ends or is ended."""
        if self._written:
            return
        self._written = True
        self.recorder.close()
        result = self.recorder.result()
        if self.dispatcher is not None:
            self.dispatcher.stop()
            result["offered"] = {
                "arrivals": self._planned,
                "unanswered": self.dispatcher.in_flight,
                "late_for_want_of_a_thread": self.dispatcher.late_for_want_of_a_thread,
            }
        self.meeting.hand_in(result)
        self._phase = "done"

    def _report_progress(self) -> None:
        while True:
            said = {"protocol": self.settings.protocol, "phase": self._phase}
            self.meeting.say(said | self.recorder.progress())
            # Before the start everybody waits for this.
            waiting = self._phase in (READY, "starting users")
            gevent.sleep(WATCH_S if waiting else PROGRESS_S)

    def _watch_parent(self) -> None:
        """End with the process that started this one, even if that was killed."""
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


def in_a_thread(predict: Predict, instance: int, puid: str) -> Outcome:
    """Make one request in a native thread, where the clock is read.

    Both protocols alike. grpcio's own support of gevent hands every event of a call to the one
    event loop: with 50 users that took the 99th percentile of a server that does nothing from 4 ms
    to 175. A REST request on gevent's sockets waits for the loop's turn as well.
    """
    outcome: Outcome = threads.apply(predict, (instance, puid))
    return outcome


class PredictionUser(User):
    """What both kinds of users have."""

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
    """Asks for one prediction, judges the answer, waits; each user in an order of its own."""

    abstract = True

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        number = next(process.user_numbers)
        settings = process.settings
        self._rng = random.Random(f"{settings.seed}-{process.meeting.name}-{number}")  # noqa: S311
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
        if not process.wait_for_turn(self._rng):
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
    """One in each process: its requests are sent by the dispatcher's threads, when they are due."""

    abstract = True
    running: ClassVar[list[OpenLoopUser]] = []

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self.running.append(self)

    def new_connection(self) -> Connection:
        """A connection for one native thread."""
        raise NotImplementedError

    @task
    def all_predictions(self) -> None:
        """Record what has ended, away from the threads that send."""
        while not (process.recorder.over and process.answered):
            for instance, outcome in process.take_done():
                process.recorder.record(outcome, instance)
                self._tell_locust(outcome)
            gevent.sleep(DRAIN_S)
        raise StopUser
