"""Both engines as they are measured: in a process for each core, and right about the digits."""

import os
from pathlib import Path

import numpy as np
import pytest

from bench import raw_model
from bench.errors import BenchError
from model_runtime.digits import held_out
from model_runtime.model_folder import read_model_folder

MODEL = Path(__file__).parents[2] / "models/deep_mnist/1"


@pytest.mark.parametrize("engine", ["litert", "tensorflow"])
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


@pytest.mark.parametrize(
    ("engine", "load"),
    [("litert", raw_model._litert), ("tensorflow", raw_model._tensorflow)],
)
def test_what_is_measured_scores_digits(engine: str, load: raw_model.Load) -> None:
    digits = held_out()
    scores = load(read_model_folder(MODEL, engine), (1, 32))[32](digits.images[:32])
    assert np.mean(np.argmax(scores, axis=1) == digits.labels[:32]) > 0.95


def test_a_model_that_cannot_be_loaded_is_told(tmp_path: Path) -> None:
    cores = sorted(os.sched_getaffinity(0))[:2]
    with pytest.raises(BenchError, match=r"(?s)the raw model failed: .*is not a model folder"):
        raw_model.run(tmp_path, "litert", 0.2, (1,), cores)
