"""gunicorn around the app: the listening socket, the workers and how they stop."""

import gc
import math
import os
import select
import shutil
import socket
import sys
import threading
import time
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from types import FrameType
from typing import Any

from flask import Flask
from gunicorn import util  # type: ignore[import-untyped]
from gunicorn.app.base import BaseApplication  # type: ignore[import-untyped]
from gunicorn.arbiter import Arbiter  # type: ignore[import-untyped]
from gunicorn.errors import AppImportError  # type: ignore[import-untyped]
from gunicorn.glogging import Logger  # type: ignore[import-untyped]
from gunicorn.http import errors as http_errors  # type: ignore[import-untyped]
from gunicorn.http import wsgi
from gunicorn.workers.gthread import ThreadWorker  # type: ignore[import-untyped]
from prometheus_client import CollectorRegistry, values

from model_runtime import MicroBatcher, ModelFolderInvalid, load_predictor
from monitoring.metrics import ServingMetrics
from monitoring.process_tree import ProcessTree
from monitoring.shared_metrics import SharedMetrics, absorb
from serving_rest import wire
from serving_rest.app import JSON, create_app
from serving_rest.settings import Settings
from serving_rest.wire import ErrorCode

# Longer than Envoy keeps an idle connection to an upstream (1 h unless told otherwise): the side
# that sends requests must be the one that closes, or a request meets a closing connection.
KEEPALIVE_S = 3660
# How often a worker tells its master that it lives, and looks whether its master does.
PULSE_S = 0.25
# For so long a thread waits on its connection for the next request, before gunicorn's loop does.
STAY_MS = 50
MOST_STAYING = 128  # threads of a worker; the others are free for other connections
SERVER = "serving-rest"
MAX_HEADER_BYTES = 96 << 10
MAX_HEADERS = 64


class Server(BaseApplication):  # type: ignore[misc]  # gunicorn has no types
    """One master process that keeps `settings.workers` workers alive."""

    def __init__(self, settings: Settings, listener: socket.socket, metrics_dir: Path) -> None:
        """Takes over `listener`.

        Args:
            settings: Of the whole server.
            listener: Bound and listening.
            metrics_dir: Where the workers share their metrics; emptied already.
        """
        self.settings = settings
        self.metrics_dir = metrics_dir
        self.draining = False
        self._listener_fd = listener.detach()
        self._batcher: MicroBatcher | None = None
        super().__init__(prog="serving-rest")

    def load_config(self) -> None:
        """Called by gunicorn, in the master."""
        shared_memory = Path("/dev/shm")  # noqa: S108  # not a temporary file: gunicorn's pulse
        options = {
            "bind": [f"fd://{self._listener_fd}"],
            "proc_name": "serving-rest",
            "worker_class": Worker,
            "logger_class": Log,
            "workers": self.settings.workers,
            "threads": self.settings.threads,
            "worker_connections": self.settings.threads + 512,
            "keepalive": KEEPALIVE_S,
            "timeout": math.ceil(self.settings.silence_s),
            "graceful_timeout": math.ceil(self.settings.grace_s),
            # Off the disk: a slow disk would look like a dead worker.
            "worker_tmp_dir": str(shared_memory) if os.access(shared_memory, os.W_OK) else None,
            # 784 numbers in a URL are 6 to 19 KB; 0 is gunicorn's "no limit", 1 MiB in fact.
            "limit_request_line": 0,
            "limit_request_field_size": MAX_HEADER_BYTES,
            "limit_request_fields": MAX_HEADERS,
            # No header of the peer changes scheme or path, so none has to be looked at.
            "forwarded_allow_ips": "*",
            "secure_scheme_headers": {},
            "forwarder_headers": "",
            "control_socket_disable": True,
            "child_exit": self._forget_worker,
            "worker_exit": self._close_worker,
            "on_exit": self._clean_up,
        }
        for name, value in options.items():
            self.cfg.set(name, value)

    def load(self) -> Flask:
        """Called by gunicorn, in a worker: no engine survives a fork."""
        settings = self.settings
        try:
            predictor = load_predictor(
                settings.model_folder, settings.model_engine, settings.model_name
            )
        except ModelFolderInvalid as error:
            raise AppImportError(f"serving-rest: {error}") from None
        self._batcher = batcher = MicroBatcher(predictor, max_queue=settings.queue_limit)
        batcher.start()
        self._share_metrics()
        info = predictor.info
        metrics = ServingMetrics(CollectorRegistry(), "rest", info.name, info.version)
        every_worker = CollectorRegistry()
        SharedMetrics(self.metrics_dir, every_worker)
        ProcessTree(os.getppid(), "rest", every_worker)
        app = create_app(batcher, metrics, every_worker, settings, lambda: self.draining)
        # What is loaded stays: no collection looks at it again, in the middle of a request.
        gc.collect()
        gc.freeze()
        return app

    def _share_metrics(self) -> None:
        """In the worker: every metric from here on lives in a file that all workers read."""
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(self.metrics_dir)
        pid = os.getpid()
        # As the client does by itself, but it asks the system for the pid at every single step.
        values.ValueClass = values.MultiProcessValue(lambda: pid)  # type: ignore[no-untyped-call]

    def _close_worker(self, arbiter: Arbiter, worker: "Worker") -> None:
        """In the worker, at its end."""
        if self._batcher is not None:
            self._batcher.close(timeout_s=1.0)

    def _forget_worker(self, arbiter: Arbiter, worker: "Worker") -> None:
        """In the master, when a worker is gone: what it had in flight is not in flight."""
        absorb(self.metrics_dir, worker.pid)

    def _clean_up(self, arbiter: Arbiter) -> None:
        """In the master, at its end."""
        if self.settings.metrics_dir is None:
            shutil.rmtree(self.metrics_dir, ignore_errors=True)


