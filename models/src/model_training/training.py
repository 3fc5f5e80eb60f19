"""The training loop: each epoch sees every digit once, with a new random distortion."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_training.augmentation import distort
from model_training.data import LabelledDigits, to_model_input
from model_training.errors import TrainingRefused
from model_training.network import build_network


@dataclass(frozen=True)
class Recipe:
    """Hyperparameters of a training.

    Attributes:
        epochs: Passes over the digits.
        batch_size: Digits per step.
        learning_rate: Peak rate of AdamW; linear warm-up over one epoch, then cosine decay.
        weight_decay: Of AdamW.
        label_smoothing: Ratio of the target spread over all classes.
        average_decay: Of the exponential moving average of the weights, which is released.
        seed: Of the weights, the order and the distortions.
    """

    epochs: int = 80
    batch_size: int = 100
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    label_smoothing: float = 0.02
    average_decay: float = 0.995
    seed: int = 1


@dataclass(frozen=True)
class Progress:
    """State after an epoch: its number from 1 and the mean loss."""

    epoch: int
    epochs: int
    loss: float


def fit(digits: LabelledDigits, recipe: Recipe, report: Callable[[Progress], None]) -> Any:
    """Train a new network.

    Args:
        digits: At least `recipe.batch_size` of them.
        recipe: The hyperparameters.
        report: Called after each epoch.

    Returns:
        The Keras model with the averaged weights.

    Raises:
        TrainingRefused: There are fewer digits than one batch.
    """
    if len(digits) < recipe.batch_size:
        raise TrainingRefused(
            f"there are {len(digits)} training digits, expected {recipe.batch_size} or more"
        )
    import keras

    keras.utils.set_random_seed(recipe.seed)
    network = build_network()
    steps = len(digits) // recipe.batch_size
    network.compile(
        optimizer=keras.optimizers.AdamW(
            learning_rate=_schedule(recipe, steps),
            weight_decay=recipe.weight_decay,
            use_ema=True,
            ema_momentum=recipe.average_decay,
            ema_overwrite_frequency=None,
        ),
        loss=keras.losses.CategoricalCrossentropy(label_smoothing=recipe.label_smoothing),
    )
    generator = np.random.default_rng(recipe.seed)
    images = to_model_input(digits.images).reshape(-1, 28, 28)
    targets = np.eye(10, dtype=np.float32)[digits.labels]
    for epoch in range(1, recipe.epochs + 1):
        order = generator.permutation(len(digits))[: steps * recipe.batch_size]
        distorted = distort(images[order], generator).reshape(len(order), -1)
        losses = [
            float(network.train_on_batch(distorted[batch], targets[order][batch]))
            for batch in _batches(len(order), recipe.batch_size)
        ]
        report(Progress(epoch, recipe.epochs, float(np.mean(losses))))
    network.optimizer.finalize_variable_values(network.trainable_variables)
    return network


def predict(network: Any, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Score uint8 images (n, 28, 28) with the Keras model: probabilities (n, 10)."""
    scores: NDArray[np.float32] = network.predict(to_model_input(images), batch_size=500, verbose=0)
    return scores


def _batches(count: int, size: int) -> list[slice]:
    return [slice(start, start + size) for start in range(0, count, size)]


def _schedule(recipe: Recipe, steps: int) -> Any:
    import keras

    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=recipe.learning_rate / 10,
        decay_steps=max(1, (recipe.epochs - 1) * steps),
        warmup_target=recipe.learning_rate,
        warmup_steps=steps,
    )
