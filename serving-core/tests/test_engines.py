"""The engines onnx and python; those of the released model are in test_predictors.py."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from model_folders import tensor, write_model_folder
from serving_core import InvalidInput, ModelFolderInvalid, PredictorFailed, load_predictor

SUM = """
import numpy as np

class Model:
    def load(self, folder):
        self.weights = np.array([1, 2, 3], np.float32)

    def predict(self, inputs):
        return {"y": inputs["x"] @ self.weights}
"""
X = tensor("x", "FP32", [-1, 3])
Y = tensor("y", "FP32", [-1])


def python_model(folder: Path, code: str, **fields: object) -> Path:
    return write_model_folder(folder / "sum", {"model.py": code}, [X], [Y], **fields)


def onnx_model() -> bytes:
    """Two inputs, two outputs: x + n, and text as it came."""
    rows = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["n"], ["f"], to=TensorProto.FLOAT),
            helper.make_node("Add", ["x", "f"], ["y"]),
            helper.make_node("Identity", ["s"], ["t"]),
        ],
        "mixed",
        [
            rows("x", TensorProto.FLOAT, ["n", 2]),
            rows("n", TensorProto.INT64, ["n", 1]),
            rows("s", TensorProto.STRING, ["n"]),
        ],
        [rows("y", TensorProto.FLOAT, ["n", 2]), rows("t", TensorProto.STRING, ["n"])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


MIXED = (
    [tensor("x", "FP32", [-1, 2]), tensor("n", "INT64", [-1, 1]), tensor("s", "BYTES", [-1])],
    [tensor("y", "FP32", [-1, 2]), tensor("t", "BYTES", [-1])],
)


def test_a_python_class_is_a_model(tmp_path: Path) -> None:
    predictor = load_predictor(python_model(tmp_path, SUM))
    assert predictor.info.engine == "python"
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert predictor.predict({"x": x})["y"].tolist() == [8, 26]


def test_a_python_class_may_change_what_it_is_given(tmp_path: Path) -> None:
    code = SUM.replace("return", 'inputs["x"] += 1; return')
    predictor = load_predictor(python_model(tmp_path, code))
    x = np.frombuffer(np.zeros((1, 3), np.float32).tobytes(), np.float32).reshape(1, 3)
    assert predictor.predict({"x": x})["y"].tolist() == [6]


def test_modules_beside_model_py_are_imported_and_checked(tmp_path: Path) -> None:
    files = {"model.py": "from beside_model import Model", "beside_model.py": SUM}
    folder = write_model_folder(tmp_path / "sum", files, [X], [Y])
    assert load_predictor(folder).info.engine == "python"
    (folder / "beside_model.py").write_text(SUM + "\n")
    with pytest.raises(ModelFolderInvalid, match=r"beside_model\.py fails its checksum"):
        load_predictor(folder)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("x, y = [1, 2, 3]", r"model\.py, line 1: the import raises ValueError"),
        ("\n\ndef (", r"model\.py, line 3: the import raises SyntaxError"),
        ("import no_such_package", "needs the module no_such_package, which is not installed"),
        ("", "has no class Model"),
        ("class Model:\n    def load(self, folder): pass", "Model has no predict"),
        (SUM.replace("self.weights =", "a, b ="), "line 6: load raises ValueError"),
        (SUM.replace("self.weights =", "self.other ="), "line 9: predict raises AttributeError"),
        (SUM.replace('{"y": ', '{"z": '), "returns the outputs z, expected y"),
        (SUM.replace("return {", "return 1; {"), "returns int, expected a dictionary"),
        (SUM.replace("@ self.weights", ""), r"output y is of shape \(1, 3\), expected \[-1\]"),
        (SUM.replace('inputs["x"] @', '1j * inputs["x"] @'), "datatype complex64, expected FP32"),
        (SUM.replace('inputs["x"] @ self.weights', "[[1], [1, 2]]"), "output y is ragged"),
    ],
)
def test_a_faulty_model_py_is_refused_in_words(tmp_path: Path, code: str, message: str) -> None:
    with pytest.raises(ModelFolderInvalid, match=message) as refused:
        load_predictor(python_model(tmp_path, code))
    assert "unpack" not in str(refused.value)


def test_a_python_class_may_refuse_an_input(tmp_path: Path) -> None:
    code = SUM + (
        "        \n"
        "    def predict(self, inputs):\n"
        "        from serving_core import InvalidInput\n"
        "        if inputs['x'].max() > 5: raise InvalidInput('x is too large')\n"
        "        if inputs['x'].max() > 4: raise KeyError('x')\n"
        "        return {'y': inputs['x'][:, 0]}\n"
    )
    predictor = load_predictor(python_model(tmp_path, code))
    with pytest.raises(InvalidInput, match="x is too large"):
        predictor.predict({"x": np.full((1, 3), 9, np.float32)})
    with pytest.raises(PredictorFailed, match="failed on this input") as failed:
        predictor.predict({"x": np.full((1, 3), 4.5, np.float32)})
    assert str(failed.value) == "the model failed on this input"


def test_onnx_takes_several_inputs_and_datatypes(tmp_path: Path) -> None:
    predictor = load_predictor(
        write_model_folder(tmp_path / "mixed", {"model.onnx": onnx_model()}, *MIXED)
    )
    assert predictor.info.engine == "onnx"
    texts = np.array([b"a", "é".encode()], np.object_)
    outputs = predictor.predict(
        {"x": np.ones((2, 2), np.float32), "n": np.array([[1], [2]]), "s": texts}
    )
    assert outputs["y"].tolist() == [[2, 2], [3, 3]]
    assert outputs["t"].tolist() == ["a", "é"]


def test_onnx_refuses_a_string_that_is_not_utf_8(tmp_path: Path) -> None:
    folder = write_model_folder(tmp_path / "mixed", {"model.onnx": onnx_model()}, *MIXED)
    inputs: dict[str, np.ndarray] = {
        "x": np.zeros((1, 2), np.float32),
        "n": np.zeros((1, 1), np.int64),
        "s": np.array([b"\xff"], object),
    }
    with pytest.raises(InvalidInput, match="not UTF-8"):
        load_predictor(folder).predict(inputs)


def test_a_class_that_refuses_the_example_cannot_start(tmp_path: Path) -> None:
    refusing = SUM.replace(
        "return", "from serving_core import InvalidInput; raise InvalidInput('x is empty'); return"
    )
    with pytest.raises(ModelFolderInvalid, match="fails its warm-up: x is empty"):
        load_predictor(python_model(tmp_path, refusing))


def test_a_file_that_is_no_onnx_model_is_refused(tmp_path: Path) -> None:
    folder = write_model_folder(tmp_path / "mixed", {"model.onnx": b"no model"}, *MIXED)
    with pytest.raises(ModelFolderInvalid, match=r"ONNX Runtime cannot load .*model\.onnx"):
        load_predictor(folder)


def test_other_tensors_than_those_in_the_onnx_file_are_refused(tmp_path: Path) -> None:
    inputs = [tensor("other", "FP32", [-1, 2]), *MIXED[0][1:]]
    folder = write_model_folder(tmp_path / "mixed", {"model.onnx": onnx_model()}, inputs, MIXED[1])
    with pytest.raises(ModelFolderInvalid, match="has the inputs x, n, s, expected other, n, s"):
        load_predictor(folder)
