"""Atomic replacement of a model folder."""

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
    """Check before training that the result can be written to `output`.

    Raises:
        TrainingRefused: `output` exists and is not a model folder, is not writable, or holds a
            model whose accuracy is stated for a test set of another size than `test`.
    """
    if not output.exists():
        _check_writable(output)
        return
    if not (output / "model.json").is_file():
        # Even with --force: a typing error must not delete somebody's folder.
        raise TrainingRefused(f"{output} is not a model folder; choose another --output")
    _check_writable(output)
    if force:
        return
    evaluated_on = (_accuracy_of(output)["test"] or {}).get("digits")
    if evaluated_on is not None and (test is None or len(test) != evaluated_on):
        raise TrainingRefused(
            f"the model in {output} was evaluated on {evaluated_on:,} test digits; pass them with "
            f"--test, choose another --output, or use --force"
        )


@contextmanager
def new_folder(output: Path) -> Iterator[Path]:
    """Create an empty folder beside `output` that is removed after the block.

    Raises:
        TrainingRefused: The block raises OSError.
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
    """Write model.json and the card into `folder` and move it to `output`.

    Args:
        folder: From `new_folder`, with the model's files.
        output: The model folder.
        description: Content of model.json.
        card: Content of README.md.
        force: Replace an existing model even if the new one is less accurate.

    Raises:
        TrainingRefused: The existing model is more accurate.
    """
    if output.exists() and not force:
        _check_no_worse(description["accuracy"], output)
    (folder / "model.json").write_text(json.dumps(description, indent=2) + "\n")
    (folder / "README.md").write_text(card)
    _swap(folder, output)


def _folder_beside(output: Path) -> tempfile.TemporaryDirectory[str]:
    """A temporary folder on the file system of `output`, so that a rename can move it."""
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
            f"the new model has {new[on]['correct']:,} of {new[on]['digits']:,} "
            f"{on.replace('_', '-')} digits correct, the one in {output} {old[on]['correct']:,}; "
            f"nothing was replaced: use --force, or choose another --output"
        )


def _accuracy_of(output: Path) -> dict[str, Any]:
    try:
        accuracy = json.loads((output / "model.json").read_text())["accuracy"]
        return {"test": accuracy["test"], "held_out": accuracy["held_out"]}
    except (OSError, ValueError, KeyError, TypeError):
        raise TrainingRefused(
            f"{output}/model.json states no accuracy; choose another --output, or use --force"
        ) from None


def _swap(folder: Path, output: Path) -> None:
    """Replace `output` by `folder` with two renames; a failed second one is undone."""
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
