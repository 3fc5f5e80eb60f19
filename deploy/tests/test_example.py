"""A test prediction of a model that reads no digits, sent to real servers."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from deploy import example, probes
from deploy.errors import StackUnhealthy
from model_folders import tensor, write_model_folder
from polling import eventually
from ports import free_ports

MODEL = """
import numpy as np

class Model:
    inputs = {"x": ("FP32", [-1, 3]), "text": ("BYTES", [-1, -1])}

    def load(self, folder): pass

    def predict(self, inputs):
        return {"y": inputs["x"][:, :2]}
"""
NAME = "any"


@contextlib.contextmanager
def serving(folder: Path, log: Path) -> Iterator[tuple[str, str]]:
    """The REST server's URL and the gRPC server's address."""
    rest, rpc, side = free_ports(3)
    settings = {
        "serving_rest": {"REST_PORT": rest, "REST_WORKERS": 1, "REST_DRAIN_DELAY_S": 0},
        "serving_grpc": {"GRPC_PORT": rpc, "GRPC_METRICS_PORT": side, "GRPC_WORKERS": 1},
    }
    common = os.environ | {"MODEL_FOLDER": str(folder), "MODEL_NAME": NAME}
    with contextlib.ExitStack() as running:
        stream = running.enter_context(log.open("wb"))
        for module, own in settings.items():
            process = subprocess.Popen(
                [sys.executable, "-m", module],
                env=common | {name: str(value) for name, value in own.items()},
                stdout=stream,
                stderr=stream,
            )
            running.callback(process.wait, 20)
            running.callback(process.terminate)
        for port in (rest, side):
            url = f"http://127.0.0.1:{port}/health/ready"
            eventually(partial(probes.is_ready, url), "a ready server", within_s=60)
        yield f"http://127.0.0.1:{rest}", f"127.0.0.1:{rpc}"


def test_an_example_of_any_model_is_predicted(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "model.py").write_text(MODEL)
    with serving(folder, tmp_path / "log") as (rest, rpc):
        assert example.over_rest(rest, "", NAME) == ["y [1, 2]"]
        assert example.over_grpc(rpc, "", NAME) == ["y [1, 2]"]
        with pytest.raises(StackUnhealthy, match="model name is 'other'"):
            example.over_rest(rest, "", "other")
        with pytest.raises(StackUnhealthy, match="NOT_FOUND"):
            example.over_grpc(rpc, "", "other")


def test_an_example_is_within_the_ranges(tmp_path: Path) -> None:
    folder = write_model_folder(
        tmp_path / "m",
        {"model.py": MODEL.replace('"text"', '"z"')},
        [tensor("x", "FP32", [-1, 3], range=[5, 6]), tensor("n", "INT16", [-1], range=[300, 400])],
        [tensor("y", "FP32", [-1, 2])],
    )
    with serving(folder, tmp_path / "log") as (rest, rpc):
        assert example.over_rest(rest, "", NAME) == ["y [1, 2]"]
        assert example.over_grpc(rpc, "", NAME) == ["y [1, 2]"]
