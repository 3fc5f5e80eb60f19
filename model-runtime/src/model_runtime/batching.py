"""Many callers, one engine: requests that wait share its next call.

Work-conserving: there is no timer. While the engine computes, requests gather in the queue; when it
is free it takes what waits, up to the largest prepared batch.

Who runs the engine is chosen at `start`. A thread of the batcher's own is right for an engine that
takes long: meanwhile others are taken in, and refused. A quick engine is run by the server's own
loop, between two looks at its sockets: then no request goes from one thread to another and back.
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

from model_runtime.errors import (
    DeadlinePassed,
    InvalidInstances,
    PredictorFailed,
    PredictorNotReady,
    QueueFull,
    ServingError,
)
from model_runtime.predictor import MAX_BATCH, ModelInfo, Predictor

# Before it takes a batch, the batcher's own thread gives up the processor and the interpreter's
# lock for a moment: with nothing else to do that costs half a microsecond, and under load the
# threads that hold requests on their way get them into the batch. Without it they sit ready to run
# while the engine has the core, and most batches are of one.
# Not os.sched_yield, which keeps the interpreter's lock (until Python 3.12) that the others need.
give_way = ctypes.CDLL(None).sched_yield

log = logging.getLogger(__name__)

NO_FINITE_SCORE = "data has values too large for the model, which has no finite score for them"


class Scored:
    """One request's answer, and where its time went."""

    __slots__ = ("batch_size", "compute_s", "queue_s", "scores")

    def __init__(
        self, scores: NDArray[np.float32], queue_s: float, compute_s: float, batch_size: int
    ) -> None:
        """`scores` is as the request's instance was: (classes,), or (instances, classes).

        Both times are in seconds.
        """
        self.scores = scores
        self.queue_s = queue_s
        self.compute_s = compute_s
        self.batch_size = batch_size


Tell = Callable[[Scored | ServingError], None]


class _Pending:
    """A request in the queue; `tell` is called with its outcome.

    `alone` is whether it has one instance.
    """

    __slots__ = ("alone", "deadline", "instance", "queued", "tell")

    def __init__(self, instance: NDArray[np.float32], tell: Tell, timeout_s: float | None) -> None:
        self.instance = instance
        self.tell = tell
        self.alone = instance.ndim == 1
        self.queued = time.perf_counter()
        self.deadline = None if timeout_s is None else self.queued + timeout_s


class _Reply:
    """What a caller waits for."""

    __slots__ = ("answered", "outcome")

    def __init__(self) -> None:
        self.outcome: Scored | ServingError | None = None
        # A bare lock, not an Event: an Event is a lock, a condition and a list more per request.
        self.answered = threading.Lock()
        self.answered.acquire()

    def tell(self, outcome: Scored | ServingError) -> None:
        self.outcome = outcome
        self.answered.release()


