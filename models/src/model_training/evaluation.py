"""Accuracy of a model as exact counts."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Evaluation:
    """Predictions of a model compared with labels.

    Attributes:
        confusion: Confusion matrix, shape (10, 10): rows are labels, columns predictions.
        wrong: (index, label, predicted) of every misclassified digit.
    """

    confusion: NDArray[np.int64]
    wrong: tuple[tuple[int, int, int], ...]

    @property
    def digits(self) -> int:
        """Number of digits scored."""
        return int(self.confusion.sum())

    @property
    def correct(self) -> int:
        """Number of correct predictions."""
        return int(np.trace(self.confusion))

    @property
    def accuracy(self) -> float:
        """Ratio of correct predictions, in [0, 1]."""
        return self.correct / self.digits

    def class_accuracy(self, label: int) -> float | None:
        """Recall of the class `label`, in [0, 1]; None without such digits."""
        shown = int(self.confusion[label].sum())
        return int(self.confusion[label, label]) / shown if shown else None


def evaluate(probabilities: NDArray[np.float32], labels: NDArray[np.uint8]) -> Evaluation:
    """Compare predictions with labels.

    Args:
        probabilities: Shape (n, 10).
        labels: Shape (n,).
    """
    predicted = probabilities.argmax(axis=1)
    confusion = np.zeros((10, 10), np.int64)
    np.add.at(confusion, (labels, predicted), 1)
    missed = np.flatnonzero(predicted != labels)
    return Evaluation(confusion, tuple((int(i), int(labels[i]), int(predicted[i])) for i in missed))
