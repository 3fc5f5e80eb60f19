import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from serving_core import Classifier, ModelFolderInvalid, load_predictor
from serving_core.digits import held_out
from serving_core.engines.litert import split_batch

RELEASED = Path(__file__).parents[2] / "models" / "deep_mnist" / "1"
DIGITS = held_out()


@pytest.fixture(scope="module")
def litert() -> Classifier:
    return Classifier(load_predictor(RELEASED))


# TensorFlow runs in a process of its own: it must not be loaded into the one that tests LiteRT.
SCORE_WITH_TENSORFLOW = """
import sys
from pathlib import Path
import numpy as np
from serving_core import Classifier, load_predictor
from serving_core.digits import held_out
predictor = Classifier(load_predictor(Path(sys.argv[1]), "tensorflow"))
np.save(sys.argv[2], predictor.predict(held_out().images))
"""


@pytest.fixture(scope="module")
def tensorflow_scores(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    target = tmp_path_factory.mktemp("scores") / "tensorflow.npy"
    subprocess.run(
        [sys.executable, "-c", SCORE_WITH_TENSORFLOW, str(RELEASED), str(target)],
        check=True,
        timeout=110,
    )
    return np.asarray(np.load(target))


@pytest.mark.tensorflow
def test_the_engines_agree(litert: Classifier, tensorflow_scores: np.ndarray) -> None:
    difference = np.abs(litert.predict(DIGITS.images) - tensorflow_scores)
    assert difference.max() <= 1e-5


def test_int8_weights_answer_alike_in_any_batch_and_near_float32(litert: Classifier) -> None:
    int8 = Classifier(load_predictor(RELEASED.with_name("2")))
    alone = np.concatenate([int8.predict(DIGITS.images[i : i + 1]) for i in range(16)])
    for size in range(2, 17):
        assert np.abs(int8.predict(DIGITS.images[:size]) - alone[:size]).max() <= 1e-5
    assert 0 < np.abs(alone - litert.predict(DIGITS.images[:16])).max() <= 0.015


@pytest.mark.parametrize(
    ("instances", "parts"),
    [
        (1, (1,)),
        (2, (1, 1)),
        (3, (4,)),
        (5, (4, 1)),
        (6, (8,)),
        (8, (8,)),
        (9, (8, 1)),
        (12, (8, 4)),
        (14, (16,)),
        (16, (16,)),
        (17, (16, 1)),
        (40, (16, 16, 8)),
        (160_003, (16,) * 10_000 + (4,)),
    ],
)
def test_a_batch_is_scored_in_the_parts_that_cost_least(
    instances: int, parts: tuple[int, ...]
) -> None:
    assert split_batch(instances) == parts


def test_int8_weights_are_for_one_engine() -> None:
    with pytest.raises(ModelFolderInvalid, match="names no file for the engine tensorflow"):
        load_predictor(RELEASED.with_name("2"), "tensorflow")


def test_accuracy_on_the_held_out_digits_is_the_released_one(litert: Classifier) -> None:
    predicted = litert.predict(DIGITS.images).argmax(axis=1)
    stated = json.loads((RELEASED / "model.json").read_text())["accuracy"]["held_out"]
    wrong = [
        {"index": int(i), "label": int(DIGITS.labels[i]), "predicted": int(predicted[i])}
        for i in np.flatnonzero(predicted != DIGITS.labels)
    ]
    assert wrong == stated["wrong"]
    assert stated["correct"] == 200 - len(wrong)
    assert stated["correct"] >= 196


def test_released_accuracy_is_what_was_promised() -> None:
    test = json.loads((RELEASED / "model.json").read_text())["accuracy"]["test"]
    assert test["digits"] == 10_000
    assert test["correct"] >= 9_930


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 16, 31, 100])
def test_a_batch_of_any_size_scores_as_its_rows_do(litert: Classifier, size: int) -> None:
    together = litert.predict(DIGITS.images[:size])
    alone = np.concatenate([litert.predict(row[np.newaxis]) for row in DIGITS.images[:size]])
    assert together.shape == (size, 10)
    assert np.abs(together - alone).max() <= 1e-5
    assert np.abs(together.sum(axis=1) - 1).max() <= 1e-5


def test_an_answer_outlives_the_next_call(litert: Classifier) -> None:
    first = litert.predict(DIGITS.images[:1])
    kept = first.copy()
    litert.predict(DIGITS.images[20:21])
    assert np.array_equal(first, kept)


def test_litert_does_not_load_tensorflow() -> None:
    code = (
        "import sys; from pathlib import Path; from serving_core import load_predictor; "
        "load_predictor(Path(sys.argv[1])); sys.exit('tensorflow' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(RELEASED)], check=True, timeout=60)
