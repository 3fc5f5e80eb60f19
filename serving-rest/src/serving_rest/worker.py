"""gunicorn's threaded worker with a loop that answers plain predictions by itself.

The loop reads what has come on its connections (quick.py), runs a quick engine on what waits, and
writes the answers: a prediction goes through no other thread. Everything else is gunicorn's: a
request that is not plain, or comes slowly, is handed to one of its threads with what has been read
of it, and the connection comes back afterwards. With an engine that takes long all requests are:
the threads' callers can be told that their deadline has passed. Nothing that waits may be called in
the loop.
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

from model_runtime import MicroBatcher
from serving_rest import quick, wire
from serving_rest.app import JSON, STATUS_LINES, Answer
from serving_rest.quick import Limits
from serving_rest.wire import ErrorCode

# How often a worker tells its master that it lives, and looks whether its master does.
PULSE_S = 0.25
# A request that has not all come by then is read by a thread, which may wait for it.
SLOW_S = 0.1
SERVER = "serving-rest"
READ_BYTES = 1 << 16
# In one turn: with one in each, the last of 32 callers that come at once would wait for as many
# batches of the first ones' next requests.
MOST_ACCEPTED = 16
# How long a worker leaves a new connection to those that have fewer than it has. Else whoever wakes
# first has them all, and of a machine's cores one has work.
YIELD_S = 0.005
# After the last answer on a connection, what its caller still sends is taken for so long, and so
# much of it: closed at once, the caller's system may throw away the answer (RFC 9112, 9.6).
LINGER_S = 2.0
MOST_DISCARDED_BYTES = 1 << 16


class Connection(TConn):  # type: ignore[misc]  # gunicorn has no types
    """One caller's, while the loop has it.

    Attributes:
        in_loop: Whether the loop has it, not a thread; false when it is closed.
        received: Of the next request, as far as it has come.
        slow_at: When a thread takes it over, if the request is not complete by then.
        asked: Whether the answer to a request is on its way.
        deaf: Whether the poller does not watch it.
        last: Whether it is closed after that answer.
        used_at: When the last answer was sent.
        discarded: Bytes taken since then, of a connection that is being closed.
    """

    def __init__(self, cfg: Any, sock: socket.socket, client: object, server: object) -> None:
        """As gunicorn's."""
        super().__init__(cfg, sock, client, server)
        self.in_loop = True
        self.received = b""
        self.slow_at = math.inf
        self.asked = False
        self.deaf = False
        self.last = False
        self.used_at = -math.inf
        self.discarded = 0


class LimitedRequest(Request):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn's request, with limits that its settings do not reach.

    It searches the whole head again after each piece that comes: without them a caller with a head
    of many megabytes would have a core for itself.
    """

    def __init__(self, limits: Limits, *args: object) -> None:
        """`args` are gunicorn's; it reads the head here."""
        self._limits = limits
        super().__init__(*args)

    def parse(self, unreader: object) -> object:
        """Called by gunicorn once it has set its own limits."""
        self.limit_request_line = self._limits.line
        self.max_buffer_headers = self._limits.section
        return super().parse(unreader)


