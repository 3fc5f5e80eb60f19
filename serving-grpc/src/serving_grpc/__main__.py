"""`python -m serving_grpc`: the parent process, which supervises the workers."""

import logging
import os
import signal
import sys
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

from prometheus_client import CollectorRegistry

from monitoring.process_tree import ProcessTree
from monitoring.shared_metrics import SharedMetrics, absorb
from serving_core import ModelFolderInvalid, read_model_folder
from serving_grpc import logs
from serving_grpc.pool import WorkerPool, WorkersFailed
from serving_grpc.ports import PortUnavailable, reserve_port
from serving_grpc.settings import SettingInvalid, Settings
from serving_grpc.side_port import SidePort

log = logging.getLogger(__name__)

# Default environment of the workers. Without the experiment, the call loop polls the sockets itself
# instead of being woken by a polling thread of the core. One malloc arena is enough for a process
# with one busy thread.
WORKER_DEFAULTS = {"GRPC_EXPERIMENTS": "-event_engine_listener", "MALLOC_ARENA_MAX": "1"}


def main() -> None:
    """Serve until SIGTERM or SIGINT; exit with status 1 and one sentence on failure."""
    logs.configure()
    try:
        serve(Settings.from_env(os.environ))
    except (SettingInvalid, ModelFolderInvalid, PortUnavailable, WorkersFailed) as error:
        sys.exit(f"serving-grpc: {error}")


def serve(settings: Settings) -> None:
    """Check the model and the ports, then run the workers until a signal.

    Raises:
        ModelFolderInvalid: The model is missing or fails its checksums.
        PortUnavailable: One of the two ports is in use.
        WorkersFailed: The workers cannot be started.
    """
    info = read_model_folder(settings.model_folder, settings.model_engine, settings.model_name).info
    with (
        closing(reserve_port(settings.host, settings.port)) as reserved,
        TemporaryDirectory(prefix="serving-grpc-", ignore_cleanup_errors=True) as metrics_dir,
    ):
        port: int = reserved.getsockname()[1]
        registry = CollectorRegistry()
        SharedMetrics(Path(metrics_dir), registry)
        ProcessTree(os.getpid(), "grpc", registry)
        pool = WorkerPool(
            settings.workers,
            WORKER_DEFAULTS
            | os.environ
            | {"GRPC_PORT": str(port), "PROMETHEUS_MULTIPROC_DIR": metrics_dir},
            settings.grace_s,
            lambda pid: absorb(Path(metrics_dir), pid),
        )
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: pool.stop())
        signal.signal(signal.SIGHUP, lambda *_: pool.reload())
        with SidePort(settings.host, settings.metrics_port, registry, lambda: pool.ready) as side:
            log.info(
                "%s %s (%s): gRPC on %s:%d, metrics on %s:%d; starting %d workers",
                *(info.name, info.version, info.engine),
                *(settings.host, port, settings.host, side.port, settings.workers),
            )
            pool.run()
    log.info("stopped")


if __name__ == "__main__":
    main()
