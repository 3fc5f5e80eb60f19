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
from functools import partial
from queue import SimpleQueue

import numpy as np

from serving_core.errors import (
    DeadlinePassed,
    InvalidInput,
    PredictorFailed,
    PredictorNotReady,
    QueueFull,
    ServingError,
)
from serving_core.predictor import MAX_BATCH, ModelInfo, Predictor
from serving_core.tensors import Tensors

# Before it takes a batch, the batcher's thread yields the core and the GIL. When idle that costs
# half a microsecond; under load, threads with a parsed request get it into the batch. Without it
# they stay runnable while the engine has the core, and most batches have size 1.
# Not os.sched_yield, which holds the GIL until Python 3.12.
yield_core = ctypes.CDLL(None).sched_yield

log = logging.getLogger(__name__)

NO_FINITE_SCORE = "data has values too large for the model, which has no finite score for them"


class Computed:
    """The outputs of one request, and its timings."""

    __slots__ = ("batch_size", "compute_s", "outputs", "queue_s")

    def __init__(self, outputs: Tensors, queue_s: float, compute_s: float, batch_size: int) -> None:
        """`outputs` has the request's rows, `batch_size` is that of the engine's call.

        Both times are in seconds.
        """
        self.outputs = outputs
        self.queue_s = queue_s
        self.compute_s = compute_s
        self.batch_size = batch_size


OnDone = Callable[[Computed | ServingError], None]


class _Pending:
    """A queued request, or a part of one; `on_done` receives its outcome."""

    __slots__ = ("deadline", "enqueued_at", "inputs", "on_done", "rows")

    def __init__(
        self,
        inputs: Tensors,
        rows: int,
        on_done: OnDone,
        enqueued_at: float,
        deadline: float | None,
    ) -> None:
        self.inputs = inputs
        self.rows = rows
        self.on_done = on_done
        self.enqueued_at = enqueued_at
        self.deadline = deadline


