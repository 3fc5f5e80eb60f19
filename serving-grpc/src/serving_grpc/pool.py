"""The worker processes as their parent sees them: started, watched, started again, stopped.

A worker's stdin is its lifeline: it never reads anything there but the end, which means that the
parent is gone, however it went. Its stdout carries one line: READY, or FAILED and a sentence.
"""

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from queue import SimpleQueue
from typing import NamedTuple

log = logging.getLogger(__name__)

READY = "ready"
FAILED = "failed: "

_COMMAND = [sys.executable, "-m", "serving_grpc.worker"]
# A worker that served this long before it died was sound; one that did not is started more slowly.
_STEADY_S = 10.0
_FIRST_DELAY_S = 0.1
_LONGEST_DELAY_S = 2.0
_MOST_DEATHS_BEFORE_READY = 3
# What a worker has, after the grace, to end before it is killed.
_END_S = 3.0


class WorkersFailed(Exception):
    """No worker serves and none can be started; the message says why."""


class _Life(NamedTuple):
    """What became of one worker."""

    served_s: float | None  # from ready to its end; None: it never was
    end: str
    for_good: bool = False  # the next one would end the same way


class WorkerPool:
    """A fixed number of worker processes."""

    def __init__(
        self,
        count: int,
        environ: Mapping[str, str],
        grace_s: float,
        on_end: Callable[[int], None],
    ) -> None:
        """Nothing runs yet.

        Args:
            count: Workers to keep running.
            environ: Their environment.
            grace_s: How long a stopping worker may take for what is in flight.
            on_end: Called with the process id of each worker that has ended.
        """
        self._count = count
        self._environ = dict(environ)
        self._grace_s = grace_s
        self._on_end = on_end
        self._lock = threading.Lock()  # guards the next three
        self._running: set[subprocess.Popen[str]] = set()
        self._ready: set[int] = set()
        self._started = False
        self._stopping = threading.Event()
        # None: asked to stop; else why it must. Its put may be called from a signal handler.
        self._ends: SimpleQueue[str | None] = SimpleQueue()

    @property
    def ready(self) -> bool:
        """Whether predictions are served: all workers have been ready, and one of them is."""
        return self._started and bool(self._ready) and not self._stopping.is_set()

    def run(self) -> None:
        """Keep the workers running; returns when `stop` was called and the last one has ended.

        Raises:
            WorkersFailed: None serves, and a new one cannot.
        """
        keepers = [
            threading.Thread(target=self._keep_one, name=f"keeper-{number}")
            for number in range(self._count)
        ]
        for keeper in keepers:
            keeper.start()
        failure = self._ends.get()
        self._end_all()
        for keeper in keepers:
            keeper.join()
        if failure is not None:
            raise WorkersFailed(failure)

    def stop(self) -> None:
        """Make `run` drain the workers and return; may be called from a signal handler."""
        self._ends.put(None)

    def _keep_one(self) -> None:
        deaths = 0
        while not self._stopping.is_set():
            life = self._run_worker()
            if self._stopping.is_set():
                return
            deaths = 1 if (life.served_s or 0.0) > _STEADY_S else deaths + 1
            hopeless = life.for_good or deaths >= _MOST_DEATHS_BEFORE_READY
            if life.served_s is None and hopeless and not self._ready:
                self._ends.put(life.end)
                return
            log.error("%s; starting another", life.end)
            self._stopping.wait(_delay_s(deaths))

    def _run_worker(self) -> "_Life":
        """Start a worker and wait for its end."""
        try:
            worker = self._spawn()
        except OSError as error:
            return _Life(None, f"a worker process cannot be started: {error.strerror}")
        if worker is None:
            return _Life(None, "stopping")
        with worker:
            said = worker.stdout.readline().strip() if worker.stdout else ""
            ready_at = time.monotonic()
            if said == READY:
                self._count_ready(worker)
            worker.wait()
        self._forget(worker)
        if said == READY:
            return _Life(time.monotonic() - ready_at, f"worker {worker.pid} ended {_how(worker)}")
        if said:
            return _Life(None, said.removeprefix(FAILED), for_good=True)
        return _Life(None, f"worker {worker.pid} ended {_how(worker)} before it was ready")

    def _spawn(self) -> "subprocess.Popen[str] | None":
        with self._lock:
            if self._stopping.is_set():
                return None
            worker = subprocess.Popen(
                _COMMAND,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=self._environ,
                text=True,
            )
            self._running.add(worker)
            return worker

    def _count_ready(self, worker: "subprocess.Popen[str]") -> None:
        with self._lock:
            self._ready.add(worker.pid)
            if not self._started and len(self._ready) == self._count:
                self._started = True
                log.info("ready")

    def _forget(self, worker: "subprocess.Popen[str]") -> None:
        with self._lock:
            self._running.discard(worker)
            self._ready.discard(worker.pid)
        self._on_end(worker.pid)

    def _end_all(self) -> None:
        with self._lock:  # from here on nothing is spawned
            self._stopping.set()
            running = list(self._running)
        for worker in running:
            worker.terminate()
        deadline = time.monotonic() + self._grace_s + _END_S
        for worker in running:
            try:
                worker.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                log.error("worker %d outlived its grace; killing it", worker.pid)
                worker.kill()


def _delay_s(deaths: int) -> float:
    """Nothing after a first death, then doubling."""
    if deaths <= 1:
        return 0.0
    return min(_FIRST_DELAY_S * 2.0 ** (deaths - 2), _LONGEST_DELAY_S)


def _how(worker: "subprocess.Popen[str]") -> str:
    status = worker.returncode
    return f"by signal {-status}" if status < 0 else f"with exit status {status}"
