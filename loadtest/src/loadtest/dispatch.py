"""Sends requests on time, however slow the answers are: the open loop's engine.

Native threads share one schedule. One of them waits for the next arrival; when it is due, the
thread hands the wait to another and sends. So a request is never late because an earlier one has no
answer yet, until every thread allowed has one in flight: then arrivals are sent late, which
their lag and the count of them say, and their latency counts from when they were due.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from loadtest.recorder import Outcome

# Threads that are ready beside the one that waits: what comes at once is sent at once.
SPARE_THREADS = 4
LATE_NS = 1_000_000
SLICE_S = 0.2  # how soon a wait notices that the run is to end


@dataclass(frozen=True)
class Request:
    """What one arrival sends."""

    instance: int
    puid: str


class Connection(Protocol):
    """One thread's connection to a server."""

    def open(self) -> None:
        """Connect, before anything is timed. May raise: the first request will tell why."""

    def predict(self, instance: int, puid: str, intended_ns: int | None = None) -> Outcome:
        """Send one request and read its answer. Every failure is an outcome."""

    def close(self) -> None:
        """Disconnect."""


@dataclass
class Dispatcher:
    """Sends one process's share of a schedule.

    Attributes:
        due_ns: Shape (n,), when each request is due by `time.perf_counter_ns`, ascending.
        requests: What each sends, n of them.
        new_connection: Called once in each thread.
        max_in_flight: Most threads, and so most requests without an answer.
        sleep: Lets the thread, and nothing else, sleep for some seconds.
        done: What has ended since it was last emptied: instances and outcomes.
        late_for_want_of_a_thread: Requests sent over a millisecond late because `max_in_flight`
            were without an answer.
    """

    due_ns: NDArray[np.int64]
    requests: Sequence[Request]
    new_connection: Callable[[], Connection]
    max_in_flight: int
    sleep: Callable[[float], None] = time.sleep
    done: deque[tuple[int, Outcome]] = field(default_factory=deque)
    late_for_want_of_a_thread: int = 0

    def __post_init__(self) -> None:
        self._sent = 0
        self._ended = 0
        self._threads = 0
        self._opening = 0
        self._ready = 0
        self._freed_ns = 0  # when there last was a thread again, after there had been none
        self._stopped = False
        # Whoever holds it waits for the next arrival.
        self._turn = threading.Lock()
        self._counts = threading.Lock()

    def start(self) -> None:
        """Start the first threads; returns at once."""
        with self._counts:
            for _ in range(min(1 + SPARE_THREADS, self.max_in_flight)):
                self._start_thread(connect_first=True)

    def stop(self) -> None:
        """Send nothing more. What is in flight ends by itself."""
        self._stopped = True

    @property
    def in_flight(self) -> int:
        """Requests without an answer."""
        return self._sent - self._ended

    @property
    def finished(self) -> bool:
        """Whether every request has been sent and has ended."""
        sent_all = self._stopped or self._sent >= len(self.due_ns)
        return sent_all and not self.in_flight

    def _start_thread(self, *, connect_first: bool) -> None:
        """Start one more; the caller holds `_counts`."""
        self._threads += 1
        if connect_first:
            self._opening += 1
        else:
            self._ready += 1
        threading.Thread(target=self._work, args=(connect_first,), daemon=True).start()

    def _work(self, connect_first: bool) -> None:
        connection = self.new_connection()
        if connect_first:
            with suppress(Exception):
                connection.open()
            with self._counts:
                self._opening -= 1
                self._ready += 1
        while (index := self._take()) is not None:
            request = self.requests[index]
            outcome = connection.predict(request.instance, request.puid, int(self.due_ns[index]))
            self.done.append((request.instance, outcome))
            with self._counts:
                if self.in_flight >= self.max_in_flight:
                    self._freed_ns = time.perf_counter_ns()
                self._ended += 1
                self._ready += 1
        connection.close()

    def _take(self) -> int | None:
        """Wait for the next arrival to be due; None when there is none left."""
        with self._turn:
            index = self._sent
            if self._stopped or index >= len(self.due_ns):
                return None
            with self._counts:
                while self._ready + self._opening <= SPARE_THREADS and self._may_grow:
                    self._start_thread(connect_first=True)
            due_ns = int(self.due_ns[index])
            clock_ns = time.perf_counter_ns
            wanting = not self._may_grow and due_ns < self._freed_ns
            if wanting and clock_ns() - due_ns > LATE_NS:
                self.late_for_want_of_a_thread += 1
            while (left_ns := due_ns - clock_ns()) > 0 and not self._stopped:
                self.sleep(min(left_ns / 1e9, SLICE_S))
            if self._stopped:
                return None
            with self._counts:
                self._ready -= 1
                self._sent += 1
                # All spare ones may be waiting for a connection: the next arrival must not.
                if not self._ready and self._may_grow:
                    self._start_thread(connect_first=False)
            return index

    @property
    def _may_grow(self) -> bool:
        return self._threads < self.max_in_flight
