"""Dynamic batching: queued requests share the engine's next call.

It is work-conserving and has no timer. Requests queue while the engine computes; an idle engine
takes the queued requests, up to the maximum batch size.

`start` decides which thread runs the engine. A slow engine gets a thread of the batcher's own, so
that the server accepts and refuses requests meanwhile. A fast engine runs in the server's event
loop between two polls, so that no request crosses threads.
"""

import ctypes
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue

import numpy as np
from numpy.typing import NDArray

from serving_core.errors import (
    DeadlinePassed,
    InvalidInstances,
    PredictorFailed,
    PredictorNotReady,
    QueueFull,
    ServingError,
)
from serving_core.predictor import MAX_BATCH, ModelInfo, Predictor

# Before it takes a batch, the batcher's thread yields the core and the GIL. When idle that costs
# half a microsecond; under load, threads with a parsed request get it into the batch. Without it
# they stay runnable while the engine has the core, and most batches have size 1.
# Not os.sched_yield, which holds the GIL until Python 3.12.
yield_core = ctypes.CDLL(None).sched_yield

log = logging.getLogger(__name__)

NO_FINITE_SCORE = "data has values too large for the model, which has no finite score for them"


class Scored:
    """The scores of one request, and its timings."""

    __slots__ = ("batch_size", "compute_s", "queue_s", "scores")

    def __init__(
        self, scores: NDArray[np.float32], queue_s: float, compute_s: float, batch_size: int
    ) -> None:
        """`scores` has shape (classes,), or (instances, classes) for several instances.

        Both times are in seconds.
        """
        self.scores = scores
        self.queue_s = queue_s
        self.compute_s = compute_s
        self.batch_size = batch_size


OnDone = Callable[[Scored | ServingError], None]


class _Pending:
    """A queued request; `on_done` receives its outcome.

    `single` is whether it has one instance.
    """

    __slots__ = ("deadline", "enqueued_at", "instance", "on_done", "single")

    def __init__(
        self, instance: NDArray[np.float32], on_done: OnDone, timeout_s: float | None
    ) -> None:
        self.instance = instance
        self.on_done = on_done
        self.single = instance.ndim == 1
        self.enqueued_at = time.perf_counter()
        self.deadline = None if timeout_s is None else self.enqueued_at + timeout_s


class _Future:
    """The outcome of a blocking call."""

    __slots__ = ("done", "outcome")

    def __init__(self) -> None:
        self.outcome: Scored | ServingError | None = None
        # A bare lock: an Event costs another lock, a condition and a list per request.
        self.done = threading.Lock()
        self.done.acquire()

    def set(self, outcome: Scored | ServingError) -> None:
        self.outcome = outcome
        self.done.release()


