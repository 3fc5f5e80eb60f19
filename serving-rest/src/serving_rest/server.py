"""The gunicorn application: its configuration, and what a worker loads."""

import gc
import logging
import math
import os
import shutil
import signal
import socket
from pathlib import Path
from types import FrameType

from flask import Flask
from gunicorn.app.base import BaseApplication  # type: ignore[import-untyped]
from gunicorn.arbiter import Arbiter  # type: ignore[import-untyped]
from gunicorn.errors import AppImportError  # type: ignore[import-untyped]
from prometheus_client import CollectorRegistry

from monitoring.metrics import ServingMetrics
from monitoring.process_tree import ProcessTree
from monitoring.shared_metrics import SharedMetrics, absorb, share
from serving_core import (
    DataPlane,
    MicroBatcher,
    ModelFolderInvalid,
    is_fast,
    load_predictor,
    read_model_folder,
)
from serving_rest.app import Predictions, create_app
from serving_rest.connection_counts import ConnectionCounts
from serving_rest.event_loop import LoopSettings
from serving_rest.http_reader import Limits
from serving_rest.settings import Settings
from serving_rest.worker import Worker

log = logging.getLogger(__name__)

# Longer than Envoy's idle timeout of upstream connections (1 h by default): if the server closed
# first, a request could meet a closing connection.
KEEPALIVE_S = 3660
# Below the usual limit of 1,024 open files.
MAX_CONNECTIONS = 800
# 784 numbers in a URL are 6 to 19 KB.
MAX_LINE_BYTES = 1 << 20
MAX_HEADER_BYTES = 96 << 10
MAX_HEADERS_BYTES = 1 << 20
# The gateway passes on 100 and adds about 8 of its own.
MAX_HEADERS = 128


def loop_settings(settings: Settings) -> LoopSettings:
    """The limits of a worker's loop."""
    limits = Limits(
        line=MAX_LINE_BYTES,
        headers=MAX_HEADERS,
        header=MAX_HEADER_BYTES,
        section=MAX_HEADERS_BYTES,
        body=settings.max_body_bytes,
    )
    return LoopSettings(
        limits, settings.threads, MAX_CONNECTIONS, KEEPALIVE_S, settings.read_timeout_s
    )


class Server(BaseApplication):  # type: ignore[misc]  # gunicorn has no types
    """A gunicorn master that runs `settings.workers` workers."""

    def __init__(self, settings: Settings, listener: socket.socket, metrics_dir: Path) -> None:
        """Create the server; it owns `listener` from here on.

        Args:
            settings: The server's settings.
            listener: A bound and listening socket.
            metrics_dir: An empty directory for the workers' metrics.
        """
        self.settings = settings
        self.metrics_dir = metrics_dir
        self.draining = False
        self.loop_settings = loop_settings(settings)
        # Set in a worker by `load`.
        self.predictions: Predictions | None = None
        self.runs_engine = False
        # More slots than workers: a stopping worker may overlap with its successor.
        self.connection_counts = (
            ConnectionCounts(2 * settings.workers + 8) if settings.workers > 1 else None
        )
        self._listener_fd = listener.detach()
        super().__init__(prog="serving-rest")

    def load_config(self) -> None:
        """Configure gunicorn; called in the master."""
        shared_memory = Path("/dev/shm")  # noqa: S108  # not a temporary file: gunicorn's heartbeat
        options = {
            "bind": [f"fd://{self._listener_fd}"],
            "proc_name": "serving-rest",
            "worker_class": Worker,
            "workers": self.settings.workers,
            "timeout": math.ceil(self.settings.silence_s),
            "graceful_timeout": math.ceil(self.settings.grace_s),
            # In memory: a slow disk would look like a dead worker.
            "worker_tmp_dir": str(shared_memory) if os.access(shared_memory, os.W_OK) else None,
            "control_socket_disable": True,
            "when_ready": self._guard_reload,
            "pre_fork": self._assign_slot,
            "child_exit": self._absorb_worker,
            "worker_exit": self._close_batcher,
            "on_exit": self._clean_up,
        }
        for name, value in options.items():
            self.cfg.set(name, value)

    def load(self) -> Flask:
        """Load the model and create the app; in a worker, since no engine survives a fork."""
        settings = self.settings
        try:
            predictor = load_predictor(
                settings.model_folder, settings.model_engine, settings.model_name
            )
        except ModelFolderInvalid as error:
            raise AppImportError(f"serving-rest: {error}") from None
        batcher = MicroBatcher(predictor, max_queue=settings.queue_limit)
        self.runs_engine = is_fast(predictor)  # the worker's loop starts a fast one
        if not self.runs_engine:
            batcher.start()
        share(self.metrics_dir)
        info = predictor.info
        metrics = ServingMetrics(CollectorRegistry(), "rest", info.name, info.version)
        every_worker = CollectorRegistry()
        SharedMetrics(self.metrics_dir, every_worker)
        ProcessTree(os.getppid(), "rest", every_worker)
        self.predictions = Predictions(DataPlane(batcher, metrics), settings)
        app = create_app(self.predictions, every_worker, lambda: self.draining)
        # Exempt what is loaded from later collections, which would run during requests.
        gc.collect()
        gc.freeze()
        return app

    def _guard_reload(self, arbiter: Arbiter) -> None:
        """Refuse SIGHUP while the folder is invalid: gunicorn would stop the workers that serve.

        Called in the master once gunicorn has set its signal handlers.
        """
        reload = signal.getsignal(signal.SIGHUP)
        settings = self.settings

        def check_first(number: int, frame: FrameType | None) -> None:
            try:
                read_model_folder(settings.model_folder, settings.model_engine, settings.model_name)
            except ModelFolderInvalid as error:
                log.error("not reloaded: %s; the workers serve on", error)
            else:
                if callable(reload):
                    reload(number, frame)

        signal.signal(signal.SIGHUP, check_first)

    def _assign_slot(self, arbiter: Arbiter, worker: "Worker") -> None:
        """Assign a free slot; called in the master before a worker starts."""
        if self.connection_counts is not None:
            taken = {one.slot for one in arbiter.WORKERS.values()}
            free = (slot for slot in range(len(self.connection_counts)) if slot not in taken)
            worker.slot = next(free, None)

    def _close_batcher(self, arbiter: Arbiter, worker: "Worker") -> None:
        """Close the batcher; called in a worker at its exit."""
        if self.predictions is not None:
            self.predictions.batcher.close(timeout_s=1.0)

    def _absorb_worker(self, arbiter: Arbiter, worker: "Worker") -> None:
        """Absorb the metrics of an ended worker; called in the master."""
        absorb(self.metrics_dir, worker.pid)
        if self.connection_counts is not None and worker.slot is not None:
            self.connection_counts.clear(worker.slot)

    def _clean_up(self, arbiter: Arbiter) -> None:
        """Remove the metrics directory; called in the master at its exit."""
        if self.settings.metrics_dir is None:
            shutil.rmtree(self.metrics_dir, ignore_errors=True)
