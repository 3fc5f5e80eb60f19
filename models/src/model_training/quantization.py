"""Dynamic-range quantization of a released model to int8 weights."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_training import export
from model_training.data import LabelledDigits
from model_training.errors import TrainingRefused
from model_training.evaluation import Evaluation, evaluate
from model_training.model_card import quantized_card
from model_training.output_folder import check_replaceable, new_folder, put_in_place
from model_training.release import accuracy_of, litert_scores_of
from serving_core import ServingError, read_model_folder
from serving_core.digits import held_out
from serving_core.model_folder import TENSORFLOW

# Of the accuracy on the test digits, as a ratio.
LARGEST_DROP = 0.0005


def quantize(
    source: Path, test: LabelledDigits, output: Path, force: bool = False
) -> dict[str, Any]:
    """Quantize the model in `source` and write it to `output` atomically.

    Args:
        source: A model folder with SavedModel and LiteRT file, evaluated on test digits.
        test: Those test digits.
        output: The new model folder; its name is the version.
        force: Replace an existing model even if the new one is less accurate.

    Returns:
        The content of model.json: that of `source` with `quantized` added.

    Raises:
        TrainingRefused: `source` is invalid, `test` is not its test set, the accuracy drops by
            more than LARGEST_DROP, or `output` is not writable.
    """
    if output.resolve() == source.resolve():
        raise TrainingRefused(f"--output {output} is the source model; choose another --output")
    check_replaceable(output, test, force)
    description = _valid_description(source)
    before = litert_scores_of(source, test)
    _check_test_set(source, description, evaluate(before, test.labels))
    digits = held_out()
    with new_folder(output) as folder:
        export.export_quantized(source / export.SAVED_MODEL, folder)
        after = litert_scores_of(folder, test)
        on_test = evaluate(after, test.labels)
        check_drop(evaluate(before, test.labels), on_test)
        held_out_scores = export.litert_scores(folder, digits.images)
        description |= {
            "version": output.name,
            "files": export.checksums(folder),
            "accuracy": accuracy_of(on_test, evaluate(held_out_scores, digits.labels)),
            "quantized": {
                "weights": "int8, dynamic range",
                "from": {
                    "version": description["version"],
                    "sha256": _sha256(source / export.LITERT_FILE),
                },
                "difference": {
                    "test": difference(before, after),
                    "held_out": difference(
                        export.litert_scores(source, digits.images), held_out_scores
                    ),
                },
            },
        }
        put_in_place(folder, output, description, quantized_card(description, on_test), force)
    return description


def difference(before: NDArray[np.float32], after: NDArray[np.float32]) -> dict[str, Any]:
    """Absolute difference of two models' probabilities (n, 10) for the same digits."""
    apart = np.abs(before - after)
    return {
        "largest": float(apart.max()),
        "mean": float(apart.mean()),
        "other_digit": int((before.argmax(axis=1) != after.argmax(axis=1)).sum()),
    }


def check_drop(before: Evaluation, after: Evaluation) -> None:
    """Check the accuracy of the quantized model.

    Raises:
        TrainingRefused: It is lower than before by more than LARGEST_DROP.
    """
    if before.correct - after.correct > LARGEST_DROP * before.digits:
        raise TrainingRefused(
            f"with int8 weights {after.correct:,} of {after.digits:,} test digits are correct, "
            f"with float32 weights {before.correct:,}; expected a drop of {LARGEST_DROP:.2%} at "
            "most; nothing was released"
        )


def _valid_description(source: Path) -> dict[str, Any]:
    """The model.json of a folder whose SavedModel and LiteRT file pass their checksums."""
    try:
        description = read_model_folder(source).description
        if "quantized" in description:
            raise TrainingRefused(f"{source} has int8 weights, expected float32 weights")
        read_model_folder(source, TENSORFLOW)
    except ServingError as error:
        raise TrainingRefused(str(error)) from None
    return description


def _check_test_set(source: Path, description: dict[str, Any], now: Evaluation) -> None:
    stated = (description.get("accuracy") or {}).get("test")
    if not stated:
        raise TrainingRefused(
            f"{source}/model.json states no accuracy on test digits; train it with --test"
        )
    if (stated["digits"], stated["correct"]) != (now.digits, now.correct):
        raise TrainingRefused(
            f"{source}/model.json states {stated['correct']:,} of {stated['digits']:,} test digits "
            f"correct, with these digits it is {now.correct:,} of {now.digits:,}; pass its test set"
        )


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
