"""Folders with nothing but a model: the server finds out what it takes."""

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from serving_core import ModelFolderInvalid, Signature, TensorSpec, load_predictor
from serving_core.describing import Choice, describe
from serving_core.model_folder import read_model_folder

RELEASED = Path(__file__).parents[2] / "models" / "deep_mnist" / "1"
MODEL = """
import numpy as np

class Model:
    inputs = {"x": ("FP32", [-1, 3]), "text": ("BYTES", [-1])}

    def load(self, folder): pass

    def predict(self, inputs):
        return {"y": %s, "t": inputs["text"]}
"""


def python_model(folder: Path, expression: str) -> Path:
    folder.mkdir()
    (folder / "model.py").write_text(MODEL % expression)
    return folder


def reduced(shape: list[int | str], output: list[int | str] | None) -> bytes:
    """An ONNX model that sums over the last dimension."""
    graph = helper.make_graph(
        [helper.make_node("ReduceSum", ["x"], ["y"], keepdims=0, axes=[-1])],
        "sums",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, output)],
    )
    opset = [helper.make_opsetid("", 11)]
    return bytes(helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString())


def signature_of(folder: Path) -> Signature:
    return load_predictor(folder).info.signature


def test_a_tflite_file_alone_is_a_model(tmp_path: Path) -> None:
    folder = tmp_path / "digits"
    folder.mkdir()
    shutil.copy(RELEASED / "model.tflite", folder / "mnist.tflite")
    info = load_predictor(folder).info
    assert (info.name, info.version, info.engine) == ("digits", "1", "litert")
    assert info.signature == Signature(
        (TensorSpec("instances", "FP32", (-1, 784)),),
        (TensorSpec("probabilities", "FP32", (-1, 10)),),
    )


def test_an_onnx_file_alone_is_a_model(tmp_path: Path) -> None:
    (tmp_path / "sums.onnx").write_bytes(reduced(["n", 3], ["n"]))
    predictor = load_predictor(tmp_path, name="sums")
    assert predictor.info.name == "sums"
    assert predictor.info.signature.outputs == (TensorSpec("y", "FP32", (-1,)),)
    assert predictor.predict({"x": np.ones((2, 3), np.float32)})["y"].tolist() == [3, 3]


@pytest.mark.parametrize(
    ("shape", "output", "expected", "batched"),
    [
        (["n", 3, 2], None, (-1, 3), True),
        (["n", "m", 2], ["n", "k"], (-1, -1), True),
        ([5, 2], [5], (5,), False),
        (["n"], None, (), False),
    ],
)
def test_what_the_file_does_not_say_a_call_tells(
    tmp_path: Path,
    shape: list[int | str],
    output: list[int | str] | None,
    expected: tuple[int, ...],
    batched: bool,
) -> None:
    (tmp_path / "sums.onnx").write_bytes(reduced(shape, output))
    signature = signature_of(tmp_path)
    assert signature.outputs == (TensorSpec("y", "FP32", expected),)
    assert signature.batched == batched


@pytest.mark.parametrize(
    ("expression", "output", "batched"),
    [
        ('inputs["x"] * 2', TensorSpec("y", "FP32", (-1, 3)), True),
        ('(inputs["x"] > 0).all(1)', TensorSpec("y", "BOOL", (-1,)), True),
        # Rows that depend on each other are not joined with those of another request.
        ('inputs["x"] - inputs["x"].mean(0)', TensorSpec("y", "FP32", (-1, 3)), False),
        ('np.array([inputs["x"].max()])', TensorSpec("y", "FP32", (1,)), False),
        # Of a model that answers differently each time no comparison tells.
        (
            'inputs["x"] + 10.0 ** next(self.__dict__.setdefault("calls", iter(range(99))))',
            TensorSpec("y", "FP64", (-1, 3)),
            True,
        ),
    ],
)
def test_a_class_alone_is_a_model(
    tmp_path: Path, expression: str, output: TensorSpec, batched: bool
) -> None:
    if output.datatype == "FP64":
        expression = f"({expression}).astype(np.float64)"
    signature = signature_of(python_model(tmp_path / "m", expression))
    assert signature.outputs == (output, TensorSpec("t", "BYTES", (-1,)))
    assert signature.batched == batched


def test_several_models_are_ambiguous(tmp_path: Path) -> None:
    shutil.copy(RELEASED / "model.tflite", tmp_path / "one.tflite")
    (tmp_path / "sums.onnx").write_bytes(reduced(["n", 3], ["n"]))
    with pytest.raises(ModelFolderInvalid, match=r"and .*one\.tflite, .*sums\.onnx; expected one"):
        load_predictor(tmp_path)
    assert load_predictor(tmp_path, "onnx").info.engine == "onnx"
    shutil.copy(RELEASED / "model.tflite", tmp_path / "two.tflite")
    with pytest.raises(ModelFolderInvalid, match=r"has 2 \.tflite files"):
        load_predictor(tmp_path)


def test_an_input_of_any_number_of_dimensions_must_be_declared(tmp_path: Path) -> None:
    model = onnx.load_from_string(reduced(["n"], None))
    model.graph.input[0].type.tensor_type.ClearField("shape")
    (tmp_path / "sums.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelFolderInvalid, match=r"declare them with --input x:DATATYPE:SHAPE"):
        load_predictor(tmp_path)
    choice = Choice(inputs=(TensorSpec("x", "FP32", (-1, 4)),))
    folder, _ = describe(read_model_folder(tmp_path), choice)
    assert folder.info.signature.outputs == (TensorSpec("y", "FP32", (-1,)),)


def test_the_fingerprint_changes_with_the_model(tmp_path: Path) -> None:
    folder = python_model(tmp_path / "m", 'inputs["x"]')
    before = read_model_folder(folder).fingerprint
    assert read_model_folder(folder).fingerprint == before
    (folder / "model.py").write_text(MODEL % 'inputs["x"] * 2')
    assert read_model_folder(folder).fingerprint != before
