"""A predictor without computation, to measure a server's own cost."""

import dataclasses

import numpy as np

from serving_core.model_folder import ModelFolder
from serving_core.predictor import MAX_BATCH, classifier_of
from serving_core.tensors import Tensors

DIGIT = 3  # the prediction for every image
SCORE = np.float32(0.91)


class NullPredictor:
    """Replaces the engines of the released models; see sitecustomize.py."""

    def __init__(self, folder: ModelFolder) -> None:
        """Reads only the model's description."""
        self.info = dataclasses.replace(folder.info, engine="null")
        self._view = classifier_of(self.info)
        classes = len(self._view.classes)
        row = np.full(classes, (1 - SCORE) / (classes - 1), np.float32)
        row[DIGIT] = SCORE
        self._rows = np.tile(row, (MAX_BATCH, 1))

    def predict(self, inputs: Tensors) -> Tensors:
        """See Predictor.predict; the values are not read."""
        return {self._view.output: self._rows[: len(inputs[self._view.input])].copy()}


LiteRTPredictor = TensorFlowPredictor = NullPredictor
