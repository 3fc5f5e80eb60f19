"""Declared limits: an input's range, and what a classifier's output has."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model_folders import tensor, write_model_folder
from open_inference_pb2 import ModelMetadataResponse
from serving_core import (
    Classifier,
    DataPlane,
    Exchange,
    InferenceRequest,
    InvalidInput,
    MicroBatcher,
    ModelFolderInvalid,
    ModelInfo,
    Served,
    ServingError,
    Signature,
    TensorSpec,
    load_predictor,
    read_model_folder,
)
from serving_core.loading import example
from serving_core.protocols.open_inference import common, grpc
from serving_core.protocols.open_inference.client import signature_of
from serving_core.tensors import ANY
from serving_core.testing import FakePredictor

PIXELS = TensorSpec("x", "FP32", (-1, 2, 2), range=(0, 1))
BYTES_TO_PIXELS = TensorSpec("x", "FP32", (-1, 2), range=(-1, 1), rescale=(0, 255))


def rows(*values: float, width: int = 4) -> np.ndarray:
    return np.array(values, np.float32).reshape(-1, width)


@pytest.mark.parametrize("value", [255, -0.01, 1.001, np.nan, np.inf, -np.inf, 3e38])
def test_a_value_outside_the_range_is_named(value: float) -> None:
    array = rows(0, 1, 0.5, 0.25, 1, 0, value, 2).reshape(2, 2, 2)
    with pytest.raises(InvalidInput) as refused:
        PIXELS.in_range(array)
    expected = f"input 'x' has the value {np.float32(value)} at [1, 1, 0], expected 0 to 1"
    assert str(refused.value) == expected


def test_limits_and_rounding_are_within_the_range() -> None:
    array = rows(0, 1, -0.0, np.nextafter(np.float32(1), np.float32(2))).reshape(1, 2, 2)
    assert PIXELS.in_range(array) is array


def test_integers_have_no_rounding() -> None:
    spec = TensorSpec("n", "INT32", (-1,), range=(0, 9_999_999))
    with pytest.raises(InvalidInput, match="10000000 at"):
        spec.in_range(np.array([10_000_000], np.int32))


def test_a_request_is_rescaled_to_the_range() -> None:
    rescaled = BYTES_TO_PIXELS.in_range(rows(0, 255, 127.5, 51, width=2))
    assert rescaled.dtype == np.float32
    assert rescaled == pytest.approx(rows(-1, 1, 0, -0.6, width=2), abs=1e-6)
    with pytest.raises(InvalidInput, match=r"256.0 at \[0, 1\], expected 0 to 255"):
        BYTES_TO_PIXELS.in_range(rows(0, 256, width=2))


def test_inputs_without_a_range_are_untouched() -> None:
    signature = Signature((PIXELS, TensorSpec("n", "INT64", (-1,))), (PIXELS,))
    inputs = {"x": np.zeros((1, 2, 2), np.float32), "n": np.array([1 << 40])}
    assert signature.in_range(inputs)["n"] is inputs["n"]
    free = Signature((TensorSpec("n", "INT64", (-1,)),), (PIXELS,))
    assert free.in_range(inputs) is inputs


class Reply:
    code = "400"

    def __init__(self, error: ServingError) -> None:
        self.error = error


class Codec:
    """Decodes an array as it is."""

    def decode(self, message: np.ndarray, served: object) -> InferenceRequest:
        return InferenceRequest({"instances": message}, len(message), "")

    def encode(self, *_: object) -> Reply:
        raise NotImplementedError

    def refuse(self, message: object, error: ServingError) -> Reply:
        return Reply(error)


class Metrics:
    def begin(self) -> None: ...

    def observe(self, *values: object) -> None: ...


def test_the_exchange_refuses_for_every_protocol() -> None:
    predictor = FakePredictor(4)
    spec = TensorSpec("instances", "FP32", (-1, 4), range=(0, 1))
    signature = Signature((spec,), predictor.info.signature.outputs)
    predictor.info = replace(predictor.info, signature=signature)
    plane = DataPlane(MicroBatcher(predictor), Metrics())
    replies: list[Reply] = []
    exchange = Exchange(
        plane,
        Codec(),
        "",
        Served(predictor.info, ""),
        lambda reply, _, count: replies.append(reply),
    )
    exchange.start(rows(0, 0, 7, 0), None)
    (reply,) = replies
    assert reply.error.kind == "invalid_argument"
    assert "7.0 at [0, 2], expected 0 to 1" in str(reply.error)


SCORES = """
import numpy as np

class Model:
    def load(self, folder): pass

    def predict(self, inputs):
        return {"scores": np.tile(np.array(%s, np.float32), (len(inputs["x"]), 1))}
