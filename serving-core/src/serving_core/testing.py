"""What tests put in front of or behind the batcher."""

import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving_core.batching import Computed, MicroBatcher
from serving_core.predictor import ModelInfo, classifier_of
from serving_core.tensors import ANY, Signature, Tensors, TensorSpec

CLASSES = tuple("0123456789")


def classifier_info(features: int = 784, engine: str = "fake", name: str = "fake") -> ModelInfo:
    """Metadata of a classifier of ten classes."""
    signature = Signature(
        (TensorSpec("instances", "FP32", (ANY, features)),),
        (TensorSpec("probabilities", "FP32", (ANY, len(CLASSES))),),
    )
    return ModelInfo(name, "1", engine, signature, CLASSES)


class FakePredictor:
    """A predictor whose scores depend on the row alone, which reveals swapped results.

    `gate`, when cleared, blocks every call, so that a test can fill the queue.
    """

    def __init__(self, features: int = 784, failure: Exception | None = None) -> None:
        """`failure`, if given, is raised by every call."""
        self.info = classifier_info(features)
        self.failure = failure
        self.gate = threading.Event()
        self.gate.set()
        self.batches: list[int] = []
        self._engine = threading.Lock()

    @property
    def computing(self) -> bool:
        """Whether a call is in progress, which a cleared `gate` keeps there."""
        return self._engine.locked()

    def predict(self, inputs: Tensors) -> Tensors:
        """See Predictor.predict; concurrent calls raise RuntimeError."""
        return {"probabilities": self.scores(inputs["instances"])}

    def scores(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Return `expected_scores` of each row."""
        if not self._engine.acquire(blocking=False):
            raise RuntimeError("two callers at once")
        try:
            self.gate.wait()
            self.batches.append(len(rows))
            if self.failure is not None:
                raise self.failure
            return np.stack([expected_scores(row) for row in rows])
        finally:
            self._engine.release()


class Submission:
    """A request of a classifier that a test waits for."""

    def __init__(
        self, batcher: MicroBatcher, rows: NDArray[np.float32], timeout_s: float | None = None
    ) -> None:
        """Enqueue rows of shape (features,) or (rows, features)."""
        self._view = view = classifier_of(batcher.info)
        self._done = threading.Event()
        inputs = view.inputs(rows)
        batcher.enqueue(inputs, len(inputs[view.input]), self._finish, timeout_s)

    def _finish(self, outcome: Computed | Exception) -> None:
        self._outcome = outcome
        self._done.set()

    def result(self, timeout_s: float = 10.0) -> Computed:
        """Wait for the outcome; raises its error."""
        if not self._done.wait(timeout_s):
            raise TimeoutError
        if isinstance(self._outcome, Exception):
            raise self._outcome
        return self._outcome

    def scores(self) -> NDArray[np.float32]:
        """Wait for the scores, shape (rows, classes)."""
        return self._view.scores(self.result().outputs)


def expected_scores(instance: NDArray[np.float32]) -> NDArray[np.float32]:
    """The fake's scores: ten probabilities that depend on every value of the instance.

    Args:
        instance: Shape (features,).

    Returns:
        Shape (10,), float32, sums to 1.
    """
    weights = np.arange(1, instance.size + 1, dtype=np.float64)
    signature = float(weights @ instance.astype(np.float64))
    scores = 1.0 + np.sin(signature * np.arange(1, 11) / 10.0) * 0.9
    result: NDArray[np.float32] = (scores / scores.sum()).astype(np.float32)
    return result