class _Parts:
    """A request of more rows than one batch holds: it ends with its last part."""

    def __init__(self, count: int, on_done: OnDone) -> None:
        self._outcomes: list[Computed | ServingError | None] = [None] * count
        self._missing = count
        self._on_done = on_done

    def done(self, index: int, outcome: Computed | ServingError) -> None:
        """Called in the engine thread for each part."""
        self._outcomes[index] = outcome
        self._missing -= 1
        if self._missing:
            return
        parts: list[Computed] = []
        for part in self._outcomes:
            if not isinstance(part, Computed):
                self._on_done(part or PredictorFailed("a part of the request has no outcome"))
                return
            parts.append(part)
        try:
            outputs = {
                name: np.concatenate([part.outputs[name] for part in parts])
                for name in parts[0].outputs
            }
        except ValueError:
            self._on_done(PredictorFailed("the outputs of the request's parts differ in shape"))
            return
        self._on_done(
            Computed(
                outputs,
                parts[0].queue_s,
                sum(part.compute_s for part in parts),
                max(part.batch_size for part in parts),
            )
        )


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
        signature = predictor.info.signature
        self._joins = signature.batched
        self._compares_shapes = signature.has_variable_items
        self._classifier = predictor.info.classifier

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

    def enqueue(
        self, inputs: Tensors, rows: int, on_done: OnDone, timeout_s: float | None = None
    ) -> None:
        """Enqueue a request without blocking.

        A request of more rows than `max_batch` is computed in parts, with other requests between.

        Args:
            inputs: Every input of the model, in its datatype and shape.
            rows: The size of the batch dimension; 1 if the model is not batched.
            on_done: Called once in the engine thread, with the outputs or the error; must not
                raise. The errors are InvalidInput (a classifier's scores are not finite: the
                values are too large), DeadlinePassed and PredictorFailed.
            timeout_s: Deadline in seconds; a request that is still queued then is not computed.

        Raises:
            InvalidInput: The request has more parts than the queue holds; `on_done` is not called.
            QueueFull: `max_queue` requests are queued; likewise.
            DeadlinePassed: `timeout_s` has passed; likewise.
            PredictorNotReady: Not started, or closed; likewise.
        """
        now = time.perf_counter()
        deadline = None if timeout_s is None else now + timeout_s
        if timeout_s is not None and timeout_s <= 0:
            raise DeadlinePassed("the deadline had passed when the request arrived")
        pending: tuple[_Pending, ...]
        if rows <= self._max_batch or not self._joins:
            pending = (_Pending(inputs, rows, on_done, now, deadline),)
        else:
            pending = self._in_parts(inputs, rows, on_done, now, deadline)
            if len(pending) > self._max_queue:
                limit = self._max_queue * self._max_batch
                raise InvalidInput(f"the request has {rows} rows, the limit is {limit}")
        with self._lock:
            if not self._open:
                raise PredictorNotReady("the model is not ready")
            if len(self._queue) + len(pending) > self._max_queue:
                raise QueueFull(
                    f"the queue is full: {self._max_queue} requests, the limit; try again"
                )
            first = not self._queue
            self._queue.extend(pending)
        if first and threading.current_thread() is not self._engine_thread:
            self._wake()

    def _in_parts(
        self, inputs: Tensors, rows: int, on_done: OnDone, now: float, deadline: float | None
    ) -> tuple[_Pending, ...]:
        starts = range(0, rows, self._max_batch)
        parts = _Parts(len(starts), on_done)
        return tuple(
            _Pending(
                {name: array[start : start + self._max_batch] for name, array in inputs.items()},
                min(self._max_batch, rows - start),
                partial(parts.done, index),
                now,
                deadline,
            )
            for index, start in enumerate(starts)
        )

    def run_batch(self) -> bool:
        """Run the engine on the next batch; called by the engine thread.

        Returns:
            Whether any request was queued.
        """
        batch = self._take_batch()
        if batch:
            self._compute(batch)
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
        queue = self._queue
        with self._lock:
            self._computing = bool(queue)
            if not queue:
                return None
            first = queue.popleft()
            taken = [first]
            rows = first.rows
            while queue and self._joins and rows + queue[0].rows <= self._max_batch:
                if self._compares_shapes and not _same_item_shapes(first, queue[0]):
                    break
                rows += queue[0].rows
                taken.append(queue.popleft())
        now = time.perf_counter()
        live = []
        for pending in taken:
            if pending.deadline is not None and pending.deadline <= now:
                _finish(pending, DeadlinePassed("the deadline passed while the request was queued"))
            else:
                live.append(pending)
        return live

    def _compute(self, batch: list[_Pending]) -> None:
        started = time.perf_counter()
        rows = sum([pending.rows for pending in batch])
        try:
            outputs = self._call(batch, rows)
        except Exception as error:  # the engine thread must survive any error of the engine
            if len(batch) > 1:  # the input of one request must not fail the others
                for pending in batch:
                    self._compute([pending])
                return
            if not isinstance(error, ServingError):
                log.exception("the predictor failed on a batch of %d", rows)
                error = PredictorFailed("the model failed on this input")
            _finish(batch[0], error)
            return
        compute_s = time.perf_counter() - started
        # Finite values near float32's limit overflow inside a classifier.
        scored = None if self._classifier is None else self._classifier.output
        all_finite = scored is None or bool(np.isfinite(outputs[scored]).all())
        start = 0
        for pending in batch:
            own = outputs
            if len(batch) > 1:
                end = start + pending.rows
                own = {name: array[start:end] for name, array in outputs.items()}
                start = end
            if scored is None or all_finite or np.isfinite(own[scored]).all():
                queue_s = started - pending.enqueued_at
                _finish(pending, Computed(own, queue_s, compute_s, rows))
            else:
                _finish(pending, InvalidInput(NO_FINITE_SCORE))

    def _call(self, batch: list[_Pending], rows: int) -> Tensors:
        """The outputs of the joined requests."""
        inputs = batch[0].inputs
        if len(batch) > 1:
            inputs = {
                name: np.concatenate([pending.inputs[name] for pending in batch]) for name in inputs
            }
        outputs = self._predictor.predict(inputs)
        if self._joins:
            for name, array in outputs.items():
                if len(array) != rows:
                    raise PredictorFailed(
                        f"the model gave {len(array)} rows of {name}, expected {rows}"
                    )
        return outputs


def _finish(pending: _Pending, outcome: Computed | ServingError) -> None:
    """Pass on an outcome; an error of the receiver must not end the engine thread."""
    try:
        pending.on_done(outcome)
    except Exception:
        log.exception("a request could not be completed")


def _same_item_shapes(one: _Pending, other: _Pending) -> bool:
    return all(
        array.shape[1:] == other.inputs[name].shape[1:] for name, array in one.inputs.items()
    )