class Worker(ThreadWorker):  # type: ignore[misc]  # gunicorn has no types
    """A process of the server, stopped in steps.

    On SIGTERM it says it is not ready, still serving, for `drain_delay_s`; then it closes the
    listening socket, so that new callers are refused at once instead of waiting for nobody;
    then it answers what is in flight. When its master was killed it does the same by itself.
    """

    alive: bool
    slot: int | None = None
    """In the server's shares; None where there is nobody to share with."""

    def __init__(self, *args: object) -> None:
        """Called by gunicorn, in the master before the fork."""
        super().__init__(*args)
        self._stop_at = math.inf
        self._notify_at = -math.inf
        self._look_at = -math.inf
        self._slow: deque[tuple[float, Connection]] = deque()
        self._read_ahead: deque[Connection] = deque()
        self._lingering: deque[tuple[float, Connection]] = deque()
        self._date = (0, "")
        self._yields_until = -math.inf
        self._has_yielded = False

    def load_wsgi(self) -> None:
        """A model folder that went bad stops a start, but not the workers that still serve."""
        try:
            super().load_wsgi()
        except AppImportError as error:
            if self.age <= self.cfg.workers:
                raise
            self.log.error("no new worker: %s", error)
            time.sleep(1.0)  # the master tries again at once
            sys.exit(1)
        self._predictions = self.app.predictions
        self._batcher = self.app.predictions.batcher
        if self.app.runs_engine:
            self._batcher.start(lambda: self.method_queue.defer(_nothing))

    def accept(self, listener: socket.socket) -> None:
        """Take new connections into the loop."""
        # One at least, which is why it was called; gunicorn looks at its limit between two turns.
        for _ in range(min(MOST_ACCEPTED, max(1, self.worker_connections - self.nr_conns))):
            if self._yields():
                return
            try:
                sock, client = listener.accept()
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.ECONNABORTED):
                    raise
                return
            self._take_in(listener, sock, client)
            self._tell_share()

    def _tell_share(self) -> None:
        if self.slot is not None and self.alive:
            self.app.shares.tell(self.slot, self.nr_conns)

    def _has_more_than_others(self) -> bool:
        if self.slot is None:
            return False
        fewest = self.app.shares.fewest()
        # Of many by a quarter: taken one by one, the last of 64 that come at once would wait long.
        return bool(self.nr_conns > fewest + fewest // 4)

    def _yields(self) -> bool:
        """Begin to leave connections to a worker with fewer, unless it has just had its time."""
        if self._has_yielded or not self.alive or not self._has_more_than_others():
            self._has_yielded = False  # for one connection
            return False
        super().set_accept_enabled(False)
        self._yields_until = time.monotonic() + YIELD_S
        return True

    def _still_yields(self) -> bool:
        if self._yields_until == -math.inf:
            return False
        self._has_yielded = time.monotonic() >= self._yields_until
        if not self._has_yielded and self._has_more_than_others():
            return True
        self._yields_until = -math.inf
        return False

    def _take_in(self, listener: socket.socket, sock: socket.socket, client: object) -> None:
        self.nr_conns += 1
        conn = Connection(self.cfg, sock, client, listener.getsockname())
        conn.set_timeout()
        self.keepalived_conns.append(conn)
        self._watch(conn)

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        """One turn of gunicorn's loop: read, score, answer."""
        engine = self._batcher if self.app.runs_engine else None
        now = time.monotonic()
        if self._read_ahead or (engine is not None and engine.waiting):
            timeout = 0.0
        else:
            timeout = min(timeout, PULSE_S)
            if self._slow:
                timeout = min(timeout, max(self._slow[0][0] - now, 0.0))
            if self.alive:
                timeout = min(timeout, max(self._stop_at - now, 0.0))
            if self._yields_until > now:
                timeout = min(timeout, self._yields_until - now)
        super().wait_for_and_dispatch_events(timeout)
        self._has_yielded = False
        while self._read_ahead:
            self._read_safely(self._read_ahead.popleft())
        if engine is not None and engine.waiting:
            self._gather(engine)
            engine.score_waiting()
        now = time.monotonic()
        while self._slow and self._slow[0][0] <= now:
            due, conn = self._slow.popleft()
            if conn.in_loop and conn.slow_at == due:
                self._hand_over(conn)
        while self._lingering and self._lingering[0][0] <= now:
            _, conn = self._lingering.popleft()
            if conn.in_loop:
                self._let_go(conn)
        self._tell_share()
        if now >= self._stop_at:
            self.alive = False

    def _gather(self, engine: MicroBatcher) -> None:
        """Read what has come meanwhile, for a fuller batch."""
        before = 0
        while before < engine.waiting < engine.full_batch:
            before = engine.waiting
            super().wait_for_and_dispatch_events(0.0)

    def on_client_socket_readable(self, conn: Connection, sock: socket.socket) -> None:
        """Called by the loop for a connection that it has."""
        if sock.fileno() < 0:  # closed in this very turn
            return
        conn.in_loop = True  # again, if a thread has had it
        if not self.app.runs_engine:
            self._hand_over(conn)
            return
        if conn.asked:  # the next request, or its end: after the answer
            self._unwatch(conn)
            return
        try:
            data = sock.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = conn.received = b""
        if data:
            conn.received += data
            self._read_safely(conn)
        elif conn.received:
            self._hand_over(conn)
        else:
            self._let_go(conn)

    def _read_safely(self, conn: Connection) -> None:
        if conn.asked or not conn.in_loop:
            return
        try:
            self._read(conn)
        except Exception:  # one caller's request must not end the loop of all
            self.log.exception("a request failed in the loop")
            self._let_go(conn)

    def _read(self, conn: Connection) -> None:
        """Ask for the prediction that has come, if it has all come."""
        try:
            found = quick.read(conn.received, self.app.limits)
        except quick.NotQuick:
            self._hand_over(conn)
            return
        if found is None:
            if conn.slow_at == math.inf:
                conn.slow_at = time.monotonic() + SLOW_S
                self._slow.append((conn.slow_at, conn))
            if conn.deaf:
                self._watch(conn)
            return
        conn.received = conn.received[found.length :]
        conn.slow_at = math.inf
        conn.asked = True
        conn.last = found.last
        self._predictions.ask(found.request, found.body, partial(self._send, conn))

    def _send(self, conn: Connection, answer: Answer, count: Callable[[], None]) -> None:
        """Called once for each request, in the loop's thread, which runs the engine."""
        conn.asked = False
        if not conn.in_loop:  # closed at the worker's end
            count()
            return
        close = conn.last or not self.alive
        data = self._head(answer, close) + answer.body
        count()
        try:
            sent = conn.sock.send(data)
        except OSError:  # the caller is gone, or has not read its answers for long
            sent = 0
        if sent < len(data):
            self._let_go(conn)
        elif close:
            self._leave_loop(conn)
            self._linger(conn)
        elif conn.received:  # the next request: nothing more is read before it is answered
            if not conn.deaf:
                self._unwatch(conn)
            conn.used_at = time.monotonic()
            self._read_ahead.append(conn)
        else:
            if conn.deaf:
                self._watch(conn)
            conn.used_at = time.monotonic()

    def _head(self, answer: Answer, close: bool) -> bytes:
        second = int(time.time())
        if second != self._date[0]:
            self._date = (second, util.http_date(second))
        lines = "".join([f"{name}: {value}\r\n" for name, value in answer.headers])
        return (
            f"HTTP/1.1 {STATUS_LINES[answer.status]}\r\n{lines}"
            f"Content-Length: {len(answer.body)}\r\nServer: {SERVER}\r\nDate: {self._date[1]}\r\n"
            f"Connection: {'close' if close else 'keep-alive'}\r\n\r\n"
        ).encode("latin-1")

    def _hand_over(self, conn: Connection) -> None:
        """Have a thread read on, gunicorn's way; finish_request brings the connection back."""
        self._leave_loop(conn)
        received, conn.received = conn.received, b""
        try:
            conn.init()
            conn.parser.mesg_class = partial(LimitedRequest, self.app.limits)
            conn.parser.unreader.unread(received)
            conn.data_ready = True
            self.enqueue_req(conn)
        except (OSError, RuntimeError) as error:  # gone, or the system has no thread more
            self.log.error("a request is dropped: %s", error)
            self.nr_conns -= 1
            conn.close()

    def finish_request(self, conn: Connection, done: "Future[object]") -> None:
        """Called in the loop when a thread is done with a connection."""
        if done.cancelled() or done.exception() is not None or done.result():
            super().finish_request(conn, done)
        else:  # gunicorn would wait here for the caller to close, and everybody with it
            self._linger(conn)

    def _linger(self, conn: Connection) -> None:
        """Close a connection that nothing more is sent on, when its caller has, or soon."""
        try:
            conn.sock.setblocking(False)
            conn.sock.shutdown(socket.SHUT_WR)
            self.poller.register(conn.sock, selectors.EVENT_READ, partial(self._discard, conn))
        except OSError:
            self.nr_conns -= 1
            conn.close()
            return
        conn.in_loop = True
        conn.deaf = False
        self._lingering.append((time.monotonic() + LINGER_S, conn))

    def _discard(self, conn: Connection, sock: socket.socket) -> None:
        try:
            data = sock.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        conn.discarded += len(data)
        if not data or conn.discarded > MOST_DISCARDED_BYTES:
            self._let_go(conn)

    def _let_go(self, conn: Connection) -> None:
        self._leave_loop(conn)
        self.nr_conns -= 1
        conn.close()

    def _leave_loop(self, conn: Connection) -> None:
        conn.in_loop = False
        conn.slow_at = math.inf
        if not conn.deaf:
            self._unwatch(conn)
        conn.deaf = False
        with suppress(ValueError):
            self.keepalived_conns.remove(conn)

    def _watch(self, conn: Connection) -> None:
        conn.deaf = False
        readable = partial(self.on_client_socket_readable, conn)
        self.poller.register(conn.sock, selectors.EVENT_READ, readable)

    def _unwatch(self, conn: Connection) -> None:
        conn.deaf = True
        with suppress(KeyError, ValueError):
            self.poller.unregister(conn.sock)

    def murder_keepalived(self, force: bool = False) -> None:
        """Called after every turn: let go the connections that nobody has used for long."""
        now = time.monotonic()
        while force and self._lingering:
            _, leaving = self._lingering.popleft()
            if leaving.in_loop:
                self._let_go(leaving)
        for _ in range(len(self.keepalived_conns)):
            conn = self.keepalived_conns[0]
            if conn.timeout > now and not force:
                return
            self.keepalived_conns.rotate(-1)
            used_until = conn.used_at + self.cfg.keepalive
            if force or not (conn.asked or (self.alive and used_until > now)):
                self._let_go(conn)
            elif self.alive:
                conn.timeout = used_until

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """On SIGTERM. No lock may be taken here: the interrupted thread may hold it."""
        if not self.app.draining:
            self.app.draining = True
            self._stop_at = time.monotonic() + self.app.settings.drain_delay_s
            self.method_queue.defer(lambda: None)  # wakes the loop

    def handle_quit(self, sig: int, frame: FrameType | None) -> None:
        """On SIGQUIT and SIGINT: at once. gunicorn's own waits for the thread pool's lock."""
        os._exit(0)

    def notify(self) -> None:
        """Tell the master that this worker lives: a system call, so not twice per request."""
        now = time.monotonic()
        if now >= self._notify_at:
            self._notify_at = now + PULSE_S
            super().notify()

    def is_parent_alive(self) -> bool:
        """Asked by gunicorn after every turn; False ends the loop."""
        now = time.monotonic()
        if now < self._look_at:
            return True
        self._look_at = now + PULSE_S
        if super().is_parent_alive():
            return True
        self.app.draining = True
        self.alive = False  # else connections would be kept
        return False

    def set_accept_enabled(self, enabled: bool) -> None:
        """Asked for in every turn; not done while this worker yields.

        The last call of a stopping worker takes what is queued, then closes the socket.
        """
        if self.alive and enabled and self._still_yields():
            return
        super().set_accept_enabled(enabled)
        if self.alive:
            self._tell_share()
            return
        if self.slot is not None:
            self.app.shares.leave(self.slot)
        for listener in self.sockets:
            while select.select([listener], [], [], 0)[0]:
                self.accept(listener)
            listener.close()

    def handle_request(self, req: Any, conn: Any) -> bool:
        """Answer with head and body in one segment.

        gunicorn writes them one after the other: a gateway woken by the head finds no body yet.
        Its own way also looks through every header that we write, and has hooks, an access log
        and streams, of which nothing here makes use.

        Returns:
            Whether the connection is kept.
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
        """Answer what gunicorn itself refuses, as everything here is answered: in JSON."""
        status, code = HTTPStatus.BAD_REQUEST, ErrorCode.GENERIC
        message = str(error)[:200]
        if isinstance(error, http_errors.LimitRequestLine):
            status, code = HTTPStatus.REQUEST_URI_TOO_LONG, ErrorCode.TOO_LARGE
            message = f"the request line is longer than {self.app.limits.line} bytes, the limit"
        elif isinstance(error, http_errors.LimitRequestHeaders):
            status, code = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, ErrorCode.TOO_LARGE
            limits = self.app.limits
            message = (
                f"more than {limits.headers} headers, one over {limits.header} bytes,"
                f" or all over {limits.section}"
            )
        elif isinstance(error, http_errors.UnsupportedTransferCoding):
            status = HTTPStatus.NOT_IMPLEMENTED
        elif isinstance(error, http_errors.ExpectationFailed):
            status = HTTPStatus.EXPECTATION_FAILED
        elif not isinstance(error, http_errors.ParseException):
            self.log.exception("a request failed outside the app")
            status, message = HTTPStatus.INTERNAL_SERVER_ERROR, "A generic error occurred"
        body = wire.error_document(code.error_id, message, status)
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\nConnection: close\r\n"
            f"Content-Type: {JSON}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        with suppress(OSError):
            util.write_nonblock(client, head.encode() + body)


def _nothing() -> None:
    """What wakes the loop, when that is all there is to do."""


class Log(Logger):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn's log, less the tracebacks of callers that stalled."""

    def exception(self, msg: object, *args: object, **kwargs: Any) -> None:
        """Called by gunicorn while it handles an exception."""
        if isinstance(sys.exc_info()[1], BlockingIOError | TimeoutError):
            self.debug("a caller stalled")
        else:
            super().exception(msg, *args, **kwargs)
