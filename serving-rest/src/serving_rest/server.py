"""gunicorn's master around the app: its configuration, and what a worker loads."""

import gc
import math
import os
import shutil
import socket
from pathlib import Path

from flask import Flask
from gunicorn.app.base import BaseApplication  # type: ignore[import-untyped]
from gunicorn.arbiter import Arbiter  # type: ignore[import-untyped]
from gunicorn.errors import AppImportError  # type: ignore[import-untyped]
from prometheus_client import CollectorRegistry

from model_runtime import MicroBatcher, ModelFolderInvalid, is_quick, load_predictor
from monitoring.metrics import ServingMetrics
from monitoring.process_tree import ProcessTree
from monitoring.shared_metrics import SharedMetrics, absorb, share
from serving_rest.app import Predictions, create_app
from serving_rest.quick import Limits
from serving_rest.settings import Settings
from serving_rest.shares import Shares
from serving_rest.worker import Log, Worker

# Longer than Envoy keeps an idle connection to an upstream (1 h unless told otherwise): the side
# that sends requests must be the one that closes, or a request meets a closing connection.
KEEPALIVE_S = 3660
MAX_LINE_BYTES = 1 << 20
MAX_HEADER_BYTES = 96 << 10
MAX_HEADERS_BYTES = 1 << 20
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
        self.limits = Limits(
            line=MAX_LINE_BYTES,
            headers=MAX_HEADERS,
            header=MAX_HEADER_BYTES,
            section=MAX_HEADERS_BYTES,
            body=settings.max_body_bytes,
        )
        # Of a worker, once it has loaded.
        self.predictions: Predictions | None = None
        self.runs_engine = False
        # Twice, and some: a worker that stops may still be there when its successor starts.
        self.shares = Shares(2 * settings.workers + 8) if settings.workers > 1 else None
        self._listener_fd = listener.detach()
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
            # The same refusals everywhere, whether or not gunicorn's C parser is installed.
            "http_parser": "python",
            # 784 numbers in a URL are 6 to 19 KB. gunicorn allows at most 8190 bytes, or, by 0, any
            # number: the worker's LimitedRequest has the limit.
            "limit_request_line": 0,
            "limit_request_field_size": MAX_HEADER_BYTES,
            "limit_request_fields": MAX_HEADERS,
            # No header of the peer changes scheme or path, so none has to be looked at.
            "forwarded_allow_ips": "*",
            "secure_scheme_headers": {},
            "forwarder_headers": "",
            "control_socket_disable": True,
            "pre_fork": self._give_slot,
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
        batcher = MicroBatcher(predictor, max_queue=settings.queue_limit)
        self.runs_engine = is_quick(predictor)  # then the worker's loop starts it
        if not self.runs_engine:
            batcher.start()
        share(self.metrics_dir)
        info = predictor.info
        metrics = ServingMetrics(CollectorRegistry(), "rest", info.name, info.version)
        every_worker = CollectorRegistry()
        SharedMetrics(self.metrics_dir, every_worker)
        ProcessTree(os.getppid(), "rest", every_worker)
        self.predictions = Predictions(batcher, metrics, settings)
        app = create_app(self.predictions, every_worker, lambda: self.draining)
        # What is loaded stays: no collection looks at it again, in the middle of a request.
        gc.collect()
        gc.freeze()
        return app

    def _give_slot(self, arbiter: Arbiter, worker: "Worker") -> None:
        """In the master, before a worker is started."""
        if self.shares is not None:
            taken = {one.slot for one in arbiter.WORKERS.values()}
            free = (slot for slot in range(len(self.shares)) if slot not in taken)
            worker.slot = next(free, None)

    def _close_worker(self, arbiter: Arbiter, worker: "Worker") -> None:
        """In the worker, at its end."""
        if self.predictions is not None:
            self.predictions.batcher.close(timeout_s=1.0)

    def _forget_worker(self, arbiter: Arbiter, worker: "Worker") -> None:
        """In the master, when a worker is gone: what it had in flight is not in flight."""
        absorb(self.metrics_dir, worker.pid)
        if self.shares is not None and worker.slot is not None:
            self.shares.leave(worker.slot)

    def _clean_up(self, arbiter: Arbiter) -> None:
        """In the master, at its end."""
        if self.settings.metrics_dir is None:
            shutil.rmtree(self.metrics_dir, ignore_errors=True)
