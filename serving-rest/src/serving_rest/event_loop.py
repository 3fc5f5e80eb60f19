"""The event loop of a worker: it accepts, reads, scores and answers in one thread.

Predictions go to `Predictions`. With a fast engine the loop runs the batcher itself; with a slow
one the batcher's thread passes the responses back. Any other request goes to the WSGI app in a
small pool of threads, complete. The loop must never block.
"""

import errno
import fcntl
import logging
import math
import os
import select
import socket
import sys
import termios
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from typing import NamedTuple
from wsgiref.types import WSGIApplication

from serving_core import DeadlinePassed, Exchange, MicroBatcher
from serving_core.protocols.http import HttpRequest, HttpResponse
from serving_core.protocols.seldon.rest import (
    MESSAGES,
    ErrorCode,
    RequestRefused,
    error_document,
)
from serving_rest import wsgi
from serving_rest.app import Predictions, codec_of
from serving_rest.connection_counts import Share
from serving_rest.http_reader import Limits, ReceivedRequest, RequestMalformed, RequestReader
from serving_rest.http_writer import CONTINUE, ResponseWriter

log = logging.getLogger(__name__)

READ_BYTES = 1 << 16
# Connections accepted in one iteration. With one in each, the last of 32 simultaneous callers
# would wait for as many batches of the first callers' next requests.
MAX_ACCEPTS = 16
# After an error such as too many open files, new connections wait in the backlog for so long.
ACCEPT_RETRY_S = 0.1
# Lingering close: after the last response, the server discards what the caller still sends, up to
# these limits. An immediate close may make the caller's system drop the response (RFC 9112, 9.6).
LINGER_S = 2.0
MAX_DISCARDED_BYTES = 1 << 16
# A stopping server keeps idle connections for so long: a request may be on its way.
STOP_KEEPALIVE_S = 2.0
BODY_CUT = "the body cannot be read: the connection closed before its end"


def _count_nothing() -> None:
    """A request that is no prediction is not counted."""


class LoopSettings(NamedTuple):
    """Limits of the loop; times are in seconds.

    Attributes:
        limits: Limits of one request.
        threads: Threads for the WSGI app.
        connections: Maximum number of open connections.
        keepalive_s: How long an idle connection stays open.
        stall_s: Longest pause of a caller within a request, or in reading its response.
    """

    limits: Limits
    threads: int
    connections: int
    keepalive_s: float
    stall_s: float


class Connection:
    """A client connection.

    Attributes:
        sock, fd, peer: The socket, its number, the caller's address.
        events: The events that the poller reports; 0 while it is not registered.
        reader: Reads its requests.
        in_flight: Whether a complete request awaits its response.
        exchange: That request, if it is a prediction that may expire or whose body is incomplete.
        version, without_body, close_after_response: For that response.
        unsent: What the socket has not taken yet of a response.
        unread_bytes: What the caller had not read when that was last checked.
        lingering: Whether the last response is sent and the caller has not closed yet.
        discarded_bytes: Bytes discarded since then.
        due: When to act if nothing happens: close it, refuse its request, expire it.
        expires_at: The deadline of `exchange`.
    """

    __slots__ = (
        *("close_after_response", "discarded_bytes", "due", "events", "exchange", "expires_at"),
        *("fd", "in_flight", "lingering", "peer", "reader", "sock", "unread_bytes", "unsent"),
        *("version", "without_body"),
    )

    def __init__(self, sock: socket.socket, peer: object, limits: Limits) -> None:
        """An idle connection, not registered yet."""
        self.sock = sock
        self.fd = sock.fileno()
        self.peer = peer
        self.events = 0
        self.reader = RequestReader(limits)
        self.in_flight = False
        self.exchange: Exchange[HttpRequest, HttpResponse] | None = None
        self.version = "1.1"
        self.without_body = False
        self.close_after_response = False
        self.unsent = memoryview(b"")
        self.unread_bytes = 0
        self.lingering = False
        self.discarded_bytes = 0
        self.due = math.inf
        self.expires_at = math.inf


