"""gunicorn's threaded worker with an event loop that serves plain predictions itself.

The loop reads its connections, parses plain predictions (fast_path.py), runs a fast engine on the
queued batch and writes the responses: such a prediction passes through one thread. Any other
request, and one that arrives slowly, goes to a gunicorn thread together with the bytes received so
far; the connection then returns to the loop. With a slow engine every request goes to a thread,
which can answer when a deadline passes. The loop must never block.
"""

import errno
import math
import os
import select
import selectors
import socket
import sys
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from types import FrameType
from typing import Any

from gunicorn import util  # type: ignore[import-untyped]
from gunicorn.errors import AppImportError  # type: ignore[import-untyped]
from gunicorn.glogging import Logger  # type: ignore[import-untyped]
from gunicorn.http import errors as http_errors  # type: ignore[import-untyped]
from gunicorn.http import wsgi
from gunicorn.http.message import Request  # type: ignore[import-untyped]
from gunicorn.workers.gthread import TConn, ThreadWorker  # type: ignore[import-untyped]

from serving_core import MicroBatcher
from serving_core.protocols.http import JSON, HttpResponse
from serving_core.protocols.seldon.rest import ErrorCode, error_document
from serving_rest import fast_path
from serving_rest.app import STATUS_LINES, Headers
from serving_rest.fast_path import Limits

# Interval of the heartbeat to the master, and of the check that the master is alive.
HEARTBEAT_S = 0.25
# A request that is still incomplete after this time goes to a thread, which may block.
READ_WAIT_S = 0.1
SERVER = "serving-rest"
READ_BYTES = 1 << 16
# Connections accepted in one iteration. With one in each, the last of 32 simultaneous callers
# would wait for as many batches of the first callers' next requests.
MAX_ACCEPTS = 16
# How long a worker leaves new connections to workers that have fewer. Without this pause the first
# worker to wake accepts them all, and one core does all the work.
ACCEPT_PAUSE_S = 0.005
# Lingering close: after the last response, the server discards what the caller still sends, up to
# these limits. An immediate close may make the caller's system drop the response (RFC 9112, 9.6).
LINGER_S = 2.0
MAX_DISCARDED_BYTES = 1 << 16


class Connection(TConn):  # type: ignore[misc]  # gunicorn has no types
    """A client connection and its state in the event loop.

    Attributes:
        in_loop: Whether the loop owns it; false in a thread and after the close.
        received: Bytes of the next request, received so far.
        read_deadline: When an incomplete request goes to a thread.
        in_flight: Whether a request awaits its response.
        read_paused: Whether the connection is unregistered from the poller.
        close_after_response: Whether the connection closes after that response.
        responded_at: When the last response was sent.
        discarded_bytes: Bytes discarded during a lingering close.
    """

    def __init__(self, cfg: Any, sock: socket.socket, client: object, server: object) -> None:
        """The arguments are TConn's."""
        super().__init__(cfg, sock, client, server)
        self.in_loop = True
        self.received = b""
        self.read_deadline = math.inf
        self.in_flight = False
        self.read_paused = False
        self.close_after_response = False
        self.responded_at = -math.inf
        self.discarded_bytes = 0


class LimitedRequest(Request):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn's request with limits that gunicorn's settings cannot express.

    gunicorn scans the whole head again after each read: without these limits one caller with a
    head of many megabytes would occupy a core.
    """

    def __init__(self, limits: Limits, *args: object) -> None:
        """Read the head; `args` are Request's."""
        self._limits = limits
        super().__init__(*args)

    def parse(self, unreader: object) -> object:
        """Replace gunicorn's limits, then parse."""
        self.limit_request_line = self._limits.line
        self.max_buffer_headers = self._limits.section
        return super().parse(unreader)


