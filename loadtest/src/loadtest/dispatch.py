"""The open loop's dispatcher: sends requests on schedule, independent of responses.

Native threads share one schedule. One of them waits for the next arrival, passes the wait on to
another thread, and sends. A request is therefore never delayed by an earlier response, until every
allowed thread has a request in flight. Then arrivals are delayed: their dispatch lag and their
number are recorded, and their latency is measured from the scheduled send.
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

SPARE_THREADS = 4  # ready threads beside the waiting one, for simultaneous arrivals
LATE_NS = 1_000_000
SLICE_S = 0.2  # maximum delay until a waiting thread notices stop()


@dataclass(frozen=True)
class Request:
    """The request of one arrival."""

    instance: int
    puid: str


class Connection(Protocol):
    """One thread's connection to a server."""

    def open(self) -> None:
        """Connect ahead of the first request; may raise, as the first request then fails too."""

    def predict(self, instance: int, puid: str, intended_ns: int | None = None) -> Outcome:
        """Send one request and read its response; a failure is an outcome, not an exception."""

    def close(self) -> None:
        """Disconnect."""


@dataclass
class Dispatcher:
    """Sends one process's share of a schedule.

    Attributes:
        due_ns: Shape (n,), ascending send times by `time.perf_counter_ns`.
        requests: The n requests.
        new_connection: Called once per thread.
        max_in_flight: Maximum number of threads, and so of in-flight requests.
        sleep: Blocks only the calling thread, seconds.
        done: Completed requests not yet consumed: instances and outcomes.
        delayed_by_limit: Requests sent over a millisecond late because of `max_in_flight`.
    """

    due_ns: NDArray[np.int64]
    requests: Sequence[Request]
    new_connection: Callable[[], Connection]
    max_in_flight: int
    sleep: Callable[[float], None] = time.sleep
    done: deque[tuple[int, Outcome]] = field(default_factory=deque)
    delayed_by_limit: int = 0

    def __post_init__(self) -> None:
        self._sent = 0
        self._ended = 0
        self._threads = 0
        self._opening = 0
        self._ready = 0
        self._freed_ns = 0  # when a thread was last freed at the limit
        self._stopped = False
        # The holder waits for the next arrival.
        self._wait_lock = threading.Lock()
        self._counts = threading.Lock()

    def start(self) -> None:
        """Start the first threads; returns at once."""
        with self._counts:
            for _ in range(min(1 + SPARE_THREADS, self.max_in_flight)):
                self._start_thread(connect_first=True)

    def stop(self) -> None:
        """Send no further requests; in-flight requests complete."""
        self._stopped = True

    @property
    def in_flight(self) -> int:
        """The number of in-flight requests."""
        return self._sent - self._ended

    @property
    def finished(self) -> bool:
        """Whether every request is sent and completed."""
        sent_all = self._stopped or self._sent >= len(self.due_ns)
        return sent_all and not self.in_flight

    def _start_thread(self, *, connect_first: bool) -> None:
        """Start a thread; the caller holds `_counts`."""
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
        """Wait for the next arrival; None at the end of the schedule."""
        with self._wait_lock:
            index = self._sent
            if self._stopped or index >= len(self.due_ns):
                return None
            with self._counts:
                while self._ready + self._opening <= SPARE_THREADS and self._may_grow:
                    self._start_thread(connect_first=True)
            due_ns = int(self.due_ns[index])
            clock_ns = time.perf_counter_ns
            limited = not self._may_grow and due_ns < self._freed_ns
            if limited and clock_ns() - due_ns > LATE_NS:
                self.delayed_by_limit += 1
            while (left_ns := due_ns - clock_ns()) > 0 and not self._stopped:
                self.sleep(min(left_ns / 1e9, SLICE_S))
            if self._stopped:
                return None
            with self._counts:
                self._ready -= 1
                self._sent += 1
                # All spare threads may be connecting; the next arrival must not wait for them.
                if not self._ready and self._may_grow:
                    self._start_thread(connect_first=False)
            return index

    @property
    def _may_grow(self) -> bool:
        return self._threads < self.max_in_flight
