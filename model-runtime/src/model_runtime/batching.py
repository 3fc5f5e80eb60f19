"""Many callers, one engine: requests that wait while the engine is busy share its next call.

Work-conserving: there is no timer, so an idle server adds nothing but the hand-over to the
engine's thread.
"""

import logging
import threading
import time
from queue import Empty, SimpleQueue

import numpy as np
from numpy.typing import NDArray

from model_runtime.errors import (
    DeadlinePassed,
    InvalidInstances,
    PredictorFailed,
    PredictorNotReady,
    QueueFull,
    ServingError,
)
from model_runtime.predictor import BATCH_SIZES, ModelInfo, Predictor

log = logging.getLogger(__name__)

NO_FINITE_SCORE = "data has values too large for the model, which has no finite score for them"


class Scored:
    """One instance's answer, and where its time went."""

    __slots__ = ("batch_size", "compute_s", "queue_s", "scores")

    def __init__(
        self, scores: NDArray[np.float32], queue_s: float, compute_s: float, batch_size: int
    ) -> None:
        """`scores` has shape (classes,); both times are in seconds."""
        self.scores = scores
        self.queue_s = queue_s
        self.compute_s = compute_s
        self.batch_size = batch_size


class _Pending:
    """A request in the queue. `answered` is a lock that its caller waits on."""

    __slots__ = ("answered", "deadline", "instance", "outcome", "queued")

    def __init__(self, instance: NDArray[np.float32], timeout_s: float | None) -> None:
        self.instance = instance
        self.queued = time.perf_counter()
        self.deadline = None if timeout_s is None else self.queued + timeout_s
        self.outcome: Scored | ServingError | None = None
        # A bare lock, not an Event: an Event is a lock, a condition and a list more per request.
        self.answered = threading.Lock()
        self.answered.acquire()

    def answer(self, outcome: "Scored | ServingError") -> None:
        self.outcome = outcome
        self.answered.release()


class MicroBatcher:
    """A bounded queue in front of one predictor, and the thread that empties it."""

    def __init__(self, predictor: Predictor, max_batch: int = 16, max_queue: int = 256) -> None:
        """Not started yet: `start` it in the process that serves.

        Args:
            predictor: Called from the engine thread only.
            max_batch: Most instances in one call, >= 1; taken down to a prepared batch size.
            max_queue: Most requests that wait, >= 1; one more is refused.
        """
        self._predictor = predictor
        self._sizes = tuple(size for size in BATCH_SIZES if size <= max_batch)
        self._max_queue = max_queue
        self._queue: SimpleQueue[_Pending | None] = SimpleQueue()
        self._open = False
        # Guards the step from open to closed, so that no request is queued behind the end.
        self._gate = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    @property
    def info(self) -> ModelInfo:
        """The facts of the model behind it."""
        return self._predictor.info

    @property
    def ready(self) -> bool:
        """Whether it takes requests: started, not closed, its thread alive."""
        return self._open and self._thread.is_alive()

    @property
    def waiting(self) -> int:
        """Requests in the queue, not counting those being computed."""
        return self._queue.qsize()

    def start(self) -> None:
        """Start the engine thread and take requests."""
        self._thread.start()
        self._open = True

    def submit(self, instance: NDArray[np.float32], timeout_s: float | None = None) -> Scored:
        """Score one instance; blocks until it is answered.

        Args:
            instance: Shape (features,), as parse_instance or check_instance let it through.
            timeout_s: Seconds the caller will wait; past them the instance is not computed.

        Raises:
            QueueFull: `max_queue` requests wait already.
            DeadlinePassed: `timeout_s` is over.
            PredictorNotReady: Not started, or closed.
            InvalidInstances: The model's scores are not finite: its values are too large.
            PredictorFailed: The engine raised.
        """
        if timeout_s is not None and timeout_s <= 0:
            raise DeadlinePassed("the deadline had passed when the request arrived")
        pending = _Pending(instance, timeout_s)
        with self._gate:
            if not self._open:
                raise PredictorNotReady("the model is not ready")
            if self._queue.qsize() >= self._max_queue:
                raise QueueFull(f"{self._max_queue} requests wait already, the limit; try again")
            self._queue.put(pending)
        if not pending.answered.acquire(timeout=-1 if timeout_s is None else timeout_s):
            raise DeadlinePassed(f"no answer within the deadline of {timeout_s:.3f} s")
        outcome = pending.outcome
        if isinstance(outcome, Scored):
            return outcome
        raise outcome or PredictorFailed("the model gave no answer")

    def close(self, timeout_s: float = 10.0) -> bool:
        """Refuse new requests, answer those that wait, end the thread.

        Returns:
            Whether the thread ended within `timeout_s` seconds. Safe to call twice.
        """
        with self._gate:
            was_open, self._open = self._open, False
            if was_open:
                self._queue.put(None)
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (batch := self._take()) is not None:
            if batch:
                self._score(batch)

    def _take(self) -> list[_Pending] | None:
        """Wait for work; return what waits, up to a prepared batch size, less the expired."""
        first = self._queue.get()
        if first is None:
            return None
        waiting = 1 + self._queue.qsize()
        size = next(size for size in reversed(self._sizes) if size <= waiting)
        taken = [first]
        for _ in range(size - 1):
            try:
                pending = self._queue.get_nowait()
            except Empty:
                break
            if pending is None:
                self._queue.put(None)  # the end stands last: this batch is scored before it
                break
            taken.append(pending)
        now = time.perf_counter()
        live = []
        for pending in taken:
            if pending.deadline is not None and pending.deadline <= now:
                pending.answer(DeadlinePassed("the deadline passed while the request waited"))
            else:
                live.append(pending)
        return live

    def _score(self, batch: list[_Pending]) -> None:
        started = time.perf_counter()
        try:
            if len(batch) == 1:
                scores = self._predictor.predict(batch[0].instance[np.newaxis])
            else:
                scores = self._predictor.predict(np.stack([pending.instance for pending in batch]))
        except ServingError as error:
            for pending in batch:  # one object each: every caller's thread adds its traceback
                pending.answer(type(error)(str(error)))
            return
        except Exception:  # the thread must outlive whatever an engine raises
            log.exception("the predictor failed on a batch of %d", len(batch))
            for pending in batch:
                pending.answer(PredictorFailed("the model failed on this instance"))
            return
        compute_s = time.perf_counter() - started
        # Finite values near float32's limit overflow inside the model.
        finite = np.isfinite(scores)
        for row, sound, pending in zip(scores, finite, batch, strict=True):
            if sound.all():
                pending.answer(Scored(row, started - pending.queued, compute_s, len(batch)))
            else:
                pending.answer(InvalidInstances(NO_FINITE_SCORE))