class Worker(ThreadWorker):  # type: ignore[misc]  # gunicorn has no types
    """A worker process with a graceful shutdown.

    On SIGTERM it reports not ready and serves on for `drain_delay_s`. It then closes the listening
    socket, so that new connections are refused at once, and completes the requests in flight. It
    does the same when its master was killed.
    """

    alive: bool
    slot: int | None = None
    """Its slot in the server's connection counts; None in a server of one worker."""

    def __init__(self, *args: object) -> None:
        """Called by gunicorn in the master, before the fork."""
        super().__init__(*args)
        self._stop_at = math.inf
        self._next_heartbeat = -math.inf
        self._next_parent_check = -math.inf
        self._read_deadlines: deque[tuple[float, Connection]] = deque()
        self._pipelined: deque[Connection] = deque()
        self._lingering: deque[tuple[float, Connection]] = deque()
        self._date = (0, "")
        self._accept_paused_until = -math.inf
        self._accept_was_paused = False

    def load_wsgi(self) -> None:
        """Load the app; an invalid model folder ends a start, not the workers that still serve."""
        try:
            super().load_wsgi()
        except AppImportError as error:
            if self.age <= self.cfg.workers:
                raise
            self.log.error("no new worker: %s", error)
            time.sleep(1.0)  # the master retries at once
            sys.exit(1)
        self._predictions = self.app.predictions
        self._batcher = self.app.predictions.batcher
        if self.app.runs_engine:
            self._batcher.start(lambda: self.method_queue.defer(_wake_loop))

    def accept(self, listener: socket.socket) -> None:
        """Accept new connections into the loop."""
        # At least one, since the listener is readable; gunicorn checks its limit per iteration.
        for _ in range(min(MAX_ACCEPTS, max(1, self.worker_connections - self.nr_conns))):
            if self._pause_accept():
                return
            try:
                sock, client = listener.accept()
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.ECONNABORTED):
                    raise
                return
            self._register(listener, sock, client)
            self._publish_connections()

    def _publish_connections(self) -> None:
        if self.slot is not None and self.alive:
            self.app.connection_counts.set(self.slot, self.nr_conns)

    def _has_excess_connections(self) -> bool:
        if self.slot is None:
            return False
        lowest = self.app.connection_counts.lowest()
        # A quarter more is allowed: strictly even counts would delay the last of 64 simultaneous
        # connections.
        return bool(self.nr_conns > lowest + lowest // 4)

    def _pause_accept(self) -> bool:
        """Pause accepting if another worker has fewer connections; not twice in a row."""
        if self._accept_was_paused or not self.alive or not self._has_excess_connections():
            self._accept_was_paused = False  # the exemption is for one connection
            return False
        super().set_accept_enabled(False)
        self._accept_paused_until = time.monotonic() + ACCEPT_PAUSE_S
        return True

    def _accept_is_paused(self) -> bool:
        if self._accept_paused_until == -math.inf:
            return False
        self._accept_was_paused = time.monotonic() >= self._accept_paused_until
        if not self._accept_was_paused and self._has_excess_connections():
            return True
        self._accept_paused_until = -math.inf
        return False

    def _register(self, listener: socket.socket, sock: socket.socket, client: object) -> None:
        self.nr_conns += 1
        conn = Connection(self.cfg, sock, client, listener.getsockname())
        conn.set_timeout()
        self.keepalived_conns.append(conn)
        self._resume_reading(conn)

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        """Run one iteration of the event loop: read, run the engine, respond."""
        engine = self._batcher if self.app.runs_engine else None
        now = time.monotonic()
        if self._pipelined or (engine is not None and engine.queued):
            timeout = 0.0
        else:
            timeout = min(timeout, HEARTBEAT_S)
            if self._read_deadlines:
                timeout = min(timeout, max(self._read_deadlines[0][0] - now, 0.0))
            if self.alive:
                timeout = min(timeout, max(self._stop_at - now, 0.0))
            if self._accept_paused_until > now:
                timeout = min(timeout, self._accept_paused_until - now)
        super().wait_for_and_dispatch_events(timeout)
        self._accept_was_paused = False
        while self._pipelined:
            self._try_read(self._pipelined.popleft())
        if engine is not None and engine.queued:
            self._fill_batch(engine)
            engine.run_batch()
        now = time.monotonic()
        while self._read_deadlines and self._read_deadlines[0][0] <= now:
            due, conn = self._read_deadlines.popleft()
            if conn.in_loop and conn.read_deadline == due:
                self._dispatch_to_thread(conn)
        while self._lingering and self._lingering[0][0] <= now:
            _, conn = self._lingering.popleft()
            if conn.in_loop:
                self._close(conn)
        self._publish_connections()
        if now >= self._stop_at:
            self.alive = False

    def _fill_batch(self, engine: MicroBatcher) -> None:
        """Read further requests until the batch is full or none arrives."""
        before = 0
        while before < engine.queued < engine.max_batch:
            before = engine.queued
            super().wait_for_and_dispatch_events(0.0)

    def on_client_socket_readable(self, conn: Connection, sock: socket.socket) -> None:
        """Called by the poller for a connection of the loop."""
        if sock.fileno() < 0:  # closed in this iteration
            return
        conn.in_loop = True  # it may return from a thread
        if not self.app.runs_engine:
            self._dispatch_to_thread(conn)
            return
        if conn.in_flight:  # pipelined data or a disconnect: read after the response
            self._pause_reading(conn)
            return
        try:
            data = sock.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = conn.received = b""
        if data:
            conn.received += data
            self._try_read(conn)
        elif conn.received:
            self._dispatch_to_thread(conn)
        else:
            self._close(conn)

    def _try_read(self, conn: Connection) -> None:
        if conn.in_flight or not conn.in_loop:
            return
        try:
            self._read(conn)
        except Exception:  # one request must not end the loop
            self.log.exception("unexpected error in the event loop, closing the connection")
            self._close(conn)

    def _read(self, conn: Connection) -> None:
        """Submit the next request if it is complete."""
        try:
            parsed = fast_path.parse(conn.received, self.app.limits)
        except fast_path.NotOnFastPath:
            self._dispatch_to_thread(conn)
            return
        if parsed is None:
            if conn.read_deadline == math.inf:
                conn.read_deadline = time.monotonic() + READ_WAIT_S
                self._read_deadlines.append((conn.read_deadline, conn))
            if conn.read_paused:
                self._resume_reading(conn)
            return
        conn.received = conn.received[parsed.consumed :]
        conn.read_deadline = math.inf
        conn.in_flight = True
        conn.close_after_response = parsed.close_after_response
        self._predictions.submit(parsed.codec, parsed.request, partial(self._send, conn))

    def _send(
        self,
        conn: Connection,
        response: HttpResponse,
        headers: Headers,
        count: Callable[[], None],
    ) -> None:
        """Send a response; called once per request, in the loop's thread."""
        conn.in_flight = False
        if not conn.in_loop:  # closed by a shutdown
            count()
            return
        close = conn.close_after_response or not self.alive
        data = self._head(response, headers, close) + response.body
        count()
        try:
            sent = conn.sock.send(data)
        except OSError:  # the caller disconnected, or does not read its responses
            sent = 0
        if sent < len(data):
            self._close(conn)
        elif close:
            self._unregister(conn)
            self._linger(conn)
        elif conn.received:  # a pipelined request is served before more is read
            if not conn.read_paused:
                self._pause_reading(conn)
            conn.responded_at = time.monotonic()
            self._pipelined.append(conn)
        else:
            if conn.read_paused:
                self._resume_reading(conn)
            conn.responded_at = time.monotonic()

    def _head(self, response: HttpResponse, headers: Headers, close: bool) -> bytes:
        second = int(time.time())
        if second != self._date[0]:
            self._date = (second, util.http_date(second))
        lines = "".join([f"{name}: {value}\r\n" for name, value in headers])
        return (
            f"HTTP/1.1 {STATUS_LINES[response.status]}\r\n{lines}"
            f"Content-Length: {len(response.body)}\r\nServer: {SERVER}\r\nDate: {self._date[1]}\r\n"
            f"Connection: {'close' if close else 'keep-alive'}\r\n\r\n"
        ).encode("latin-1")

    def _dispatch_to_thread(self, conn: Connection) -> None:
        """Pass the connection to a gunicorn thread; finish_request returns it."""
        self._unregister(conn)
        received, conn.received = conn.received, b""
        try:
            conn.init()
            conn.parser.mesg_class = partial(LimitedRequest, self.app.limits)
            conn.parser.unreader.unread(received)
            conn.data_ready = True
            self.enqueue_req(conn)
        except (OSError, RuntimeError) as error:  # disconnected, or no thread can be started
            self.log.error(
                "cannot dispatch a request to a thread, closing its connection: %s", error
            )
            self.nr_conns -= 1
            conn.close()

    def finish_request(self, conn: Connection, done: "Future[object]") -> None:
        """Called in the loop when a thread has finished a request."""
        if done.cancelled() or done.exception() is not None or done.result():
            super().finish_request(conn, done)
        else:  # gunicorn's graceful close would block the loop
            self._linger(conn)

    def _linger(self, conn: Connection) -> None:
        """Start a lingering close: wait for the caller to close, up to the limits."""
        try:
            conn.sock.setblocking(False)
            conn.sock.shutdown(socket.SHUT_WR)
            self.poller.register(conn.sock, selectors.EVENT_READ, partial(self._discard, conn))
        except OSError:
            self.nr_conns -= 1
            conn.close()
            return
        conn.in_loop = True
        conn.read_paused = False
        self._lingering.append((time.monotonic() + LINGER_S, conn))

    def _discard(self, conn: Connection, sock: socket.socket) -> None:
        try:
            data = sock.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        conn.discarded_bytes += len(data)
        if not data or conn.discarded_bytes > MAX_DISCARDED_BYTES:
            self._close(conn)

    def _close(self, conn: Connection) -> None:
        self._unregister(conn)
        self.nr_conns -= 1
        conn.close()

    def _unregister(self, conn: Connection) -> None:
        conn.in_loop = False
        conn.read_deadline = math.inf
        if not conn.read_paused:
            self._pause_reading(conn)
        conn.read_paused = False
        with suppress(ValueError):
            self.keepalived_conns.remove(conn)

    def _resume_reading(self, conn: Connection) -> None:
        conn.read_paused = False
        readable = partial(self.on_client_socket_readable, conn)
        self.poller.register(conn.sock, selectors.EVENT_READ, readable)

    def _pause_reading(self, conn: Connection) -> None:
        conn.read_paused = True
        with suppress(KeyError, ValueError):
            self.poller.unregister(conn.sock)

    def murder_keepalived(self, force: bool = False) -> None:
        """Close idle connections; called after every iteration."""
        now = time.monotonic()
        while force and self._lingering:
            _, lingering = self._lingering.popleft()
            if lingering.in_loop:
                self._close(lingering)
        for _ in range(len(self.keepalived_conns)):
            conn = self.keepalived_conns[0]
            if conn.timeout > now and not force:
                return
            self.keepalived_conns.rotate(-1)
            expires_at = conn.responded_at + self.cfg.keepalive
            if force or not (conn.in_flight or (self.alive and expires_at > now)):
                self._close(conn)
            elif self.alive:
                conn.timeout = expires_at

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Handle SIGTERM. It may take no lock: the interrupted thread may hold it."""
        if not self.app.draining:
            self.app.draining = True
            self._stop_at = time.monotonic() + self.app.settings.drain_delay_s
            self.method_queue.defer(lambda: None)  # wakes the loop

    def handle_quit(self, sig: int, frame: FrameType | None) -> None:
        """Exit at once on SIGQUIT and SIGINT; gunicorn's handler waits for the pool's lock."""
        os._exit(0)

    def notify(self) -> None:
        """Send the heartbeat to the master; rate-limited, since it is a system call."""
        now = time.monotonic()
        if now >= self._next_heartbeat:
            self._next_heartbeat = now + HEARTBEAT_S
            super().notify()

    def is_parent_alive(self) -> bool:
        """Called by gunicorn after every iteration; False ends the loop."""
        now = time.monotonic()
        if now < self._next_parent_check:
            return True
        self._next_parent_check = now + HEARTBEAT_S
        if super().is_parent_alive():
            return True
        self.app.draining = True
        self.alive = False  # responses then close their connections
        return False

    def set_accept_enabled(self, enabled: bool) -> None:
        """Called in every iteration; without effect while accepting is paused.

        The last call of a stopping worker accepts the queued connections and closes the listener.
        """
        if self.alive and enabled and self._accept_is_paused():
            return
        super().set_accept_enabled(enabled)
        if self.alive:
            self._publish_connections()
            return
        if self.slot is not None:
            self.app.connection_counts.clear(self.slot)
        for listener in self.sockets:
            while select.select([listener], [], [], 0)[0]:
                self.accept(listener)
            listener.close()

    def handle_request(self, req: Any, conn: Any) -> bool:
        """Call the app and send head and body in one segment.

        gunicorn writes them separately, which wakes the gateway before the body is there. It also
        validates each response header and supports hooks, an access log and streaming, none of
        which this server uses.

        Returns:
            Whether the connection is kept alive.
        """
        _, environ = wsgi.create(req, conn.sock, conn.client, conn.server, self.cfg)
        environ["wsgi.multithread"] = True
        close = not self.alive or req.should_close()
        head: list[str] = []

        def start_response(status: str, headers: list[tuple[str, str]], *_: object) -> None:
            head.append(f"HTTP/{req.version[0]}.{req.version[1]} {status}\r\n")
            head.extend(f"{name}: {value}\r\n" for name, value in headers)

        parts = self.wsgi(environ, start_response)
        try:
            body = b"".join(parts)
        finally:
            if hasattr(parts, "close"):
                parts.close()
        head += (
            f"Server: {SERVER}\r\nDate: {util.http_date()}\r\n",
            f"Connection: {'close' if close else 'keep-alive'}\r\n\r\n",
        )
        conn.sock.sendall("".join(head).encode("latin-1") + body)
        return not close

    def handle_error(
        self, req: object, client: socket.socket, addr: object, error: Exception
    ) -> None:
        """Answer with a JSON error what gunicorn refuses."""
        status, code = HTTPStatus.BAD_REQUEST, ErrorCode.GENERIC
        message = str(error)[:200]
        if isinstance(error, http_errors.LimitRequestLine):
            status, code = HTTPStatus.REQUEST_URI_TOO_LONG, ErrorCode.TOO_LARGE
            message = f"the request line exceeds the limit of {self.app.limits.line} bytes"
        elif isinstance(error, http_errors.LimitRequestHeaders):
            status, code = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, ErrorCode.TOO_LARGE
            limits = self.app.limits
            message = (
                f"the headers exceed a limit: {limits.headers} headers,"
                f" {limits.header} bytes each, {limits.section} bytes together"
            )
        elif isinstance(error, http_errors.UnsupportedTransferCoding):
            status = HTTPStatus.NOT_IMPLEMENTED
        elif isinstance(error, http_errors.ExpectationFailed):
            status = HTTPStatus.EXPECTATION_FAILED
        elif not isinstance(error, http_errors.ParseException):
            self.log.exception("unexpected error outside the app")
            status, message = HTTPStatus.INTERNAL_SERVER_ERROR, "A generic error occurred"
        body = error_document(code.error_id, message, status)
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\nConnection: close\r\n"
            f"Content-Type: {JSON}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        with suppress(OSError):
            util.write_nonblock(client, head.encode() + body)


def _wake_loop() -> None:
    """Do nothing: the deferred call itself wakes the loop."""


class Log(Logger):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn's log without tracebacks for stalled callers."""

    def exception(self, msg: object, *args: object, **kwargs: Any) -> None:
        """Log the exception that is being handled."""
        if isinstance(sys.exc_info()[1], BlockingIOError | TimeoutError):
            self.debug("the caller stalled")
        else:
            super().exception(msg, *args, **kwargs)
