"""Both engines as they are measured: in a process for each core, and right about the digits."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench import raw_model
from bench.errors import BenchError

MODEL = Path(__file__).parents[2] / "models/deep_mnist/1"
ENGINES = ["litert", pytest.param("tensorflow", marks=pytest.mark.tensorflow)]


@pytest.mark.parametrize("engine", ENGINES)
def test_each_core_has_a_process_and_each_batch_a_result(engine: str) -> None:
    cores = sorted(os.sched_getaffinity(0))[:2]
    results = raw_model.run(MODEL, engine, 0.2, (1, 32), cores)
    assert len(results) == len(cores)
    for of_core in results:
        assert [result["batch"] for result in of_core] == [1, 32]
        for result in of_core:
            assert result["predictions"] % result["batch"] == 0
            assert 0 < result["p50_ms"] <= result["p99_ms"]
            assert result["cpu_ms"] > 0


# In a process of its own: TensorFlow stays out of the one that runs all other tests.
SHARE_TOLD_RIGHT = """
import sys
from pathlib import Path
import numpy as np
from bench import raw_model
from serving_core.digits import held_out
from serving_core.model_folder import read_model_folder
folder, engine = Path(sys.argv[1]), sys.argv[2]
load = {"litert": raw_model._litert, "tensorflow": raw_model._tensorflow}[engine]
digits = held_out()
scores = load(read_model_folder(folder, engine), (1, 32))[32](digits.images[:32])
print(np.mean(np.argmax(scores, axis=1) == digits.labels[:32]))
"""


@pytest.mark.parametrize("engine", ENGINES)
def test_what_is_measured_scores_digits(engine: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SHARE_TOLD_RIGHT, str(MODEL), engine],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) > 0.95


def test_a_model_that_cannot_be_loaded_is_reported(tmp_path: Path) -> None:
    cores = sorted(os.sched_getaffinity(0))[:2]
    with pytest.raises(BenchError, match=r"(?s)the raw model failed: .*is not a model folder"):
        raw_model.run(tmp_path, "litert", 0.2, (1,), cores)
