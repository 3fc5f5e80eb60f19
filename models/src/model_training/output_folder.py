"""The folder that a model is released into: what may replace what, all or nothing."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from model_training.data import LabelledDigits
from model_training.errors import TrainingRefused


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


@contextmanager
def new_folder(output: Path) -> Iterator[Path]:
    """An empty folder beside `output`, to be filled and put in its place; removed after the block.

    Raises:
        TrainingRefused: Something in the block cannot be written.
    """
    try:
        with _folder_beside(output) as temporary:
            folder = Path(temporary) / "model"
            folder.mkdir()
            yield folder
    except OSError as error:
        raise TrainingRefused(f"{output} cannot be written: {error.strerror or error}") from None


def put_in_place(
    folder: Path, output: Path, description: dict[str, Any], card: str, force: bool
) -> None:
    """Describe the files in `folder`, and make it `output`.

    Args:
        folder: As new_folder gives it, with the model's files.
        output: What it becomes.
        description: Of model.json.
        card: Of README.md.
        force: Replace a model in `output` even by a worse one.

    Raises:
        TrainingRefused: The model that is in `output` already is better.
    """
    if output.exists() and not force:
        _check_no_worse(description["accuracy"], output)
    (folder / "model.json").write_text(json.dumps(description, indent=2) + "\n")
    (folder / "README.md").write_text(card)
    _swap(folder, output)


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