class MicroBatcher:
    """A dynamic batcher with a bounded queue in front of a predictor."""

    def __init__(
        self, predictor: Predictor, max_batch: int = MAX_BATCH, max_queue: int = 256
    ) -> None:
        """Create a batcher; call `start` in the serving process.

        Args:
            predictor: Called by one thread at a time.
            max_batch: Maximum batch size, >= 1.
            max_queue: Maximum number of queued requests, >= 1; further ones are refused.
        """
        self._predictor = predictor
        self._max_batch = max_batch
        self._max_queue = max_queue
        self._queue: deque[_Pending] = deque()
        # Guards the queue, `_computing` and the transition to closed.
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        self._open = False
        self._computing = False
        self._engine_thread: threading.Thread | None = None
        self._wake: Callable[[], None] = lambda: None
        self._thread: threading.Thread | None = None
        # For the batcher's own thread: True wakes it, False ends it.
        self._wakeups: SimpleQueue[bool] = SimpleQueue()

    @property
    def info(self) -> ModelInfo:
        """The model's metadata."""
        return self._predictor.info

    @property
    def ready(self) -> bool:
        """Whether it accepts requests: started, not closed, its engine thread alive."""
        return self._open and self._engine_thread is not None and self._engine_thread.is_alive()

    @property
    def queued(self) -> int:
        """Number of queued requests, without those in the current batch."""
        return len(self._queue)

    @property
    def max_batch(self) -> int:
        """Maximum batch size."""
        return self._max_batch

    def start(self, wake: Callable[[], None] | None = None) -> None:
        """Start to accept requests.

        Args:
            wake: None starts a thread that runs the engine. Otherwise the calling thread runs it,
                by `run_batch` whenever requests are queued; `wake` is called when another thread
                has enqueued the first one.
        """
        if wake is None:
            self._wake = lambda: self._wakeups.put(True)
            self._engine_thread = self._thread = threading.Thread(
                target=self._run, name="batcher", daemon=True
            )
            self._thread.start()
        else:
            self._wake = wake
            self._engine_thread = threading.current_thread()
        self._open = True

    def submit(self, instance: NDArray[np.float32], timeout_s: float | None = None) -> Scored:
        """Score the instances of one request; blocks until it is done.

        The engine thread must not call it: it would wait for itself. Several instances form a
        batch of their own.

        Args:
            instance: Shape (features,) or (instances, features), from parse_instances or
                check_instances.
            timeout_s: Deadline in seconds; a request that is still queued then is not computed.

        Raises:
            QueueFull: `max_queue` requests are queued.
            DeadlinePassed: `timeout_s` has passed.
            PredictorNotReady: Not started, or closed.
            InvalidInstances: The model's scores are not finite: the values are too large.
            PredictorFailed: The engine raised.
        """
        future = _Future()
        self.enqueue(instance, future.set, timeout_s)
        if not future.done.acquire(timeout=-1 if timeout_s is None else timeout_s):
            raise DeadlinePassed(f"no answer within the deadline of {timeout_s:.3f} s")
        outcome = future.outcome
        if isinstance(outcome, Scored):
            return outcome
        raise outcome or PredictorFailed("the model gave no answer")

    def enqueue(
        self, instance: NDArray[np.float32], on_done: OnDone, timeout_s: float | None = None
    ) -> None:
        """Enqueue the instances of one request without blocking.

        Args:
            instance: As in `submit`.
            on_done: Called once in the engine thread, with the scores or the error that `submit`
                would raise; must not raise.
            timeout_s: As in `submit`; an expired request receives DeadlinePassed when the engine
                reaches it.

        Raises:
            QueueFull: As in `submit`; `on_done` is not called.
            DeadlinePassed: Likewise.
            PredictorNotReady: Likewise.
        """
        pending = _Pending(instance, on_done, timeout_s)
        if pending.deadline is not None and pending.deadline <= pending.enqueued_at:
            raise DeadlinePassed("the deadline had passed when the request arrived")
        with self._lock:
            if not self._open:
                raise PredictorNotReady("the model is not ready")
            if len(self._queue) >= self._max_queue:
                raise QueueFull(
                    f"the queue is full: {self._max_queue} requests, the limit; try again"
                )
            first = not self._queue
            self._queue.append(pending)
        if first and threading.current_thread() is not self._engine_thread:
            self._wake()

    def run_batch(self) -> bool:
        """Run the engine on the next batch; called by the engine thread.

        Returns:
            Whether any request was queued.
        """
        batch = self._take_batch()
        if batch:
            self._score(batch)
        self._computing = False
        if not self._open:  # `close` may be waiting
            with self._idle:
                self._idle.notify_all()
        return batch is not None

    def close(self, timeout_s: float = 10.0) -> bool:
        """Refuse new requests, complete the queued ones and end the batcher's own thread.

        Returns:
            Whether it finished within `timeout_s` seconds. Idempotent.
        """
        with self._lock:
            self._open = False
        if threading.current_thread() is self._engine_thread:
            while self.run_batch():
                pass
            return True
        with self._idle:
            if not self._idle.wait_for(lambda: not (self._queue or self._computing), timeout_s):
                return False
        if self._thread is None:
            return True
        self._wakeups.put(False)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while self._wakeups.get():
            yield_core()
            while self.run_batch():
                yield_core()

    def _take_batch(self) -> list[_Pending] | None:
        """The next batch without expired requests; None if the queue is empty."""
        with self._lock:
            waiting = len(self._queue)
            self._computing = waiting > 0
            if not waiting:
                return None
            size = min(waiting, self._max_batch)
            taken = [self._queue.popleft()]
            while len(taken) < size and taken[0].single and self._queue[0].single:
                taken.append(self._queue.popleft())
        now = time.perf_counter()
        live = []
        for pending in taken:
            if pending.deadline is not None and pending.deadline <= now:
                pending.on_done(DeadlinePassed("the deadline passed while the request was queued"))
            else:
                live.append(pending)
        return live

    def _score(self, batch: list[_Pending]) -> None:
        started = time.perf_counter()
        try:
            if not batch[0].single:
                instances = batch[0].instance
            elif len(batch) == 1:
                instances = batch[0].instance[np.newaxis]
            else:
                rows = np.concatenate([pending.instance for pending in batch])
                instances = rows.reshape(len(batch), -1)  # a third of what np.stack takes
            scores = self._predictor.predict(instances)
            if len(scores) != len(instances):
                raise PredictorFailed(
                    f"the model gave {len(scores)} scores, expected {len(instances)}"
                )
        except ServingError as error:
            for pending in batch:  # one object each: each caller's thread adds its traceback
                pending.on_done(type(error)(str(error)))
            return
        except Exception:  # the engine thread must survive any error of the engine
            log.exception("the predictor failed on a batch of %d", len(batch))
            for pending in batch:
                pending.on_done(PredictorFailed("the model failed on this instance"))
            return
        compute_s = time.perf_counter() - started
        answers = scores if batch[0].single else scores[np.newaxis]
        # Finite values near float32's limit overflow inside the model.
        all_finite = np.isfinite(scores).all()
        for answer, pending in zip(answers, batch, strict=True):
            if all_finite or np.isfinite(answer).all():
                queue_s = started - pending.enqueued_at
                pending.on_done(Scored(answer, queue_s, compute_s, len(instances)))
            else:
                pending.on_done(InvalidInstances(NO_FINITE_SCORE))
