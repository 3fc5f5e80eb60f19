"""How good a model is: counts, never rounded before they are written."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Evaluation:
    """What a model made of labelled digits.

    Attributes:
        confusion: Shape (10, 10), whole numbers: row = what the digit shows, column = the
            model's answer.
        wrong: (position, label, predicted) of every digit the model missed.
    """

    confusion: NDArray[np.int64]
    wrong: tuple[tuple[int, int, int], ...]

    @property
    def digits(self) -> int:
        """How many digits were scored."""
        return int(self.confusion.sum())

    @property
    def correct(self) -> int:
        """How many answers were right."""
        return int(np.trace(self.confusion))

    @property
    def accuracy(self) -> float:
        """Share of right answers, in [0, 1]."""
        return self.correct / self.digits

    def class_accuracy(self, label: int) -> float | None:
        """Share of right answers among the digits that show `label`; None if none does."""
        shown = int(self.confusion[label].sum())
        return int(self.confusion[label, label]) / shown if shown else None


def evaluate(probabilities: NDArray[np.float32], labels: NDArray[np.uint8]) -> Evaluation:
    """Compare answers with labels.

    Args:
        probabilities: Shape (n, 10).
        labels: Shape (n,).
    """
    predicted = probabilities.argmax(axis=1)
    confusion = np.zeros((10, 10), np.int64)
    np.add.at(confusion, (labels, predicted), 1)
    missed = np.flatnonzero(predicted != labels)
    return Evaluation(confusion, tuple((int(i), int(labels[i]), int(predicted[i])) for i in missed))