class EventLoop:
    """Serves all connections of a process; only the thread that calls `turn` uses it.

    Other threads, and signal handlers, may call `wake`.
    """

    def __init__(
        self,
        listener: socket.socket,
        predictions: Predictions,
        app: WSGIApplication,
        settings: LoopSettings,
        share: Share | None = None,
    ) -> None:
        """Create it in the thread that will run it.

        Args:
            listener: Listening and non-blocking; the loop closes it.
            predictions: Serves the prediction routes; its batcher runs already, or `run_engine`
                starts it.
            app: Serves all other requests.
            settings: The limits.
            share: The worker's share of the server's connections; None in a server of one worker.
        """
        self._listener = listener
        self._predictions = predictions
        self._app = app
        self._settings = settings
        self._share = share
        self._engine: MicroBatcher | None = None
        self._respond = self._send_safely  # what predictions call
        self._thread = threading.get_ident()
        self._writer = ResponseWriter()
        self._pool = ThreadPoolExecutor(settings.threads, "wsgi")
        host, port, *_ = listener.getsockname()
        self._server = {"SERVER_NAME": str(host), "SERVER_PORT": str(port)}
        self._connections: dict[int, Connection] = {}
        self._pipelined: deque[Connection] = deque()
        # Responses from other threads.
        self._responses: deque[tuple[Connection, HttpResponse, str, Callable[[], None]]] = deque()
        self._next_due = math.inf  # no connection is due before
        self._open = True
        self._accepting = False
        self._accept_retry_at = -math.inf
        self._wakeup = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poller = select.epoll()
        self._poller.register(self._wakeup, select.EPOLLIN)
        self._set_accepting(True)

    @property
    def connections(self) -> int:
        """Number of open connections."""
        return len(self._connections)

    def run_engine(self) -> None:
        """Run the batcher's engine in the loop from now on: a fast one."""
        self._engine = self._predictions.batcher
        self._engine.start(self.wake)
        self._respond = self._send  # no other thread responds

    def wake(self) -> None:
        """End the loop's wait; takes no lock."""
        with suppress(BlockingIOError):
            os.eventfd_write(self._wakeup, 1)

    # One iteration

    def turn(self, timeout_s: float) -> None:
        """Run one iteration: read, run the engine, respond, act on what is due.

        Args:
            timeout_s: Maximum wait for an event.
        """
        engine = self._engine
        now = time.monotonic()
        if self._open:
            timeout_s = self._control_accepting(now, timeout_s)
        if self._pipelined or self._responses or (engine is not None and engine.queued):
            timeout_s = 0.0
        else:
            timeout_s = min(timeout_s, max(self._next_due - now, 0.0))
        self._poll(timeout_s)
        while self._responses:
            self._send(*self._responses.popleft())
        while self._pipelined:
            conn = self._pipelined.popleft()
            if conn.events >= 0 and not conn.in_flight:
                self._read(conn, b"")
        if engine is not None and engine.queued:
            self._fill_batch(engine)
            engine.run_batch()
        now = time.monotonic()
        if now >= self._next_due:
            self._act_on_due(now)
        if self._share is not None and self._open:
            self._share.publish(len(self._connections))

    def _poll(self, timeout_s: float) -> None:
        for fd, _ in self._poller.poll(timeout_s):
            conn = self._connections.get(fd)
            if conn is not None:
                if conn.unsent:
                    self._flush(conn)
                else:
                    self._on_readable(conn)
            elif fd == self._wakeup:
                with suppress(BlockingIOError):
                    os.eventfd_read(fd)
            elif fd == self._listener.fileno():
                self._accept()

    def _fill_batch(self, engine: MicroBatcher) -> None:
        """Read further requests until the batch is full or none arrives."""
        before = 0
        while before < engine.queued < engine.max_batch:
            before = engine.queued
            self._poll(0.0)

    # Accepting

    def _control_accepting(self, now: float, timeout_s: float) -> float:
        """Pause or resume accepting; return how long the loop may wait."""
        full = len(self._connections) >= self._settings.connections
        until = self._accept_retry_at
        if self._share is not None:
            until = max(until, self._share.paused_until(now, len(self._connections)))
        self._set_accepting(not full and until <= now)
        return min(timeout_s, until - now) if until > now else timeout_s

    def _set_accepting(self, accepting: bool) -> None:
        if accepting != self._accepting:
            self._accepting = accepting
            if accepting:
                self._poller.register(self._listener, select.EPOLLIN)
            else:
                self._poller.unregister(self._listener)

    def _accept(self) -> None:
        for _ in range(MAX_ACCEPTS):
            count = len(self._connections)
            if count >= self._settings.connections:
                return
            if self._share is not None:
                self._share.publish(count)
                if self._share.pause(count):
                    self._set_accepting(False)
                    return
            if not self._accept_one():
                return

    def _accept_one(self) -> bool:
        try:
            sock, peer = self._listener.accept()
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.ECONNABORTED):
                log.error("cannot accept a connection: %s", error)
                self._accept_retry_at = time.monotonic() + ACCEPT_RETRY_S
            return error.errno == errno.ECONNABORTED
        sock.setblocking(False)
        conn = Connection(sock, peer, self._settings.limits)
        self._connections[conn.fd] = conn
        self._watch(conn, select.EPOLLIN)
        self._set_due(conn, time.monotonic() + self._settings.keepalive_s)
        return True

    # Reading

    def _on_readable(self, conn: Connection) -> None:
        if conn.in_flight:  # pipelined data or a disconnect: read after the response
            self._watch(conn, 0)
            return
        try:
            data = conn.sock.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            self._close(conn)
            return
        if conn.lingering:
            conn.discarded_bytes += len(data)
            if not data or conn.discarded_bytes > MAX_DISCARDED_BYTES:
                self._close(conn)
        elif data:
            self._read(conn, data)
        elif conn.reader.pending is not None:
            self._handle(conn, conn.reader.fail(ErrorCode.BROKEN_JSON, BODY_CUT))
        else:
            self._close(conn)

    def _read(self, conn: Connection, data: bytes) -> None:
        try:
            request = conn.reader.read(data)
            if request is not None:
                self._handle(conn, request)
            elif conn.reader.started:
                self._await_rest(conn)
            else:
                self._watch(conn, select.EPOLLIN)
        except RequestMalformed as error:
            conn.version, conn.without_body, conn.close_after_response = "1.1", False, True
            self._send(conn, _error(error.code, str(error), error.status))
        except Exception:  # one request must not end the loop
            log.exception("unexpected error in the event loop, closing the connection")
            self._close(conn)

    def _await_rest(self, conn: Connection) -> None:
        """Wait for the rest of a request, which counts from the end of its head."""
        now = time.monotonic()
        pending = conn.reader.pending
        if pending is not None and conn.exchange is None:
            head = pending.request
            codec = codec_of(head.method, head.path)
            if codec is not None:
                conn.exchange = self._predictions.begin(codec, head, partial(self._respond, conn))
                conn.expires_at = now + self._predictions.deadline_s(head)
                self._prepare_response(conn, pending)
        if pending is not None and pending.expects_continue:
            pending.expects_continue = False
            with suppress(OSError):
                conn.sock.send(CONTINUE)
        self._set_due(conn, min(now + self._settings.stall_s, conn.expires_at))
        self._watch(conn, select.EPOLLIN)

    # Requests

    def _prepare_response(self, conn: Connection, request: ReceivedRequest) -> None:
        conn.version = request.version
        conn.without_body = request.request.method == "HEAD"
        conn.close_after_response = request.close

    def _handle(self, conn: Connection, request: ReceivedRequest) -> None:
        """Submit a complete request."""
        conn.in_flight = True
        conn.due = math.inf
        self._prepare_response(conn, request)
        head, refusal = request.request, request.refusal
        codec = codec_of(head.method, head.path)
        if codec is not None:
            exchange = conn.exchange
            if exchange is None:
                exchange = self._predictions.begin(codec, head, partial(self._respond, conn))
            deadline_s = self._predictions.deadline_s(head)
            if self._engine is None:
                if conn.exchange is None:
                    conn.exchange = exchange
                    conn.expires_at = time.monotonic() + deadline_s
                self._set_due(conn, conn.expires_at)
            if refusal is None:
                exchange.start(head, deadline_s)
            else:
                exchange.refuse(head, refusal)
        elif refusal is not None:
            self._send(conn, _error(refusal.code, str(refusal)))
        else:
            self._pool.submit(self._call_app, conn, request)

    def _call_app(self, conn: Connection, request: ReceivedRequest) -> None:
        """Serve a request with the WSGI app; runs in a thread of the pool."""
        try:
            peer = conn.peer if isinstance(conn.peer, tuple) else ("", "")
            environ = {"REMOTE_ADDR": str(peer[0]), "REMOTE_PORT": str(peer[1])}
            response = wsgi.call(self._app, request, self._server | environ)
        except Exception:
            log.exception("%s %s failed", request.request.method, request.request.path)
            response = _error(ErrorCode.GENERIC, MESSAGES[ErrorCode.GENERIC])
        self._send_safely(conn, response)

    # Responding

    def _send_safely(
        self,
        conn: Connection,
        response: HttpResponse,
        timing: str = "",
        count: Callable[[], None] = _count_nothing,
    ) -> None:
        """Send a response, from any thread."""
        if threading.get_ident() == self._thread:
            self._send(conn, response, timing, count)
        else:
            self._responses.append((conn, response, timing, count))
            self.wake()

    def _send(
        self,
        conn: Connection,
        response: HttpResponse,
        timing: str = "",
        count: Callable[[], None] = _count_nothing,
    ) -> None:
        """Send a response; called once per request.

        Args:
            conn: The request's connection.
            response: The response.
            timing: The Server-Timing of a prediction; empty for another response.
            count: Counts a prediction, just before the write.
        """
        conn.in_flight = False
        conn.exchange = None
        conn.expires_at = math.inf
        if conn.events < 0:  # closed by a shutdown
            count()
            return
        conn.close_after_response = conn.close_after_response or not self._open
        data = self._writer.encode(
            response, timing, conn.version, conn.close_after_response, conn.without_body
        )
        count()
        try:
            sent = conn.sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:  # the caller disconnected
            self._close(conn)
            return
        if sent < len(data):
            conn.unsent = memoryview(data)[sent:]
            self._watch(conn, select.EPOLLOUT)
            self._await_reader(conn)
        else:
            self._finish_response(conn)

    def _flush(self, conn: Connection) -> None:
        """Send more of a response that the socket has not taken at once."""
        try:
            sent = conn.sock.send(conn.unsent)
        except BlockingIOError:
            return
        except OSError:
            self._close(conn)
            return
        conn.unsent = conn.unsent[sent:]
        if conn.unsent:
            self._await_reader(conn)
        else:
            self._finish_response(conn)

    def _await_reader(self, conn: Connection) -> None:
        """Wait until the caller reads; the system's buffer is not writable at its first byte."""
        conn.unread_bytes = unread_bytes(conn.sock)
        self._set_due(conn, time.monotonic() + self._settings.stall_s)

    def _finish_response(self, conn: Connection) -> None:
        if conn.close_after_response:
            self._linger(conn)
            return
        if conn.reader.started:  # a pipelined request is served before more is read
            self._watch(conn, 0)
            self._pipelined.append(conn)
        else:
            self._watch(conn, select.EPOLLIN)
        self._set_due(conn, time.monotonic() + self._settings.keepalive_s)

    # Closing

    def stop_accepting(self) -> None:
        """Close the listener; from now on each response closes its connection.

        Connections in the backlog are accepted first: closing would reset them.
        """
        self._open = False
        if self._share is not None:
            self._share.clear()
        self._set_accepting(False)
        while self._accept_one():
            pass
        self._listener.close()
        until = time.monotonic() + STOP_KEEPALIVE_S
        for conn in list(self._connections.values()):
            if not (conn.in_flight or conn.unsent or conn.reader.started):
                self._set_due(conn, until)

    def close(self) -> None:
        """Close all connections. The eventfd stays: a thread of the pool may yet call `wake`."""
        for conn in list(self._connections.values()):
            self._close(conn)
        self._pool.shutdown(wait=False)
        self._poller.close()

    def _linger(self, conn: Connection) -> None:
        """Start a lingering close: wait for the caller to close, up to the limits."""
        try:
            conn.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self._close(conn)
            return
        conn.lingering = True
        self._watch(conn, select.EPOLLIN)
        self._set_due(conn, time.monotonic() + LINGER_S)

    def _close(self, conn: Connection) -> None:
        if conn.events < 0:
            return
        self._watch(conn, 0)
        conn.events = -1
        conn.due = math.inf
        if conn.exchange is not None and conn.reader.pending is not None:  # ends what has begun
            refusal = RequestRefused(ErrorCode.BROKEN_JSON, BODY_CUT)
            conn.exchange.refuse(conn.reader.pending.request, refusal)
        del self._connections[conn.fd]
        conn.sock.close()

    def _watch(self, conn: Connection, events: int) -> None:
        """Register the connection for these events, or for none."""
        if events == conn.events or conn.events < 0:
            return
        if not events:
            self._poller.unregister(conn.fd)
        elif conn.events:
            self._poller.modify(conn.fd, events)
        else:
            self._poller.register(conn.fd, events)
        conn.events = events

    # Timeouts

    def _set_due(self, conn: Connection, due: float) -> None:
        conn.due = due
        if due < self._next_due:
            self._next_due = due

    def _act_on_due(self, now: float) -> None:
        """Act on what is due. Most requests finish earlier: a pass is cheaper than timers."""
        self._next_due = math.inf
        for conn in list(self._connections.values()):
            if conn.due <= now:
                due, conn.due = conn.due, math.inf
                self._on_due(conn, due)
            self._next_due = min(self._next_due, conn.due)

    def _on_due(self, conn: Connection, due: float) -> None:
        if conn.unsent and unread_bytes(conn.sock) < conn.unread_bytes:
            self._await_reader(conn)
        elif conn.lingering or conn.unsent:
            self._close(conn)
        elif conn.exchange is not None and conn.expires_at <= due:
            if conn.reader.pending is None:
                conn.exchange.expire()
            else:  # the rest of its body is not awaited
                conn.close_after_response = True
                late = DeadlinePassed("the deadline passed before the body was complete")
                conn.exchange.refuse(conn.reader.pending.request, late)
        elif conn.reader.pending is not None:
            message = "the body came too slowly"
            self._handle(conn, conn.reader.fail(ErrorCode.BODY_TIMEOUT, message))
        else:
            self._close(conn)


def unread_bytes(sock: socket.socket) -> int:
    """Bytes in the send buffer: not sent, or not acknowledged."""
    return int.from_bytes(fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)), sys.byteorder)


def _error(code: ErrorCode, message: str, status: HTTPStatus | None = None) -> HttpResponse:
    status = status or code.status
    body = error_document(code.error_id, message, status)
    return HttpResponse(body, status)
