"""The interface of a loaded model."""

from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from serving_core.errors import InvalidInput
from serving_core.tensors import ANY, Signature, Tensors

MAX_BATCH = 16  # rows in one call of an engine
LOGITS, PROBABILITIES = "logits", "probabilities"


@dataclass(frozen=True)
class ClassifierView:
    """A model seen as a classifier: a row of numbers in, a score per class out.

    Attributes:
        input: Name of the only input.
        features: Numbers in a row.
        row_shape: The shape in which the model takes a row.
        output: Name of the only output.
        classes: Names in the order of the scores.
        logits: Whether the output has logits, whose softmax are the scores.
    """

    input: str
    features: int
    row_shape: tuple[int, ...]
    output: str
    classes: tuple[str, ...]
    logits: bool = False

    def inputs(self, rows: NDArray[np.float32]) -> Tensors:
        """The model's inputs for rows of shape (features,) or (rows, features)."""
        return {self.input: rows.reshape(-1, *self.row_shape)}

    def scores(self, outputs: Tensors) -> NDArray[np.float32]:
        """The scores in the model's outputs, shape (rows, classes)."""
        scores: NDArray[np.float32] = outputs[self.output].reshape(-1, len(self.classes))
        return _softmax(scores) if self.logits else scores


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities: NDArray[np.float32] = powers / powers.sum(axis=1, keepdims=True)
    return probabilities


@dataclass(frozen=True)
class ModelInfo:
    """Metadata of a model.

    Attributes:
        name: The name in responses.
        version: The version in model.json.
        engine: The engine that runs it.
        signature: Its inputs and outputs.
        classes: Names of the classes in order; empty unless it is a classifier.
        scores: What a classifier's output has: LOGITS or PROBABILITIES; None if model.json says
            nothing, for probabilities that sum to 1.
    """

    name: str
    version: str
    engine: str
    signature: Signature
    classes: tuple[str, ...] = ()
    scores: str | None = None

    @cached_property
    def classifier(self) -> ClassifierView | None:
        """The classifier's view; None if the model's tensors do not allow it."""
        if not self.classes or not self.signature.batched:
            return None
        if len(self.signature.inputs) != 1 or len(self.signature.outputs) != 1:
            return None
        (source,), (result,) = self.signature.inputs, self.signature.outputs
        row, scores = source.shape[1:], result.shape[1:]
        if (
            source.datatype != "FP32"
            or result.datatype != "FP32"
            or ANY in row
            or prod(scores) != len(self.classes)
        ):
            return None
        return ClassifierView(
            source.name, prod(row), row, result.name, self.classes, self.scores == LOGITS
        )


def classifier_of(model: ModelInfo) -> ClassifierView:
    """The model as a classifier.

    Raises:
        InvalidInput: It is none.
    """
    if model.classifier is None:
        raise InvalidInput(
            f"model {model.name} is not a classifier of numbers, which this API serves; "
            f"use the Open Inference Protocol"
        )
    return model.classifier


class Predictor(Protocol):
    """A loaded model; one thread at a time may call it, which the micro-batcher ensures."""

    @property
    def info(self) -> ModelInfo:
        """The model's name, version, engine, signature and classes."""
        ...

    def predict(self, inputs: Tensors) -> Tensors:
        """Compute a batch.

        Args:
            inputs: Every input of the signature, in its datatype and shape.

        Returns:
            Every output of the signature, freshly allocated, with as many rows as the inputs.

        Raises:
            PredictorFailed: The engine raised; its traceback is in the log.
        """
        ...


class Classifier:
    """A predictor called as a classifier."""

    def __init__(self, predictor: Predictor) -> None:
        """Use the predictor's view as a classifier.

        Raises:
            InvalidInput: The model is no classifier.
        """
        self._predictor = predictor
        self._view = classifier_of(predictor.info)

    def predict(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Score rows of shape (rows, features); returns shape (rows, classes)."""
        return self._view.scores(self._predictor.predict(self._view.inputs(rows)))
