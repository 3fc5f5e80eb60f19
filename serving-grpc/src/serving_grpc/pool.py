"""Supervision of the worker processes.

A worker's stdin is a lifeline: its end means that the parent has died. A worker writes one line to
stdout: READY, or FAILED and a sentence.
"""

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from queue import SimpleQueue
from typing import Literal, NamedTuple

log = logging.getLogger(__name__)

READY = "ready"
FAILED = "failed: "

_COMMAND = [sys.executable, "-m", "serving_grpc.worker"]
# The restart backoff resets after a worker has served this long.
_HEALTHY_S = 10.0
_FIRST_DELAY_S = 0.1
_MAX_DELAY_S = 2.0
_MAX_DEATHS_BEFORE_READY = 3
# Time after the grace until a worker is killed.
_END_S = 3.0


class WorkersFailed(Exception):
    """No worker serves and none can be started; the message has the reason."""


class _Exit(NamedTuple):
    """The exit of a worker."""

    served_s: float | None  # from ready to exit; None if it was never ready
    end: str
    permanent: bool = False  # a restart would fail in the same way


class _Generation:
    """Workers that started together; a reload replaces them by another generation."""

    def __init__(self) -> None:
        self.workers: set[subprocess.Popen[str]] = set()
        self.ready: set[int] = set()
        self.serving = False
        self.retired = threading.Event()
        self.keepers: list[threading.Thread] = []


class _Event(NamedTuple):
    """What `run` waits for."""

    kind: Literal["stop", "reload", "ready", "failed"]
    generation: _Generation | None = None
    text: str = ""


