"""A test prediction of a model that reads no digits, sent to real servers."""

from pathlib import Path

import pytest
from model_servers import serving

from deploy import example
from deploy.errors import StackUnhealthy
from model_folders import tensor, write_model_folder

MODEL = """
import numpy as np

class Model:
    inputs = {"x": ("FP32", [-1, 3]), "text": ("BYTES", [-1, -1])}

    def load(self, folder): pass

    def predict(self, inputs):
        return {"y": inputs["x"][:, :2]}
"""
NAME = "any"


def test_an_example_of_any_model_is_predicted(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "model.py").write_text(MODEL)
    with serving(folder, tmp_path / "log", MODEL_NAME=NAME) as servers:
        assert example.over_rest(servers.url, "", NAME) == ["y [1, 2]"]
        assert example.over_grpc(servers.grpc_target, "", NAME) == ["y [1, 2]"]
        with pytest.raises(StackUnhealthy, match="model name is 'other'"):
            example.over_rest(servers.url, "", "other")
        with pytest.raises(StackUnhealthy, match="NOT_FOUND"):
            example.over_grpc(servers.grpc_target, "", "other")


def test_an_example_is_within_the_ranges(tmp_path: Path) -> None:
    folder = write_model_folder(
        tmp_path / "m",
        {"model.py": MODEL.replace('"text"', '"z"')},
        [tensor("x", "FP32", [-1, 3], range=[5, 6]), tensor("n", "INT16", [-1], range=[300, 400])],
        [tensor("y", "FP32", [-1, 2])],
    )
    with serving(folder, tmp_path / "log", MODEL_NAME=NAME) as servers:
        assert example.over_rest(servers.url, "", NAME) == ["y [1, 2]"]
        assert example.over_grpc(servers.grpc_target, "", NAME) == ["y [1, 2]"]
