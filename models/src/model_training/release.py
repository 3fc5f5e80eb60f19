"""From trained network to model folder: files, description, card; all or nothing."""

import json
import shutil
import tempfile
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from model_runtime.digits import held_out
from model_training import augmentation, export
from model_training.data import LabelledDigits, to_model_input
from model_training.errors import TrainingRefused
from model_training.evaluation import Evaluation, evaluate
from model_training.model_card import card
from model_training.network import DROPOUT
from model_training.training import Recipe

NAME = "deep_mnist"
LARGEST_DIFFERENCE = 1e-5


def check_replaceable(output: Path, test: LabelledDigits | None, force: bool) -> None:
    """Refuse, before hours are spent, a training whose result could not go to `output`.

    Raises:
        TrainingRefused: `output` is something else than a model folder, cannot be written, or
            holds a model that was judged on test digits while `test` is none or has another
            number of digits.
    """
    if not output.exists():
        _check_writable(output)
        return
    if not (output / "model.json").is_file():
        # Even with --force: a folder of someone's own must not be swept away by a typing error.
        raise TrainingRefused(f"{output} is not a model folder: choose another --output")
    _check_writable(output)
    if force:
        return
    judged_on = (_accuracy_of(output)["test"] or {}).get("digits")
    if judged_on is not None and (test is None or len(test) != judged_on):
        raise TrainingRefused(
            f"the model in {output} was judged on {judged_on:,} test digits: give them with "
            f"--test to compare, choose another --output, or --force"
        )


def release(
    network: Any,
    recipe: Recipe,
    trained_on: LabelledDigits,
    test: LabelledDigits | None,
    output: Path,
    force: bool = False,
) -> dict[str, Any]:
    """Export, judge and describe a network in `output`, which appears whole or not at all.

    Judged is what is served: the LiteRT file that was written, not the network in memory.

    Args:
        network: The trained Keras model.
        recipe: How it was trained.
        trained_on: On what.
        test: Scored once, here; None leaves `accuracy.test` empty.
        output: The model folder; its name is the version.
        force: Replace a model in `output` even by a worse one.

    Returns:
        The description, as in model.json.

    Raises:
        TrainingRefused: The two engines differ by more than 1e-5 on the held-out digits, the
            model that is in `output` already is better, or the folder cannot be written.
    """
    try:
        with _folder_beside(output) as temporary:
            folder = Path(temporary) / "model"
            folder.mkdir()
            export.export(network, folder)
            on_held_out = _judge_both(folder)
            on_test = _judge(folder, test)
            description = describe(
                output.name, recipe, trained_on, on_held_out, on_test, export.checksums(folder)
            )
            if output.exists() and not force:
                _check_no_worse(description["accuracy"], output)
            (folder / "model.json").write_text(json.dumps(description, indent=2) + "\n")
            (folder / "README.md").write_text(card(description, on_test or on_held_out))
            _swap(folder, output)
    except OSError as error:
        raise TrainingRefused(f"{output} cannot be written: {error.strerror or error}") from None
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
        "accuracy": {
            "test": None if on_test is None else _figures(on_test),
            "held_out": {
                **_figures(on_held_out),
                "wrong": [
                    {"index": index, "label": label, "predicted": predicted}
                    for index, label, predicted in on_held_out.wrong
                ],
            },
        },
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


def _folder_beside(output: Path) -> tempfile.TemporaryDirectory[str]:
    """On the file system of `output`, so that a rename is all it takes to move from it."""
    output.parent.mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryDirectory(dir=output.parent, prefix=".new-")


def _check_writable(output: Path) -> None:
    try:
        with _folder_beside(output):
            pass
    except OSError as error:
        raise TrainingRefused(f"{output} cannot be written: {error.strerror}") from None


def _figures(evaluation: Evaluation) -> dict[str, Any]:
    return {
        "digits": evaluation.digits,
        "correct": evaluation.correct,
        "accuracy": evaluation.accuracy,
    }


def _judge_both(folder: Path) -> Evaluation:
    """Score the held-out digits with both forms of the model; they must agree."""
    digits = held_out()
    scores = export.litert_scores(folder, digits.images)
    difference = np.abs(scores - export.saved_model_scores(folder, digits.images)).max()
    # Written so that a difference that is not a number is refused as well.
    if not difference <= LARGEST_DIFFERENCE:
        raise TrainingRefused(
            f"LiteRT and TensorFlow differ by {difference:.1e} on the held-out digits, "
            f"the limit is {LARGEST_DIFFERENCE:.0e}; nothing was released"
        )
    return evaluate(scores, digits.labels)


def _judge(folder: Path, test: LabelledDigits | None) -> Evaluation | None:
    if test is None:
        return None
    instances = to_model_input(test.images)
    parts = np.array_split(instances, max(1, len(instances) // 500))
    scores = [export.litert_scores(folder, part) for part in parts]
    return evaluate(np.concatenate(scores), test.labels)


def _check_no_worse(new: dict[str, Any], output: Path) -> None:
    old = _accuracy_of(output)
    on = "test" if old["test"] else "held_out"
    if new[on]["correct"] < old[on]["correct"]:
        raise TrainingRefused(
            f"the new model has {new[on]['correct']:,} of {new[on]['digits']:,} right "
            f"({on.replace('_', '-')} digits), the one in {output} {old[on]['correct']:,}: "
            f"kept that one; --force replaces it, another --output keeps both"
        )


def _accuracy_of(output: Path) -> dict[str, Any]:
    try:
        accuracy = json.loads((output / "model.json").read_text())["accuracy"]
        return {"test": accuracy["test"], "held_out": accuracy["held_out"]}
    except (OSError, ValueError, KeyError, TypeError):
        raise TrainingRefused(
            f"{output}/model.json does not say how good its model is: choose another --output, "
            f"or --force"
        ) from None


def _tensorflow_version() -> str:
    for distribution in ("tensorflow-cpu", "tensorflow"):
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return "of unknown version"


def _swap(folder: Path, output: Path) -> None:
    """Put `folder` in the place of `output`, by two renames; undone if the second one fails."""
    old = folder.parent / "old"
    if output.exists():
        output.rename(old)
    try:
        folder.rename(output)
    except OSError:
        if old.exists():
            old.rename(output)
        raise
    shutil.rmtree(old, ignore_errors=True)
