"""The model that is committed is the one its description speaks of."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from model_runtime.digits import held_out
from model_training.evaluation import evaluate
from model_training.export import litert_scores

RELEASED = Path(__file__).parents[1] / "deep_mnist" / "1"
DESCRIPTION = json.loads((RELEASED / "model.json").read_text())
DIGITS = held_out()


def test_every_file_is_described_and_unchanged() -> None:
    present = {
        path.relative_to(RELEASED).as_posix() for path in RELEASED.rglob("*") if path.is_file()
    }
    assert present == {*DESCRIPTION["files"], "model.json", "README.md"}
    for file, checksum in DESCRIPTION["files"].items():
        assert hashlib.sha256((RELEASED / file).read_bytes()).hexdigest() == checksum


def test_the_held_out_digits_are_answered_as_described() -> None:
    result = evaluate(litert_scores(RELEASED, DIGITS.images), DIGITS.labels)
    stated = DESCRIPTION["accuracy"]["held_out"]
    assert stated["correct"] == result.correct
    assert [tuple(miss.values()) for miss in stated["wrong"]] == list(result.wrong)


def test_its_description_says_what_it_was_trained_and_judged_on() -> None:
    assert DESCRIPTION["trained"]["digits"] == 9_800
    assert DESCRIPTION["accuracy"]["test"]["digits"] == 10_000
    assert DESCRIPTION["accuracy"]["test"]["accuracy"] >= 0.993


@pytest.mark.parametrize("batch", [1, 2, 4, 8, 16, 32])
def test_a_batch_of_any_size_scores_alike(batch: int) -> None:
    alone = litert_scores(RELEASED, DIGITS.images)[:batch]
    together = litert_scores(RELEASED, DIGITS.images[:batch])
    assert together.shape == (batch, 10)
    assert np.abs(together - alone).max() <= 1e-5


def test_two_decimals_are_precise_enough() -> None:
    exact = litert_scores(RELEASED, DIGITS.images)
    rounded = litert_scores(RELEASED, DIGITS.images.round(2))
    assert np.array_equal(exact.argmax(axis=1), rounded.argmax(axis=1))


def test_the_card_states_the_described_accuracy() -> None:
    text = (RELEASED / "README.md").read_text()
    for figures in DESCRIPTION["accuracy"].values():
        assert f"| {figures['correct']:,} of {figures['digits']:,} |" in text


def test_no_path_of_the_machine_that_trained_it_is_in_it() -> None:
    for file in RELEASED.rglob("*"):
        if file.is_file():
            content = file.read_bytes()
            assert b"site-packages" not in content
            assert str(RELEASED.parents[2]).encode() not in content
