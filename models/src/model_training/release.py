"""Release of a trained network as a model folder."""

from dataclasses import asdict
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_training import augmentation, export
from model_training.data import LabelledDigits, to_model_input
from model_training.errors import TrainingRefused
from model_training.evaluation import Evaluation, evaluate
from model_training.model_card import card
from model_training.network import DROPOUT
from model_training.output_folder import new_folder, put_in_place
from model_training.training import Recipe
from serving_core.digits import held_out

NAME = "deep_mnist"
LARGEST_DIFFERENCE = 1e-5


def release(
    network: Any,
    recipe: Recipe,
    trained_on: LabelledDigits,
    test: LabelledDigits | None,
    output: Path,
    force: bool = False,
) -> dict[str, Any]:
    """Export, evaluate and describe a network, and move it to `output` atomically.

    The evaluation uses the exported LiteRT file, which is what the servers load.

    Args:
        network: The trained Keras model.
        recipe: How it was trained.
        trained_on: The training digits.
        test: The test digits, scored once; None leaves `accuracy.test` empty.
        output: The model folder; its name is the version.
        force: Replace an existing model even if the new one is less accurate.

    Returns:
        The content of model.json.

    Raises:
        TrainingRefused: The two engines differ by more than 1e-5 on the held-out digits, the
            existing model is more accurate, or the folder is not writable.
    """
    with new_folder(output) as folder:
        export.export(network, folder)
        on_held_out = _evaluate_both_engines(folder)
        on_test = _evaluate_on(folder, test)
        description = describe(
            output.name, recipe, trained_on, on_held_out, on_test, export.checksums(folder)
        )
        text = card(description, on_test or on_held_out)
        put_in_place(folder, output, description, text, force)
    return description


def describe(
    version: str,
    recipe: Recipe,
    trained_on: LabelledDigits,
    on_held_out: Evaluation,
    on_test: Evaluation | None,
    files: dict[str, str],
) -> dict[str, Any]:
    """The content of model.json."""
    return {
        "name": NAME,
        "version": version,
        "classes": [str(label) for label in range(10)],
        "input": {"shape": [784], "dtype": "float32", "range": [0, 1]},
        "files": files,
        "accuracy": accuracy_of(on_test, on_held_out),
        "trained": {
            "data": trained_on.source,
            "digits": len(trained_on),
            "epochs": recipe.epochs,
            "seed": recipe.seed,
            "framework": f"tensorflow {_tensorflow_version()}",
            "recipe": {
                "optimizer": "AdamW",
                **{
                    name: value
                    for name, value in asdict(recipe).items()
                    if name not in ("epochs", "seed")
                },
                "dropout": DROPOUT,
                "augmentation": augmentation.LIMITS,
            },
            "date": datetime.now(UTC).date().isoformat(),
        },
    }


def accuracy_of(on_test: Evaluation | None, on_held_out: Evaluation) -> dict[str, Any]:
    """The `accuracy` of model.json."""
    return {
        "test": None if on_test is None else _figures(on_test),
        "held_out": {
            **_figures(on_held_out),
            "wrong": [
                {"index": index, "label": label, "predicted": predicted}
                for index, label, predicted in on_held_out.wrong
            ],
        },
    }


def _figures(evaluation: Evaluation) -> dict[str, Any]:
    return {
        "digits": evaluation.digits,
        "correct": evaluation.correct,
        "accuracy": evaluation.accuracy,
    }


def _evaluate_both_engines(folder: Path) -> Evaluation:
    """Evaluate the held-out digits with both engines, which must agree."""
    digits = held_out()
    scores = export.litert_scores(folder, digits.images)
    difference = np.abs(scores - export.saved_model_scores(folder, digits.images)).max()
    # Not `>`: NaN fails too.
    if not difference <= LARGEST_DIFFERENCE:
        raise TrainingRefused(
            f"LiteRT and TensorFlow differ by {difference:.1e} on the held-out digits, "
            f"expected {LARGEST_DIFFERENCE:.0e} at most; nothing was released"
        )
    return evaluate(scores, digits.labels)


def _evaluate_on(folder: Path, test: LabelledDigits | None) -> Evaluation | None:
    if test is None:
        return None
    return evaluate(litert_scores_of(folder, test), test.labels)


def litert_scores_of(folder: Path, digits: LabelledDigits) -> NDArray[np.float32]:
    """Score digits with the LiteRT file in `folder`: probabilities (n, 10)."""
    instances = to_model_input(digits.images)
    parts = np.array_split(instances, max(1, len(instances) // 500))
    return np.concatenate([export.litert_scores(folder, part) for part in parts])


def _tensorflow_version() -> str:
    for distribution in ("tensorflow-cpu", "tensorflow"):
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return "of unknown version"
