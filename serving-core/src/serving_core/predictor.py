"""The interface of a loaded model."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from serving_core.errors import InvalidInstances

MAX_BATCH = 16  # instances in one call


@dataclass(frozen=True)
class ModelInfo:
    """Metadata of a model."""

    name: str
    version: str
    classes: tuple[str, ...]
    features: int
    engine: str


class Predictor(Protocol):
    """A loaded model; one thread at a time may call it, which the micro-batcher ensures."""

    @property
    def info(self) -> ModelInfo:
        """The model's name, version, classes, width and engine."""
        ...

    def predict(self, instances: NDArray[np.float32]) -> NDArray[np.float32]:
        """Score a batch of instances.

        Args:
            instances: Shape (batch, features), batch >= 1, finite. For deep MNIST: 28 x 28
                images, row-major, dimensionless in [0, 1] (byte / 255), ink bright.

        Returns:
            Class probabilities, shape (batch, classes), freshly allocated. Each row sums
            to 1 within 1e-5.

        Raises:
            InvalidInstances: The array is not two-dimensional or not `features` wide.
            PredictorFailed: The engine raised; its traceback is in the log.
        """
        ...


def check_batch(instances: NDArray[np.float32], features: int) -> None:
    """Check the shape of a batch.

    Raises:
        InvalidInstances: Not (batch >= 1, features).
    """
    if instances.ndim != 2 or instances.shape[0] < 1:
        raise InvalidInstances(
            f"instances has shape {instances.shape}, expected (batch, {features})"
        )
    if instances.shape[1] != features:
        raise InvalidInstances(f"instances has {instances.shape[1]} columns, expected {features}")
