"""The engine of the open loop, with connections whose answers come when the test lets them."""

import threading
import time

import numpy as np

from loadtest.dispatch import Dispatcher, Request
from loadtest.recorder import Outcome
from polling import eventually


class HeldConnection:
    """Answers once the gate is open."""

    def __init__(self, gate: threading.Event, slow_to_open: bool = False) -> None:
        self._gate = gate
        self._slow_to_open = slow_to_open
        self.closed = False

    def open(self) -> None:
        if self._slow_to_open:
            self._gate.wait(20)
        raise ConnectionRefusedError

    def predict(self, instance: int, puid: str, intended_ns: int | None = None) -> Outcome:
        started = time.perf_counter_ns()
        self._gate.wait(20)
        return Outcome(started, time.perf_counter_ns(), puid, intended_ns=intended_ns)

    def close(self) -> None:
        self.closed = True


def dispatcher(
    gate: threading.Event,
    count: int,
    max_in_flight: int,
    gap_s: float = 0.0,
    connections: list[HeldConnection] | None = None,
    slow_to_open: bool = False,
) -> Dispatcher:
    made = [] if connections is None else connections

    def new_connection() -> HeldConnection:
        made.append(HeldConnection(gate, slow_to_open and len(made) >= 5))
        return made[-1]

    due_ns = time.perf_counter_ns() + (np.arange(count) * gap_s * 1e9).astype(np.int64)
    requests = [Request(index, f"p{index}") for index in range(count)]
    return Dispatcher(due_ns, requests, new_connection, max_in_flight)


def test_a_server_that_does_not_answer_delays_no_request() -> None:
    gate = threading.Event()
    engine = dispatcher(gate, count=200, max_in_flight=500, gap_s=0.001)
    engine.start()
    eventually(lambda: engine.in_flight == 200)
    assert not engine.done
    assert not engine.finished
    assert engine.delayed_by_limit == 0
    gate.set()
    eventually(lambda: engine.finished)
    assert sorted(instance for instance, _ in engine.done) == list(range(200))
    assert {outcome.failure for _, outcome in engine.done} == {f"p{i}" for i in range(200)}
    # All were due before the gate opened, and that is what each is measured from.
    dues = sorted(outcome.due_ns for _, outcome in engine.done)
    assert dues == engine.due_ns.tolist()


def test_a_server_that_takes_no_connection_delays_no_request() -> None:
    gate = threading.Event()
    engine = dispatcher(gate, count=200, max_in_flight=500, gap_s=0.001, slow_to_open=True)
    engine.start()
    eventually(lambda: engine.in_flight == 200)
    gate.set()
    eventually(lambda: engine.finished)
    assert len(engine.done) == 200


def test_a_late_arrival_that_had_a_thread_is_not_late_for_want_of_one() -> None:
    """As when the whole process stands still: every thread was idle when it was due."""
    gate = threading.Event()
    gate.set()
    still = dispatcher(gate, count=3, max_in_flight=5)
    still.due_ns[:] = time.perf_counter_ns() - 200_000_000
    still.start()
    eventually(lambda: still.finished)
    assert still.delayed_by_limit == 0


def test_a_late_arrival_while_threads_still_connect_is_not_late_for_want_of_one() -> None:
    gate = threading.Event()
    still = dispatcher(gate, count=3, max_in_flight=5)
    still.due_ns[:] = time.perf_counter_ns() - 200_000_000
    connect = threading.Event()
    quick = threading.Lock()

    class Connecting(HeldConnection):
        def open(self) -> None:
            if not quick.acquire(blocking=False):
                connect.wait(20)

    gate.set()
    still.new_connection = lambda: Connecting(gate)
    still.start()
    eventually(lambda: still.finished)
    connect.set()
    assert still.delayed_by_limit == 0


def test_past_the_limit_requests_are_late_counted_and_all_sent() -> None:
    gate = threading.Event()
    engine = dispatcher(gate, count=50, max_in_flight=8)
    engine.start()
    eventually(lambda: engine.in_flight == 8)
    time.sleep(0.05)
    assert engine.in_flight == 8
    gate.set()
    eventually(lambda: engine.finished)
    assert len(engine.done) == 50
    assert engine.delayed_by_limit >= 42
    late = [outcome for _, outcome in engine.done if outcome.lag_us > 40_000]
    assert len(late) >= 42
    assert all(outcome.latency_us >= outcome.lag_us for _, outcome in engine.done)


def test_each_request_is_sent_once_and_not_before_it_is_due() -> None:
    gate = threading.Event()
    gate.set()
    connections: list[HeldConnection] = []
    engine = dispatcher(gate, 300, 64, gap_s=0.001, connections=connections)
    engine.start()
    eventually(lambda: engine.finished)
    assert sorted(instance for instance, _ in engine.done) == list(range(300))
    for _, outcome in engine.done:
        assert outcome.started_ns >= outcome.due_ns
    eventually(lambda: all(connection.closed for connection in connections))


def test_stopped_it_sends_nothing_more() -> None:
    gate = threading.Event()
    gate.set()
    engine = dispatcher(gate, 10_000, 16, gap_s=0.01)
    engine.start()
    eventually(lambda: len(engine.done) > 2)
    engine.stop()
    eventually(lambda: engine.finished)
    sent = len(engine.done)
    time.sleep(0.1)
    assert len(engine.done) == sent < 1000
