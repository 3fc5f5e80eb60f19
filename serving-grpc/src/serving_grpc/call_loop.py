"""A completion-queue loop that serves unary methods on a single thread.

grpcio's server runs each call on a thread of a pool and passes five events per call between
threads, which costs three times as much as the C core itself. Here one thread handles the events of
some unary methods and runs a fast engine in between; any thread may send a response. The loop
passes the events of all other methods to grpcio's server, whose threads serve them.

The loop replaces the server's own polling thread: two threads on one queue wake each other, since
either may read the socket for the other's event.

grpcio has no public interface for this. Its own server is built on `grpc._cython.cygrpc`;
pyproject.toml therefore bounds grpcio to tested versions.
"""

import logging
import math
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import grpc
from grpc import _server as grpc_server
from grpc._cython import cygrpc  # type: ignore[attr-defined]

from serving_core import MicroBatcher

log = logging.getLogger(__name__)

# Calls of each method requested from the core in advance.
_PREREQUESTED_CALLS = 32
# Events of other methods handled between two engine calls while predictions are queued.
_MAX_OTHER_EVENTS = 4
_NO_FLAGS = 0

Metadata = Sequence[tuple[str, str | bytes]]


class Call:
    """An RPC; `respond` must be called once."""

    __slots__ = ("_core", "_deadline", "handler", "message", "metadata", "on_closed", "responded")

    def __init__(self, core: Any, handler: "Handler", metadata: Metadata, deadline: float) -> None:
        """`core` is cygrpc's call; `deadline` is in Unix time."""
        self._core = core
        self.handler = handler
        self._deadline = deadline
        self.metadata = metadata
        self.message: bytes | None = None
        self.responded = False
        # Called when the RPC is closed; the argument is whether the client cancelled it.
        self.on_closed: Callable[[bool], None] | None = None

    @property
    def remaining_s(self) -> float | None:
        """Seconds until the deadline; None without one."""
        return None if self._deadline == math.inf else self._deadline - time.time()

    def respond(
        self,
        status: grpc.StatusCode,
        details: str,
        reply: bytes | None,
        trailing: Metadata,
        count: Callable[[], None] | None = None,
    ) -> None:
        """Send the response; a cancelled RPC is no error.

        `count` is called just before the send: a process killed in between has counted an RPC
        without a response, never the reverse.
        """
        self.responded = True
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


Handler = Callable[[Call], None]


class _Method(NamedTuple):
    """A method of the loop; the tag of its new RPCs."""

    name: str
    handler: Handler


class CallLoop:
    """The thread that polls a server's completion queue."""

    def __init__(
        self,
        server: grpc.Server,
        methods: Mapping[str, Handler],
        engine: MicroBatcher | None = None,
    ) -> None:
        """Create the loop, before the server starts.

        Args:
            server: The result of `grpc.server`.
            methods: By full name, "/package.Service/Method", what is called for each RPC in this
                thread; must neither raise nor block.
            engine: A batcher that this thread starts and runs; no other thread may enqueue. None
                if the batcher has its own thread.
        """
        self._server_state: Any = server._state  # type: ignore[attr-defined]
        self._server_runs = True
        self._core = self._server_state.server
        self._events = self._server_state.completion_queue
        self._methods = [_Method(name, handler) for name, handler in methods.items()]
        for method in self._methods:
            self._core.register_method(method.name)
        self._engine = engine
        self._started = threading.Event()
        self._requested = 0
        self.in_flight = 0

    def start(self) -> None:
        """Start the server as `grpc.Server.start` does; the thread ends after the server stops."""
        state = self._server_state
        with state.lock:
            self._core.start()
            state.stage = grpc_server._ServerStage.STARTED
            for method in state.registered_method_handlers:
                grpc_server._request_registered_call(state, method)
            grpc_server._request_call(state)
        threading.Thread(target=self._run, name="calls", daemon=True).start()
        self._started.wait()

    def _run(self) -> None:
        try:
            self._serve()
        except Exception:  # without this thread the port is open and no RPC is served
            log.exception("the call loop failed; exiting")
            os._exit(1)  # the parent restarts the worker

    def _serve(self) -> None:
        engine = self._engine
        if engine is not None:
            engine.start(lambda: None)
        self._started.set()
        for method in self._methods:
            for _ in range(_PREREQUESTED_CALLS):
                self._prerequest_call(method)
        while self._requested or self.in_flight or self._server_runs:
            if engine is None or not engine.queued:
                self._handle(self._events.poll())
            else:
                self._fill_batch(engine)
                engine.run_batch()

    def _fill_batch(self, engine: MicroBatcher) -> None:
        """Receive further RPCs until the batch is full or none arrives.

        After a send, the core's next poll may return without reading the sockets: only two
        timeouts in a row mean that nothing has arrived. RPCs of other methods must not delay the
        queued predictions.
        """
        timeouts = others = 0
        while timeouts < 2 and others < _MAX_OTHER_EVENTS and engine.queued < engine.max_batch:
            event = self._events.poll(deadline=0)
            if event.completion_type == cygrpc.CompletionType.queue_timeout:
                timeouts += 1
            else:
                timeouts = 0
                others += not _is_prediction_event(event)
                self._handle(event)

    def _prerequest_call(self, method: "_Method") -> None:
        try:
            self._core.request_registered_call(self._events, self._events, method.name, method)
        except ValueError:  # the server is stopping
            return
        self._requested += 1

    def _handle(self, event: Any) -> None:
        tag = event.tag
        kind = type(tag)
        if kind is Call:
            if tag.responded:
                self.in_flight -= 1
                if tag.on_closed is not None:
                    tag.on_closed(event.batch_operations[-1].cancelled())
            else:
                tag.message = event.batch_operations[0].message()
                tag.handler(tag)
        elif kind is _Method:
            self._requested -= 1
            if event.success:
                self._prerequest_call(tag)
                self._receive_message(event, tag.handler)
        else:
            self._server_runs = grpc_server._process_event_and_continue(self._server_state, event)

    def _receive_message(self, event: Any, handler: "Handler") -> None:
        self.in_flight += 1
        call = Call(event.call, handler, event.invocation_metadata, event.call_details.deadline)
        event.call.start_server_batch((cygrpc.ReceiveMessageOperation(_NO_FLAGS),), call)


def _is_prediction_event(event: Any) -> bool:
    """Whether the event belongs to the loop's methods: a new RPC or an operation of one."""
    return type(event.tag) in (Call, _Method)
