"""One method's calls, taken by one thread and answered from any.

grpc's own server gives each call a thread and carries five events of it from one thread to another;
that costs three times what the C core itself needs. Here one thread takes the events of one unary
method as they come, runs a quick engine in between, and whoever has the answer hands it to the
core. The events of all other methods it passes on to grpc's own server, whose threads answer them.

It takes the place of that server's own thread, since two threads that wait for events wake each
other: of what comes for one, the other may be the one who reads the socket.

Python's grpc has no public interface for this. `grpc._cython.cygrpc` is what its own server is
written on, so pyproject.toml allows the versions of grpcio that the tests have passed with.
"""

import logging
import math
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import grpc
from grpc import _server as grpcs_own
from grpc._cython import cygrpc  # type: ignore[attr-defined]

from model_runtime import MicroBatcher

log = logging.getLogger(__name__)

# Calls that the core may hand over before they are asked for one by one.
_AHEAD = 32
# Events of other methods between two calls of the engine, while anything waits for it.
_MOST_OTHERS = 4
_NO_FLAGS = 0

Metadata = Sequence[tuple[str, str | bytes]]


class Call:
    """One call whose request has come; it is to be ended, once."""

    __slots__ = ("_core", "_deadline", "ended", "message", "metadata", "when_over")

    def __init__(self, core: Any, metadata: Metadata, deadline: float) -> None:
        """`core` is cygrpc's call, `deadline` in Unix time."""
        self._core = core
        self._deadline = deadline
        self.metadata = metadata
        self.message: bytes | None = None
        self.ended = False
        # Told once the core is done with it: whether the caller was gone before its end.
        self.when_over: Callable[[bool], None] | None = None

    @property
    def remaining_s(self) -> float | None:
        """Seconds until its deadline; None if it has none."""
        return None if self._deadline == math.inf else self._deadline - time.time()

    def end(
        self,
        status: grpc.StatusCode,
        details: str,
        reply: bytes | None,
        trailing: Metadata,
        count: Callable[[], None] | None = None,
    ) -> None:
        """Send what is to be sent; a caller that is gone is no error.

        `count` is called when all is ready to be sent: whoever is killed between the two has
        counted a call that nobody saw answered.
        """
        self.ended = True
        operations = [
            cygrpc.SendInitialMetadataOperation((), _NO_FLAGS),
            cygrpc.SendStatusFromServerOperation(
                trailing, status.value[0], details.encode(), _NO_FLAGS
            ),
            cygrpc.ReceiveCloseOnServerOperation(_NO_FLAGS),
        ]
        if reply is not None:
            operations.insert(1, cygrpc.SendMessageOperation(reply, _NO_FLAGS))
        batch = tuple(operations)
        if count is not None:
            count()
        self._core.start_server_batch(batch, self)


class CallLoop:
    """The thread that takes a server's events: the calls of one method, and grpc's own."""

    def __init__(
        self,
        server: grpc.Server,
        method: str,
        take: Callable[[Call], None],
        engine: MicroBatcher | None = None,
    ) -> None:
        """Before the server starts.

        Args:
            server: Of `grpc.server`.
            method: Its full name, "/package.Service/Method".
            take: Called for each call, in this thread; must not raise, nor wait for long.
            engine: Started by this thread and run in it, between calls; then nobody else may send
                it anything. None if it has a thread of its own.
        """
        self._grpcs_state: Any = server._state  # type: ignore[attr-defined]
        self._grpc_goes_on = True
        self._core = self._grpcs_state.server
        self._events = self._grpcs_state.completion_queue
        self._core.register_method(method)
        self._method = method
        self._take = take
        self._engine = engine
        self._began = threading.Event()
        self._asked_for = 0
        self.unanswered = 0

    def start(self) -> None:
        """Start the server, as its own `start` would. The thread ends after it has stopped."""
        state = self._grpcs_state
        with state.lock:
            self._core.start()
            state.stage = grpcs_own._ServerStage.STARTED
            for method in state.registered_method_handlers:
                grpcs_own._request_registered_call(state, method)
            grpcs_own._request_call(state)
        threading.Thread(target=self._run, name="calls", daemon=True).start()
        self._began.wait()

    def _run(self) -> None:
        try:
            self._take_calls()
        except Exception:  # without this thread the port is open and nobody answers
            log.exception("the thread that takes the calls has failed; ending")
            os._exit(1)  # the parent starts another

    def _take_calls(self) -> None:
        engine = self._engine
        if engine is not None:
            engine.start(lambda: None)
        self._began.set()
        for _ in range(_AHEAD):
            self._ask_for_one()
        while self._asked_for or self.unanswered or self._grpc_goes_on:
            if engine is None or not engine.waiting:
                self._handle(self._events.poll())
            else:
                self._gather(engine)
                engine.score_waiting()

    def _gather(self, engine: MicroBatcher) -> None:
        """Take what calls have come, for a fuller batch.

        Where something was sent since the last look, the core's next one comes back at once and has
        not looked at the sockets: nothing has come only when it says so twice. Calls of other
        methods may not keep those waiting that are here.
        """
        empty = others = 0
        while empty < 2 and others < _MOST_OTHERS and engine.waiting < engine.full_batch:
            event = self._events.poll(deadline=0)
            if event.completion_type == cygrpc.CompletionType.queue_timeout:
                empty += 1
            else:
                empty = 0
                others += not _is_of_method(event)
                self._handle(event)

    def _ask_for_one(self) -> None:
        try:
            self._core.request_registered_call(self._events, self._events, self._method, None)
        except ValueError:  # the server is being stopped
            return
        self._asked_for += 1

    def _handle(self, event: Any) -> None:
        call = event.tag
        if not _is_of_method(event):
            self._grpc_goes_on = grpcs_own._process_event_and_continue(self._grpcs_state, event)
        elif call is None:
            self._asked_for -= 1
            if event.success:
                self._ask_for_one()
                self._begin(event)
        elif call.ended:
            self.unanswered -= 1
            if call.when_over is not None:
                call.when_over(event.batch_operations[-1].cancelled())
        else:
            call.message = event.batch_operations[0].message()
            self._take(call)

    def _begin(self, event: Any) -> None:
        self.unanswered += 1
        call = Call(event.call, event.invocation_metadata, event.call_details.deadline)
        event.call.start_server_batch((cygrpc.ReceiveMessageOperation(_NO_FLAGS),), call)


def _is_of_method(event: Any) -> bool:
    """Whether it is of the loop's method: a call that has come, or what became of one."""
    return event.tag is None or type(event.tag) is Call
