import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from model_training.data import LabelledDigits
from model_training.errors import TrainingRefused
from model_training.evaluation import evaluate
from model_training.export import litert_scores
from model_training.quantization import check_drop, difference, quantize
from model_training.quantize_command import main
from serving_core.digits import held_out

RELEASED = Path(__file__).parents[1] / "deep_mnist"
DIGITS = LabelledDigits(held_out().pixels, held_out().labels, "the held-out digits")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """The released model, as if it had been judged on the held-out digits."""
    folder = tmp_path / "1"
    shutil.copytree(RELEASED / "1", folder)
    description = json.loads((folder / "model.json").read_text())
    description["accuracy"]["test"] = {"digits": 200, "correct": 200, "accuracy": 1.0}
    (folder / "model.json").write_text(json.dumps(description))
    return folder


@pytest.fixture
def digits_file(tmp_path: Path) -> Path:
    file = tmp_path / "digits.npz"
    np.savez(file, images=DIGITS.images, labels=DIGITS.labels)
    return file


def answers(right: int, of: int) -> np.ndarray:
    """Probabilities of `of` digits that all show 0."""
    return np.eye(10, dtype=np.float32)[[0] * right + [1] * (of - right)]


def test_as_many_right_less_five_in_ten_thousand_is_the_limit() -> None:
    labels = np.zeros(10_000, np.uint8)
    before = evaluate(answers(9_900, 10_000), labels)
    check_drop(before, evaluate(answers(9_895, 10_000), labels))
    with pytest.raises(TrainingRefused, match=r"9,894 of 10,000 .* with float32 weights 9,900"):
        check_drop(before, evaluate(answers(9_894, 10_000), labels))


def test_the_difference_is_of_probabilities_and_of_the_digit_told() -> None:
    before = np.array([[0.7, 0.3], [0.4, 0.6]], np.float32)
    after = np.array([[0.7, 0.3], [0.55, 0.45]], np.float32)
    apart = difference(before, after)
    assert apart == {
        "largest": pytest.approx(0.15),
        "mean": pytest.approx(0.075),
        "other_digit": 1,
    }


@pytest.mark.tensorflow
def test_a_quarter_of_the_bytes_and_answers_that_differ_as_stated(
    source: Path, digits_file: Path, tmp_path: Path
) -> None:
    output = tmp_path / "7"
    # A process of its own: TensorFlow stays out of the one that runs all other tests.
    done = subprocess.run(
        [
            *(sys.executable, "-m", "model_training.quantize_command"),
            *("--model", source, "--test", digits_file, "--output", output),
        ],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("test: 200 of 200 correct, probabilities differ by up to 0.0")
    assert done.stdout.endswith(f"wrote {output}\n")
    description = json.loads((output / "model.json").read_text())
    assert description["version"] == "7"
    assert list(description["files"]) == ["model.tflite"]
    assert description["trained"] == json.loads((source / "model.json").read_text())["trained"]
    was, now = ((folder / "model.tflite").stat().st_size for folder in (source, output))
    assert now < 0.27 * was
    apart = difference(*(litert_scores(folder, held_out().images) for folder in (source, output)))
    assert description["quantized"]["difference"]["held_out"] == apart
    assert 0 < apart["largest"] < 0.05
    text = (output / "README.md").read_text()
    assert f"| held-out digits | {apart['largest']:.4f} |" in text
    assert "quantization of [version 1](../1/README.md)" in text


def test_digits_that_the_model_was_not_judged_on_are_refused(source: Path, tmp_path: Path) -> None:
    others = LabelledDigits(DIGITS.images, (DIGITS.labels + 1) % 10, "with other labels")
    with pytest.raises(
        TrainingRefused, match="200 of 200 test digits correct, with these digits it is 0 of 200"
    ):
        quantize(source, others, tmp_path / "2")
    assert not (tmp_path / "2").exists()


def test_a_model_that_was_judged_on_none_is_refused(source: Path, tmp_path: Path) -> None:
    description = json.loads((source / "model.json").read_text())
    description["accuracy"]["test"] = None
    (source / "model.json").write_text(json.dumps(description))
    with pytest.raises(TrainingRefused, match="states no accuracy on test digits"):
        quantize(source, DIGITS, tmp_path / "2")


def test_a_damaged_model_is_refused(source: Path, tmp_path: Path) -> None:
    with (source / "model.tflite").open("r+b") as file:
        file.seek(1_000_000)
        file.write(b"not these")
    with pytest.raises(TrainingRefused, match="fails its checksum"):
        quantize(source, DIGITS, tmp_path / "2")


def test_the_model_itself_is_not_replaced(source: Path) -> None:
    with pytest.raises(TrainingRefused, match="is the source model; choose another --output"):
        quantize(source, DIGITS, source)


@pytest.mark.parametrize(
    ("model", "message"),
    [("2", "has int8 weights, expected float32 weights"), ("9", "does not exist")],
)
def test_the_command_says_what_is_wrong_in_one_sentence(
    tmp_path: Path, model: str, message: str
) -> None:
    digits = tmp_path / "digits.npz"
    np.savez(digits, images=DIGITS.images, labels=DIGITS.labels)
    words = [
        "--model",
        str(RELEASED / model),
        "--test",
        str(digits),
        "--output",
        str(tmp_path / "3"),
    ]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 1
    assert result.output.startswith("quantize: ")
    assert len(result.output.splitlines()) == 1
    assert message in result.output