class MicroBatcher:
    """A predictor for many callers, and a bounded queue beside it."""

    def __init__(
        self, predictor: Predictor, max_batch: int = MAX_BATCH, max_queue: int = 256
    ) -> None:
        """Not started yet: `start` it in the process that serves.

        Args:
            predictor: Called by one thread at a time.
            max_batch: Most instances in one call, >= 1.
            max_queue: Most requests that wait, >= 1; one more is refused.
        """
        self._predictor = predictor
        self._max_batch = max_batch
        self._max_queue = max_queue
        self._queue: deque[_Pending] = deque()
        # Guards the queue, whether the engine computes, and the step from open to closed.
        self._gate = threading.Lock()
        self._done = threading.Condition(self._gate)
        self._open = False
        self._computing = False
        self._engine: threading.Thread | None = None  # who runs it
        self._wake: Callable[[], None] = lambda: None
        self._own: threading.Thread | None = None
        # To the batcher's own thread: True wakes it, False ends it.
        self._work: SimpleQueue[bool] = SimpleQueue()

    @property
    def info(self) -> ModelInfo:
        """The facts of the model behind it."""
        return self._predictor.info

    @property
    def ready(self) -> bool:
        """Whether it takes requests: started, not closed, alive the thread that scores."""
        return self._open and self._engine is not None and self._engine.is_alive()

    @property
    def waiting(self) -> int:
        """Requests in the queue, not counting those being computed."""
        return len(self._queue)

    @property
    def full_batch(self) -> int:
        """Requests that fill the largest batch: there is no use in waiting for more."""
        return self._max_batch

    def start(self, wake: Callable[[], None] | None = None) -> None:
        """Take requests.

        Args:
            wake: None for a thread of the batcher's own. Otherwise the thread that calls this runs
                the engine, by `score_waiting` whenever anything waits, and `wake` is called when
                another thread has sent something.
        """
        if wake is None:
            self._wake = lambda: self._work.put(True)
            self._engine = self._own = threading.Thread(
                target=self._run, name="batcher", daemon=True
            )
            self._own.start()
        else:
            self._wake = wake
            self._engine = threading.current_thread()
        self._open = True

    def submit(self, instance: NDArray[np.float32], timeout_s: float | None = None) -> Scored:
        """Score one instance, or several that came together; blocks until it is answered.

        Not for the thread that runs the engine, which would wait for itself. Several are scored in
        an engine call of their own, so that none waits for a part of it.

        Args:
            instance: Shape (features,) or (instances, features), as parse_instances or
                check_instances let it through.
            timeout_s: Seconds the caller will wait; past them the instance is not computed.

        Raises:
            QueueFull: `max_queue` requests wait already.
            DeadlinePassed: `timeout_s` is over.
            PredictorNotReady: Not started, or closed.
            InvalidInstances: The model's scores are not finite: its values are too large.
            PredictorFailed: The engine raised.
        """
        reply = _Reply()
        self.send(instance, reply.tell, timeout_s)
        if not reply.answered.acquire(timeout=-1 if timeout_s is None else timeout_s):
            raise DeadlinePassed(f"no answer within the deadline of {timeout_s:.3f} s")
        outcome = reply.outcome
        if isinstance(outcome, Scored):
            return outcome
        raise outcome or PredictorFailed("the model gave no answer")

    def send(
        self, instance: NDArray[np.float32], tell: Tell, timeout_s: float | None = None
    ) -> None:
        """As `submit`, for callers that do not wait.

        Args:
            instance: As there.
            tell: Called once in the thread that runs the engine, with the scores or with what
                `submit` raises; must not raise.
            timeout_s: As there; who waits past it is told so when the engine comes to it.

        Raises:
            QueueFull: As there; then `tell` is not called.
            DeadlinePassed: Likewise.
            PredictorNotReady: Likewise.
        """
        pending = _Pending(instance, tell, timeout_s)
        if pending.deadline is not None and pending.deadline <= pending.queued:
            raise DeadlinePassed("the deadline had passed when the request arrived")
        with self._gate:
            if not self._open:
                raise PredictorNotReady("the model is not ready")
            if len(self._queue) >= self._max_queue:
                raise QueueFull(f"{self._max_queue} requests wait already, the limit; try again")
            first = not self._queue
            self._queue.append(pending)
        if first and threading.current_thread() is not self._engine:
            self._wake()

    def score_waiting(self) -> bool:
        """One call of the engine, in the thread that runs it.

        Returns:
            Whether anything waited.
        """
        batch = self._take()
        if batch:
            self._score(batch)
        self._computing = False
        if not self._open:  # somebody may wait in `close`
            with self._done:
                self._done.notify_all()
        return batch is not None

    def close(self, timeout_s: float = 10.0) -> bool:
        """Refuse new requests, have those answered that wait, end the batcher's own thread.

        Returns:
            Whether all that ended within `timeout_s` seconds. Safe to call twice.
        """
        with self._gate:
            self._open = False
        if threading.current_thread() is self._engine:
            while self.score_waiting():
                pass
            return True
        with self._done:
            if not self._done.wait_for(lambda: not (self._queue or self._computing), timeout_s):
                return False
        if self._own is None:
            return True
        self._work.put(False)
        self._own.join(timeout_s)
        return not self._own.is_alive()

    def _run(self) -> None:
        while self._work.get():
            give_way()
            while self.score_waiting():
                give_way()

    def _take(self) -> list[_Pending] | None:
        """What waits, up to a full batch, less the expired; None if nothing waits."""
        with self._gate:
            waiting = len(self._queue)
            self._computing = waiting > 0
            if not waiting:
                return None
            size = min(waiting, self._max_batch)
            taken = [self._queue.popleft()]
            while len(taken) < size and taken[0].alone and self._queue[0].alone:
                taken.append(self._queue.popleft())
        now = time.perf_counter()
        live = []
        for pending in taken:
            if pending.deadline is not None and pending.deadline <= now:
                pending.tell(DeadlinePassed("the deadline passed while the request waited"))
            else:
                live.append(pending)
        return live

    def _score(self, batch: list[_Pending]) -> None:
        started = time.perf_counter()
        try:
            if not batch[0].alone:
                instances = batch[0].instance
            elif len(batch) == 1:
                instances = batch[0].instance[np.newaxis]
            else:
                rows = np.concatenate([pending.instance for pending in batch])
                instances = rows.reshape(len(batch), -1)  # a third of what np.stack takes
            scores = self._predictor.predict(instances)
            if len(scores) != len(instances):
                raise PredictorFailed(f"{len(scores)} answers to {len(instances)} instances")
        except ServingError as error:
            for pending in batch:  # one object each: every caller's thread adds its traceback
                pending.tell(type(error)(str(error)))
            return
        except Exception:  # the thread must outlive whatever an engine raises
            log.exception("the predictor failed on a batch of %d", len(batch))
            for pending in batch:
                pending.tell(PredictorFailed("the model failed on this instance"))
            return
        compute_s = time.perf_counter() - started
        answers = scores if batch[0].alone else scores[np.newaxis]
        # Finite values near float32's limit overflow inside the model.
        all_sound = np.isfinite(scores).all()
        for answer, pending in zip(answers, batch, strict=True):
            if all_sound or np.isfinite(answer).all():
                queue_s = started - pending.queued
                pending.tell(Scored(answer, queue_s, compute_s, len(instances)))
            else:
                pending.tell(InvalidInstances(NO_FINITE_SCORE))
