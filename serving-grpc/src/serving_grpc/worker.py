"""One serving process: `python -m serving_grpc.worker`, started by pool.py, which says how."""

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

from model_runtime import MicroBatcher, ModelFolderInvalid, is_quick, load_predictor
from monitoring.metrics import ServingMetrics
from monitoring.shared_metrics import forget, share
from serving_grpc import logs
from serving_grpc.pool import FAILED, READY
from serving_grpc.ports import PortUnavailable
from serving_grpc.server import PredictionServer
from serving_grpc.settings import Settings

log = logging.getLogger(__name__)

# After the grace: for the engine's last batch, then the process ends whatever hangs.
_END_S = 2.0
_NOTICE_S = 0.5
_LOOK_S = 1.0
_STDIN = 0


def main() -> None:
    """Load, serve, drain; exits 1 when the model or the port cannot be had."""
    say = _claim_stdout()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's: it sends SIGTERM
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
        quick = is_quick(predictor)
        server = PredictionServer(batcher, metrics, settings, runs_engine=quick)
    except (ModelFolderInvalid, PortUnavailable) as error:
        say(FAILED + " ".join(str(error).split()))
        sys.exit(1)

    stop: SimpleQueue[int] = SimpleQueue()  # its put is safe in a signal handler, Event.set is not
    signal.signal(signal.SIGTERM, lambda number, _: stop.put(number))
    if not quick:
        batcher.start()
    server.start()
    server.announce()
    say(READY)
    _wait(stop, batcher)
    # Without its parent it closes the port at once: the next parent is waiting for it.
    notice_s = 0.0 if lifeline.cut else min(_NOTICE_S, settings.grace_s)
    _end_anyway_after(notice_s + settings.grace_s + _END_S)
    server.drain(settings.grace_s, notice_s)
    batcher.close(_END_S)
    if lifeline.cut:
        _remove_counts(metrics_dir)


def _wait(stop: "SimpleQueue[int]", batcher: MicroBatcher) -> None:
    """Until a signal says stop; a batcher that can no longer answer ends the process at once."""
    while True:
        try:
            stop.get(timeout=_LOOK_S)
        except Empty:
            if not batcher.ready:
                log.error("the model has stopped answering; ending")
                os._exit(1)  # the parent starts another
        else:
            return


def _claim_stdout() -> Callable[[str], None]:
    """Keep stdout for the line to the parent; whatever a library prints goes to stderr."""
    parent = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def say(line: str) -> None:
        parent.write(line + "\n")
        parent.flush()

    return say


class _Lifeline:
    """Makes the end of stdin the SIGTERM that a killed parent could not send."""

    def __init__(self) -> None:
        self.cut = False
        threading.Thread(target=self._watch, name="lifeline", daemon=True).start()

    def _watch(self) -> None:
        # Not sys.stdin: the interpreter cannot end while a thread waits inside it.
        while os.read(_STDIN, 1):
            pass
        self.cut = True
        os.kill(os.getpid(), signal.SIGTERM)


def _remove_counts(metrics_dir: Path) -> None:
    """Remove this process's files, and the folder when they were the last: nobody else will."""
    for file in metrics_dir.glob(f"*_{os.getpid()}.db"):
        file.unlink(missing_ok=True)
    forget(metrics_dir)
    with suppress(OSError):
        metrics_dir.rmdir()


def _end_anyway_after(seconds: float) -> None:
    def end() -> None:
        log.error("not drained within %.1f s; ending", seconds)
        os._exit(1)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()


if __name__ == "__main__":
    main()
