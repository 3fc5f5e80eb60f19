"""A released model with int8 weights: a version of its own, judged beside the one it comes from."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_runtime import ServingError, read_model_folder
from model_runtime.digits import held_out
from model_runtime.model_folder import TENSORFLOW
from model_training import export
from model_training.data import LabelledDigits
from model_training.errors import TrainingRefused
from model_training.evaluation import Evaluation, evaluate
from model_training.model_card import quantized_card
from model_training.output_folder import check_replaceable, new_folder, put_in_place
from model_training.release import accuracy_of, litert_scores_of

# Of the test digits' share that is told right. More would be another model, not a cheaper one.
LARGEST_DROP = 0.0005


def quantize(
    source: Path, test: LabelledDigits, output: Path, force: bool = False
) -> dict[str, Any]:
    """Write the model of `source` with int8 weights into `output`, whole or not at all.

    Args:
        source: A released model folder with both forms, judged on test digits.
        test: Those digits.
        output: The new model folder; its name is the version.
        force: Replace a model in `output` even by a worse one.

    Returns:
        The description, as in model.json: that of `source`, with `quantized`.

    Raises:
        TrainingRefused: `source` is unsound, `test` are not the digits it was judged on, its
            accuracy on them would drop by more than LARGEST_DROP, or `output` cannot be written.
    """
    if output.resolve() == source.resolve():
        raise TrainingRefused(f"{output} is the model itself: choose another --output")
    check_replaceable(output, test, force)
    description = _sound(source)
    before = litert_scores_of(source, test)
    _check_judged_on(source, description, evaluate(before, test.labels))
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
    """How far two models' probabilities (n, 10) for the same digits are apart."""
    apart = np.abs(before - after)
    return {
        "largest": float(apart.max()),
        "mean": float(apart.mean()),
        "other_digit": int((before.argmax(axis=1) != after.argmax(axis=1)).sum()),
    }


def check_drop(before: Evaluation, after: Evaluation) -> None:
    """Refuse weights with which too many digits less are told right.

    Raises:
        TrainingRefused: The accuracy drops by more than LARGEST_DROP.
    """
    if before.correct - after.correct > LARGEST_DROP * before.digits:
        raise TrainingRefused(
            f"with int8 weights {after.correct:,} of {after.digits:,} test digits are told right, "
            f"before it were {before.correct:,}: the limit is {LARGEST_DROP:.2%} less; "
            "nothing was released"
        )


def _sound(source: Path) -> dict[str, Any]:
    """The description of a folder whose files of both forms are what it says."""
    try:
        description = read_model_folder(source).description
        if "quantized" in description:
            raise TrainingRefused(f"{source} has int8 weights already")
        read_model_folder(source, TENSORFLOW)
    except ServingError as error:
        raise TrainingRefused(str(error)) from None
    return description


def _check_judged_on(source: Path, description: dict[str, Any], now: Evaluation) -> None:
    stated = (description.get("accuracy") or {}).get("test")
    if not stated:
        raise TrainingRefused(
            f"{source} was not judged on test digits: there is nothing to compare with"
        )
    if (stated["digits"], stated["correct"]) != (now.digits, now.correct):
        raise TrainingRefused(
            f"the model in {source} was judged on other test digits: it knew {stated['correct']:,} "
            f"of {stated['digits']:,}, of these {now.correct:,} of {now.digits:,}"
        )


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