class Worker(ThreadWorker):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn's threaded worker, stopped in steps.

    On SIGTERM it says it is not ready, still serving, for `drain_delay_s`; then it closes the
    listening socket, so that new callers are refused at once instead of waiting for nobody;
    then it answers what is in flight. When its master was killed it does the same by itself.
    """

    alive: bool

    def __init__(self, *args: object) -> None:
        """Called by gunicorn, in the master before the fork."""
        super().__init__(*args)
        self._stop_at = math.inf
        self._notify_at = -math.inf
        self._look_at = -math.inf
        self._staying = threading.BoundedSemaphore(min(MOST_STAYING, self.cfg.threads // 2 or 1))

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """On SIGTERM. No lock may be taken here: the interrupted thread may hold it."""
        if not self.app.draining:
            self.app.draining = True
            self._stop_at = time.monotonic() + self.app.settings.drain_delay_s
            self.method_queue.defer(lambda: None)  # wakes the loop

    def handle_quit(self, sig: int, frame: FrameType | None) -> None:
        """On SIGQUIT and SIGINT: at once. gunicorn's own waits for the thread pool's lock."""
        os._exit(0)

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        """One turn of gunicorn's loop."""
        timeout = min(timeout, PULSE_S)
        if self.alive:
            timeout = min(timeout, max(self._stop_at - time.monotonic(), 0.0))
        super().wait_for_and_dispatch_events(timeout)
        if time.monotonic() >= self._stop_at:
            self.alive = False

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
        """The last call of a stopping worker takes what is queued, then closes the socket."""
        super().set_accept_enabled(enabled)
        if self.alive:
            return
        for listener in self.sockets:
            while select.select([listener], [], [], 0)[0]:
                self.accept(listener)
            listener.close()

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

    def handle(self, conn: Any) -> object:
        """Answer a connection's requests for as long as one comes soon after the other.

        gunicorn gives the connection back to its loop after each: a pipe, two changes of the
        poller's set and two changes of thread, for a caller whose next request is on its way.
        """
        while (kept := super().handle(conn)) is True and self.alive and self._comes_soon(conn):
            pass
        return kept

    def _comes_soon(self, conn: Any) -> bool:
        if conn.parser.unreader.buf.tell():
            return True
        if not self._staying.acquire(blocking=False):
            return False
        try:
            coming = select.poll()
            coming.register(conn.sock, select.POLLIN)
            return bool(coming.poll(STAY_MS))
        finally:
            self._staying.release()

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
        crowded = len(self.keepalived_conns) >= self.max_keepalived
        close = crowded or not self.alive or req.should_close()
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
            message = "the request line is longer than 1048576 bytes, the limit"
        elif isinstance(error, http_errors.LimitRequestHeaders):
            status, code = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, ErrorCode.TOO_LARGE
            message = f"more than {MAX_HEADERS} headers, or one over {MAX_HEADER_BYTES} bytes"
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


class Log(Logger):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn's log, less the tracebacks of callers that stalled."""

    def exception(self, msg: object, *args: object, **kwargs: Any) -> None:
        """Called by gunicorn while it handles an exception."""
        if isinstance(sys.exc_info()[1], BlockingIOError | TimeoutError):
            self.debug("a caller stalled")
        else:
            super().exception(msg, *args, **kwargs)
