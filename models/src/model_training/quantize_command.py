"""`python -m model_training.quantize_command`: quantize a released model to int8 weights."""

import os
import sys
from pathlib import Path

import click

from model_training import data
from model_training.errors import TrainingRefused
from model_training.quantization import quantize


@click.command("quantize", context_settings={"show_default": True})
@click.option(
    "--model",
    type=click.Path(path_type=Path),
    default=Path("models/deep_mnist/1"),
    help="Folder of the released model.",
)
@click.option(
    "--test",
    "test_path",
    type=click.Path(path_type=Path),
    required=True,
    help="npz file of the model's test digits.",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder to write; its name is the version.",
)
@click.option(
    "--force",
    is_flag=True,
    help="Replace the model in OUTPUT even if the new one is less accurate.",
)
def main(model: Path, test_path: Path, output: Path, force: bool) -> None:
    """Quantize a released model to int8 weights, as another version.

    Fails if the accuracy on the test digits drops by more than 0.05 percentage points.
    """
    # TensorFlow reads it on import; its processor notes would bury the output.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        digits = data.read_npz(test_path, test_path.name)
        description = quantize(model, digits, output.absolute(), force)
    except TrainingRefused as refused:
        click.echo(f"quantize: {refused}", err=True)
        sys.exit(1)
    for name, figures in description["accuracy"].items():
        apart = description["quantized"]["difference"][name]
        click.echo(
            f"{name}: {figures['correct']:,} of {figures['digits']:,} correct, "
            f"probabilities differ by up to {apart['largest']:.4f}"
        )
    click.echo(f"wrote {output}")


if __name__ == "__main__":
    main()