class WorkerPool:
    """A fixed number of worker processes."""

    def __init__(
        self,
        count: int,
        environ: Mapping[str, str],
        grace_s: float,
        on_end: Callable[[int], None],
    ) -> None:
        """Create a pool; `run` starts the workers.

        Args:
            count: Number of workers.
            environ: Their environment.
            grace_s: Grace of a stopping worker for RPCs in flight.
            on_end: Called with the process id of each worker that has exited.
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
        # Signal handlers may call its put.
        self._events: SimpleQueue[_Event] = SimpleQueue()

    @property
    def ready(self) -> bool:
        """Whether all workers have been ready once and at least one is ready now."""
        return self._started and bool(self._ready) and not self._stopping.is_set()

    def run(self) -> None:
        """Run the workers until `stop`, and return after the last one has exited.

        Raises:
            WorkersFailed: No worker serves and none can be started.
        """
        serving, reloaded = self._start_generation(), None
        serving.serving = True
        keepers = list(serving.keepers)
        again = False
        while True:
            if again and reloaded is None:  # one more, for what changed during the last
                again = False
                self.reload()
            event = self._events.get()
            if event.kind == "reload":
                again = reloaded is not None
                if reloaded is None:
                    log.info("reloading")
                    reloaded = self._start_generation()
                    keepers = [one for one in keepers if one.is_alive()] + reloaded.keepers
            elif event.kind == "ready" and event.generation is reloaded and reloaded is not None:
                reloaded.serving = True
                self._retire(serving)
                serving, reloaded = reloaded, None
                log.info("reloaded")
            elif event.kind == "failed" and event.generation is reloaded and reloaded is not None:
                log.error("not reloaded: %s; the workers serve on", event.text)
                self._retire(reloaded)
                reloaded = None
            elif event.kind == "stop" or (event.kind == "failed" and event.generation is serving):
                break
        for generation in filter(None, (serving, reloaded)):
            generation.retired.set()
        self._terminate_all()
        for keeper in keepers:
            keeper.join()
        if event.kind == "failed":
            raise WorkersFailed(event.text)

    def stop(self) -> None:
        """Drain the workers and end `run`; safe in a signal handler."""
        self._events.put(_Event("stop"))

    def reload(self) -> None:
        """Start new workers, and drain the old ones once all new ones are ready.

        If the new ones fail, the old ones serve on. Safe in a signal handler.
        """
        self._events.put(_Event("reload"))

    def _start_generation(self) -> "_Generation":
        generation = _Generation()
        generation.keepers = [
            threading.Thread(target=self._keep_one, args=(generation,), name=f"keeper-{number}")
            for number in range(self._count)
        ]
        for keeper in generation.keepers:
            keeper.start()
        return generation

    def _retire(self, generation: "_Generation") -> None:
        """Let a generation's workers drain, and start no other ones of it."""
        with self._lock:
            generation.retired.set()
            workers = list(generation.workers)
        for worker in workers:
            worker.terminate()

    def _keep_one(self, generation: "_Generation") -> None:
        deaths = 0
        while not self._ends(generation):
            exited = self._run_worker(generation)
            if self._ends(generation):
                return
            deaths = 1 if (exited.served_s or 0.0) > _HEALTHY_S else deaths + 1
            unrecoverable = exited.permanent or deaths >= _MAX_DEATHS_BEFORE_READY
            hopeless = not (generation.serving and self._ready)
            if exited.served_s is None and unrecoverable and hopeless:
                self._events.put(_Event("failed", generation, exited.end))
                return
            log.error("%s; starting another", exited.end)
            generation.retired.wait(_delay_s(deaths))

    def _ends(self, generation: "_Generation") -> bool:
        return self._stopping.is_set() or generation.retired.is_set()

    def _run_worker(self, generation: "_Generation") -> "_Exit":
        """Start a worker and wait for its exit."""
        try:
            worker = self._spawn(generation)
        except OSError as error:
            return _Exit(None, f"a worker process cannot be started: {error.strerror}")
        if worker is None:
            return _Exit(None, "stopping")
        with worker:
            line = worker.stdout.readline().strip() if worker.stdout else ""
            ready_at = time.monotonic()
            if line == READY:
                self._count_ready(worker, generation)
            worker.wait()
        self._forget(worker, generation)
        if line == READY:
            return _Exit(
                time.monotonic() - ready_at, f"worker {worker.pid} ended {_exit_status(worker)}"
            )
        if line:
            return _Exit(None, line.removeprefix(FAILED), permanent=True)
        return _Exit(None, f"worker {worker.pid} ended {_exit_status(worker)} before it was ready")

    def _spawn(self, generation: "_Generation") -> "subprocess.Popen[str] | None":
        with self._lock:
            if self._ends(generation):
                return None
            worker = subprocess.Popen(
                _COMMAND,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=self._environ,
                text=True,
            )
            self._running.add(worker)
            generation.workers.add(worker)
            return worker

    def _count_ready(self, worker: "subprocess.Popen[str]", generation: "_Generation") -> None:
        with self._lock:
            self._ready.add(worker.pid)
            generation.ready.add(worker.pid)
            complete = len(generation.ready) == self._count
            if not self._started and complete:
                self._started = True
                log.info("ready")
        if complete:
            self._events.put(_Event("ready", generation))

    def _forget(self, worker: "subprocess.Popen[str]", generation: "_Generation") -> None:
        with self._lock:
            for workers in (self._running, generation.workers):
                workers.discard(worker)
            for ready in (self._ready, generation.ready):
                ready.discard(worker.pid)
        self._on_end(worker.pid)

    def _terminate_all(self) -> None:
        with self._lock:  # no worker is spawned after this
            self._stopping.set()
            running = list(self._running)
        for worker in running:
            worker.terminate()
        deadline = time.monotonic() + self._grace_s + _END_S
        for worker in running:
            try:
                worker.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                log.error("worker %d exceeded its grace period; killing it", worker.pid)
                worker.kill()


def _delay_s(deaths: int) -> float:
    """Backoff: none after the first death, then doubling."""
    if deaths <= 1:
        return 0.0
    return min(_FIRST_DELAY_S * 2.0 ** (deaths - 2), _MAX_DELAY_S)


def _exit_status(worker: "subprocess.Popen[str]") -> str:
    status = worker.returncode
    return f"by signal {-status}" if status < 0 else f"with exit status {status}"
