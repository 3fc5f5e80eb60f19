"""The models that are committed are the ones their descriptions speak of."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model_training.evaluation import evaluate
from model_training.export import litert_scores
from model_training.quantization import LARGEST_DROP, difference
from serving_core.digits import held_out

Description = dict[str, Any]

VERSIONS = Path(__file__).parents[1] / "deep_mnist"
DIGITS = held_out()


@pytest.fixture(params=["1", "2"])
def released(request: pytest.FixtureRequest) -> Path:
    return VERSIONS / str(request.param)


@pytest.fixture
def description(released: Path) -> Description:
    return dict(json.loads((released / "model.json").read_text()))


def test_every_version_is_tested_here() -> None:
    assert sorted(path.name for path in VERSIONS.iterdir() if path.is_dir()) == ["1", "2"]


def test_every_file_is_described_and_unchanged(released: Path, description: Description) -> None:
    present = {
        path.relative_to(released).as_posix() for path in released.rglob("*") if path.is_file()
    }
    assert present == {*description["files"], "model.json", "README.md"}
    for file, checksum in description["files"].items():
        assert hashlib.sha256((released / file).read_bytes()).hexdigest() == checksum


def test_the_held_out_digits_are_answered_as_described(
    released: Path, description: Description
) -> None:
    result = evaluate(litert_scores(released, DIGITS.images), DIGITS.labels)
    stated = description["accuracy"]["held_out"]
    assert stated["correct"] == result.correct
    assert [tuple(miss.values()) for miss in stated["wrong"]] == list(result.wrong)


def test_its_description_says_what_it_was_trained_and_judged_on(
    description: Description,
) -> None:
    assert description["trained"]["digits"] == 9_800
    assert description["accuracy"]["test"]["digits"] == 10_000
    assert description["accuracy"]["test"]["accuracy"] >= 0.993


@pytest.mark.parametrize("batch", [1, 2, 4, 8, 16, 32])
def test_a_batch_of_any_size_scores_alike(released: Path, batch: int) -> None:
    alone = litert_scores(released, DIGITS.images)[:batch]
    together = litert_scores(released, DIGITS.images[:batch])
    assert together.shape == (batch, 10)
    assert np.abs(together - alone).max() <= 1e-5


def test_two_decimals_are_precise_enough(released: Path) -> None:
    exact = litert_scores(released, DIGITS.images)
    rounded = litert_scores(released, DIGITS.images.round(2))
    assert np.array_equal(exact.argmax(axis=1), rounded.argmax(axis=1))


def test_the_card_states_the_described_accuracy(released: Path, description: Description) -> None:
    text = (released / "README.md").read_text()
    assert description["accuracy"].keys() == {"test", "held_out"}
    for figures in description["accuracy"].values():
        assert f"| {figures['correct']:,} of {figures['digits']:,} |" in text


def test_no_path_of_the_machine_that_trained_it_is_in_it(released: Path) -> None:
    files = [file for file in released.rglob("*") if file.is_file()]
    assert len(files) >= 3  # the model, its description, its card
    for file in files:
        content = file.read_bytes()
        assert b"site-packages" not in content
        assert str(VERSIONS.parents[1]).encode() not in content


def test_int8_weights_are_the_first_versions_and_as_far_from_it_as_stated() -> None:
    first, int8 = VERSIONS / "1", VERSIONS / "2"
    description = json.loads((int8 / "model.json").read_text())
    assert description["quantized"]["from"] == {
        "version": "1",
        "sha256": hashlib.sha256((first / "model.tflite").read_bytes()).hexdigest(),
    }
    was = json.loads((first / "model.json").read_text())["accuracy"]["test"]
    now = description["accuracy"]["test"]
    assert was["correct"] - now["correct"] <= LARGEST_DROP * was["digits"]
    apart = difference(*(litert_scores(folder, DIGITS.images) for folder in (first, int8)))
    stated = description["quantized"]["difference"]
    # Another processor adds in another order; a rounding to int8 may then go the other way.
    assert apart["largest"] <= stated["test"]["largest"]
    assert apart["other_digit"] == stated["held_out"]["other_digit"] == 0
