"""A predictor without computation, to measure a server's own cost."""

import dataclasses

import numpy as np
from numpy.typing import NDArray

from serving_core.model_folder import ModelFolder
from serving_core.predictor import MAX_BATCH, check_batch

DIGIT = 3  # the prediction for every image
SCORE = np.float32(0.91)


class NullPredictor:
    """Replaces either engine; see sitecustomize.py."""

    def __init__(self, folder: ModelFolder) -> None:
        """Reads only the model's description."""
        self.info = dataclasses.replace(folder.info, engine="null")
        classes = len(self.info.classes)
        row = np.full(classes, (1 - SCORE) / (classes - 1), np.float32)
        row[DIGIT] = SCORE
        self._rows = np.tile(row, (MAX_BATCH, 1))

    def predict(self, instances: NDArray[np.float32]) -> NDArray[np.float32]:
        """See Predictor.predict; only the shape of `instances` is checked."""
        check_batch(instances, self.info.features)
        return self._rows[: len(instances)].copy()


LiteRTPredictor = TensorFlowPredictor = NullPredictor
