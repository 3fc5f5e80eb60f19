"""A worker process, `python -m serving_grpc.worker`; pool.py starts it."""

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue

from prometheus_client import CollectorRegistry

from monitoring.metrics import ServingMetrics
from monitoring.shared_metrics import forget, share
from serving_core import DataPlane, MicroBatcher, ModelFolderInvalid, is_fast, load_predictor
from serving_grpc import logs
from serving_grpc.pool import FAILED, READY
from serving_grpc.ports import PortUnavailable
from serving_grpc.server import PredictionServer
from serving_grpc.settings import Settings

log = logging.getLogger(__name__)

# Time after the grace for the engine's last batch; then the process exits.
_END_S = 2.0
_READY_CHECK_S = 1.0
_STDIN = 0


def main() -> None:
    """Load the model, serve and drain; exit with status 1 without a model or a port."""
    report = _claim_stdout()
    for number in (signal.SIGINT, signal.SIGHUP):  # a terminal's signals are the parent's
        signal.signal(number, signal.SIG_IGN)
    lifeline = _Lifeline()
    logs.configure()
    settings = Settings.from_env(os.environ)
    try:
        predictor = load_predictor(
            settings.model_folder, settings.model_engine, settings.model_name
        )
        info = predictor.info
        batcher = MicroBatcher(predictor, max_queue=settings.queue_limit)
        share(metrics_dir := Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]))
        metrics = ServingMetrics(CollectorRegistry(), "grpc", info.name, info.version)
        fast = is_fast(predictor)
        server = PredictionServer(DataPlane(batcher, metrics), settings, runs_engine=fast)
    except (ModelFolderInvalid, PortUnavailable) as error:
        report(FAILED + " ".join(str(error).split()))
        sys.exit(1)

    stop: SimpleQueue[int] = SimpleQueue()  # its put is safe in a signal handler, Event.set is not
    signal.signal(signal.SIGTERM, lambda number, _: stop.put(number))
    if not fast:
        batcher.start()
    server.start()
    server.announce()
    report(READY)
    _wait_for_stop(stop, batcher)
    # Without a parent the port closes at once: a new parent may be waiting for it.
    delay_s = 0.0 if lifeline.closed else min(settings.drain_delay_s, settings.grace_s)
    _exit_after(settings.grace_s + _END_S)
    server.drain(settings.grace_s - delay_s, delay_s)
    batcher.close(_END_S)
    if lifeline.closed:
        _remove_metrics(metrics_dir)


def _wait_for_stop(stop: "SimpleQueue[int]", batcher: MicroBatcher) -> None:
    """Wait for SIGTERM; exit at once if the engine thread has died."""
    while True:
        try:
            stop.get(timeout=_READY_CHECK_S)
        except Empty:
            if not batcher.ready:
                log.error("the engine thread has died; exiting")
                os._exit(1)  # the parent restarts the worker
        else:
            return


def _claim_stdout() -> Callable[[str], None]:
    """Reserve stdout for the parent; redirect what libraries print to stderr."""
    parent = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def report(line: str) -> None:
        parent.write(line + "\n")
        parent.flush()

    return report


class _Lifeline:
    """Sends SIGTERM to this process when stdin closes, which means that the parent has died."""

    def __init__(self) -> None:
        self.closed = False
        threading.Thread(target=self._watch, name="lifeline", daemon=True).start()

    def _watch(self) -> None:
        # Not sys.stdin: the interpreter cannot exit while a thread blocks in it.
        while os.read(_STDIN, 1):
            pass
        self.closed = True
        os.kill(os.getpid(), signal.SIGTERM)


def _remove_metrics(metrics_dir: Path) -> None:
    """Remove this process's metric files, and the folder if it is then empty."""
    for file in metrics_dir.glob(f"*_{os.getpid()}.db"):
        file.unlink(missing_ok=True)
    forget(metrics_dir)
    with suppress(OSError):
        metrics_dir.rmdir()


def _exit_after(seconds: float) -> None:
    def end() -> None:
        log.error("not drained within %.1f s; exiting", seconds)
        os._exit(1)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()


if __name__ == "__main__":
    main()
