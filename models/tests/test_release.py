import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model_training.data import LabelledDigits
from model_training.errors import TrainingRefused
from model_training.evaluation import evaluate
from model_training.model_card import card
from model_training.output_folder import check_replaceable
from model_training.release import describe
from model_training.training import Recipe

DIGITS = LabelledDigits(np.zeros((10, 28, 28), np.uint8), np.arange(10, dtype=np.uint8), "ten")
ALL_RIGHT = evaluate(np.eye(10, dtype=np.float32), DIGITS.labels)
ONE_WRONG = evaluate(np.eye(10, dtype=np.float32)[[0, 7, *range(2, 10)]], DIGITS.labels)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model that was judged on ten test digits."""
    write_description(tmp_path / "1", {"test": {"digits": 10, "correct": 9}, "held_out": {}})
    return tmp_path / "1"


def write_description(folder: Path, accuracy: Any) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "model.json").write_text(json.dumps({"accuracy": accuracy}))


def test_a_new_folder_may_be_written_however_deep(tmp_path: Path) -> None:
    check_replaceable(tmp_path / "new" / "deep_mnist" / "1", None, force=False)
    assert not (tmp_path / "new" / "deep_mnist" / "1").exists()


def test_a_model_may_be_replaced_by_one_judged_on_as_many_digits(folder: Path) -> None:
    check_replaceable(folder, DIGITS, force=False)


def test_without_test_digits_a_judged_model_stays(folder: Path) -> None:
    with pytest.raises(TrainingRefused, match="evaluated on 10 test digits; pass them with --test"):
        check_replaceable(folder, None, force=False)
    check_replaceable(folder, None, force=True)


def test_a_folder_of_someones_own_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    for force in (False, True):
        with pytest.raises(TrainingRefused, match="is not a model folder"):
            check_replaceable(tmp_path, DIGITS, force)


def test_a_folder_that_cannot_be_written_is_refused_beforehand(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TrainingRefused, match=r"file/1 cannot be written: (File exists|Not a dir)"):
        check_replaceable(tmp_path / "file" / "1", None, force=False)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"accuracy": {"test": null}}'])
def test_a_model_of_unknown_accuracy_is_replaced_only_by_force(folder: Path, content: str) -> None:
    (folder / "model.json").write_text(content)
    with pytest.raises(TrainingRefused, match="states no accuracy"):
        check_replaceable(folder, DIGITS, force=False)
    check_replaceable(folder, DIGITS, force=True)


def test_the_description_says_how_the_model_was_trained_and_judged() -> None:
    description = describe("7", Recipe(epochs=3), DIGITS, ONE_WRONG, ALL_RIGHT, {})
    assert description["version"] == "7"
    assert description["classes"] == list("0123456789")
    assert description["accuracy"] == {
        "test": {"digits": 10, "correct": 10, "accuracy": 1.0},
        "held_out": {
            "digits": 10,
            "correct": 9,
            "accuracy": 0.9,
            "wrong": [{"index": 1, "label": 1, "predicted": 7}],
        },
    }
    trained = description["trained"]
    assert (trained["data"], trained["digits"], trained["epochs"]) == ("ten", 10, 3)
    assert trained["recipe"]["augmentation"]["rotation_degrees"] == 12
    json.dumps(description)


def test_the_card_has_the_figures_of_the_description() -> None:
    text = card(describe("7", Recipe(), DIGITS, ONE_WRONG, ONE_WRONG, {}), ONE_WRONG)
    assert "| test set | 9 of 10 | 90.00 % |" in text
    assert "- index 1: label 1, prediction 7" in text
    assert "| **1** | 0 | 0 | 0 | 0 | 0 | 0 | 0 | 1 | 0 | 0 |" in text
    assert "| Accuracy, % | 100.00 | 0.00 | 100.00 |" in text
    assert "CC BY-SA 3.0" in text


def test_the_card_of_a_model_without_test_set_does_not_claim_one() -> None:
    text = card(describe("7", Recipe(), DIGITS, ALL_RIGHT, None, {}), ALL_RIGHT)
    assert "| test set" not in text
    assert "No held-out digit is misclassified." in text
    assert "Per class, on the 200 held-out digits:" in text
