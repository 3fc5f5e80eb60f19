"""A predictor with known scores, for tests."""

import threading

import numpy as np
from numpy.typing import NDArray

from serving_core.predictor import ModelInfo, check_batch


class FakePredictor:
    """A predictor whose scores depend on the instance alone, which reveals swapped results.

    `gate`, when cleared, blocks every call, so that a test can fill the queue.
    """

    def __init__(self, features: int = 784, failure: Exception | None = None) -> None:
        """`failure`, if given, is raised by every call."""
        self.info = ModelInfo(
            name="fake", version="1", classes=tuple("0123456789"), features=features, engine="fake"
        )
        self.failure = failure
        self.gate = threading.Event()
        self.gate.set()
        self.batches: list[int] = []
        self._engine = threading.Lock()

    @property
    def computing(self) -> bool:
        """Whether a call is in progress, which a cleared `gate` keeps there."""
        return self._engine.locked()

    def predict(self, instances: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return `expected_scores`; concurrent calls raise RuntimeError."""
        if not self._engine.acquire(blocking=False):
            raise RuntimeError("two callers at once")
        try:
            self.gate.wait()
            check_batch(instances, self.info.features)
            self.batches.append(len(instances))
            if self.failure is not None:
                raise self.failure
            return np.stack([expected_scores(instance) for instance in instances])
        finally:
            self._engine.release()


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