"""


def classifier(folder: Path, row: list[float], **fields: object) -> Path:
    return write_model_folder(
        folder / "scores",
        {"model.py": SCORES % row},
        [tensor("x", "FP32", [-1, 4])],
        [tensor("scores", "FP32", [-1, 2])],
        classes=["cat", "dog"],
        **fields,
    )


def test_logits_become_probabilities(tmp_path: Path) -> None:
    predictor = load_predictor(classifier(tmp_path, [2.3, 2.3 + np.log(3)], scores="logits"))
    scores = Classifier(predictor).predict(np.zeros((3, 4), np.float32))
    assert scores == pytest.approx(np.tile([0.25, 0.75], (3, 1)), abs=1e-6)


def test_large_logits_do_not_overflow(tmp_path: Path) -> None:
    predictor = load_predictor(classifier(tmp_path, [1000, -1000], scores="logits"))
    assert Classifier(predictor).predict(np.zeros((1, 4), np.float32)).tolist() == [[1, 0]]


def test_classes_that_do_not_exclude_each_other_are_declared(tmp_path: Path) -> None:
    predictor = load_predictor(classifier(tmp_path, [0.9, 0.8], scores="probabilities"))
    assert Classifier(predictor).predict(np.zeros((1, 4), np.float32)).sum() > 1.6


@pytest.mark.parametrize(
    ("scores", "fields", "message"),
    [
        ([2.3, -1], {}, 'are -1 to 2.3, expected probabilities; write "scores": "logits"'),
        ([2.3, 0], {"scores": "probabilities"}, "are 0 to 2.3, expected probabilities"),
        ([0.9, 0.8], {}, 'sum to 1.7, expected 1; write into model.json "scores": "logits"'),
        ([0.9, 0.1], {"scores": "percent"}, "scores is 'percent', expected 'logits'"),
    ],
)
def test_a_confidence_of_2_is_never_served(
    tmp_path: Path, scores: list[float], fields: dict[str, str], message: str
) -> None:
    with pytest.raises(ModelFolderInvalid, match=message):
        load_predictor(classifier(tmp_path, scores, **fields))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"range": [1, 0]}, r"inputs\[0\]\.range is \[1, 0\], expected \[low, high\]"),
        ({"range": "0,1"}, "range is '0,1'"),
        ({"range": [0, True]}, r"range is \[0, True\]"),
        ({"rescale": [0, 255]}, "rescale needs a range"),
        ({"range": [0, 1], "datatype": "BYTES"}, "has a range, expected none for BYTES"),
    ],
)
def test_a_wrong_range_is_named(tmp_path: Path, more: dict[str, object], message: str) -> None:
    source = tensor("x", "FP32", [-1, 4]) | more
    folder = write_model_folder(
        tmp_path / "m", {"model.py": ""}, [source], [tensor("y", "FP32", [-1])]
    )
    with pytest.raises(ModelFolderInvalid, match=message):
        read_model_folder(folder)


def test_integers_written_by_hand_do_not_wrap(tmp_path: Path) -> None:
    source = tensor("x", "INT8", [-1, 2]) | {"range": [0, 100], "rescale": [-128, 127]}
    folder = write_model_folder(
        tmp_path / "m", {"model.py": ""}, [source], [tensor("y", "FP32", [-1])]
    )
    (spec,) = read_model_folder(folder).info.signature.inputs
    assert spec.in_range(np.array([[-128, 127]], np.int8)).tolist() == [[0, 100]]


@pytest.mark.parametrize("describe", [common.model_metadata, grpc.model_metadata])
def test_metadata_tells_a_client_what_to_send(describe: Any) -> None:
    outputs = (TensorSpec("y", "FP32", (ANY, 2)),)
    signature = Signature((BYTES_TO_PIXELS, TensorSpec("n", "INT8", (ANY,))), outputs)
    told = signature_of(describe(Served(ModelInfo("m", "1", "fake", signature))))
    assert told.inputs[0].range == BYTES_TO_PIXELS.rescale
    assert (told.inputs[1:], told.outputs, told.batched) == (signature.inputs[1:], outputs, True)
    sent = example(told, 16)
    assert 1 < sent["x"].max() <= 255
    assert np.abs(signature.in_range(sent)["x"]).max() <= 1
    assert np.abs(example(signature, 16)["x"]).max() <= 1


@pytest.mark.parametrize("describe", [common.model_metadata, grpc.model_metadata])
@pytest.mark.parametrize("batched", [True, False])
def test_metadata_tells_a_client_whether_there_is_a_batch(describe: Any, batched: bool) -> None:
    signature = Signature(
        (TensorSpec("x", "FP32", (ANY,), range=(0, 1)),),
        (TensorSpec("y", "FP32", (ANY,)),),
        batched,
    )
    told = signature_of(describe(Served(ModelInfo("m", "1", "fake", signature))))
    assert told == signature


def test_a_range_of_integers_is_read() -> None:
    response = ModelMetadataResponse()
    tensor = response.inputs.add(name="x", datatype="UINT8", shape=[-1])
    tensor.parameters["minimum"].int64_param = 1
    tensor.parameters["maximum"].uint64_param = 255
    assert signature_of(response).inputs[0].range == (1, 255)


def test_an_example_has_both_booleans() -> None:
    booleans = example(Signature((TensorSpec("x", "BOOL", (ANY,)),), ()), 16)["x"]
    assert set(booleans.tolist()) == {True, False}


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"inputs": [], "outputs": [{"name": "y"}]},
        {"inputs": [], "outputs": []},
        {"inputs": [1], "outputs": []},
        {"inputs": [{"name": "x", "datatype": "FP31", "shape": []}], "outputs": []},
    ],
)
def test_metadata_of_another_form_is_refused(metadata: Any) -> None:
    with pytest.raises(ValueError, match=r"metadata is incomplete|datatype of x is 'FP31'"):
        signature_of(metadata)


def test_a_batch_needs_a_first_size_of_its_own(tmp_path: Path) -> None:
    folder = write_model_folder(
        tmp_path / "m", {"model.py": ""}, [tensor("x", "FP32", [-1, 4])], [tensor("y", "FP32", [])]
    )
    with pytest.raises(ModelFolderInvalid, match=r"y has shape \[\], expected -1 as its first"):
        read_model_folder(folder)


def test_the_released_model_takes_pixels_from_0_to_1() -> None:
    released = Path(__file__).parents[2] / "models" / "deep_mnist"
    for version in ("1", "2"):
        (source,) = read_model_folder(released / version).info.signature.inputs
        assert source.range == (0, 1)
