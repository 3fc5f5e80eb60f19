import base64
import json
from typing import Any

import numpy as np
import pytest

from models_under_test import MIXED, VALUES, computed, echo, same, tensor
from serving_core import (
    InferenceRequest,
    InvalidInput,
    ModelInfo,
    ModelNotFound,
    Served,
    Signature,
    TensorSpec,
)
from serving_core.protocols.http import HttpRequest
from serving_core.protocols.open_inference.common import to_binary
from serving_core.protocols.tensorflow_serving import grpc, rest
from serving_core.tensors import DATATYPES
from tensorflow_serving_pb2 import (
    DataType,
    GetModelMetadataRequest,
    GetModelMetadataResponse,
    PredictRequest,
    PredictResponse,
    SignatureDefMap,
    TensorProto,
)

X = np.array([[1, 2], [3, 4.5]], np.float32)
N = np.array([7, -7])
S = np.array([[b"a"], [b"\xff"]], object)
B64 = {"b64": base64.b64encode(b"\xff").decode()}


def post(document: object, path: str = "/v1/models/mixed:predict") -> HttpRequest:
    text = document if isinstance(document, bytes) else json.dumps(document).encode()
    return HttpRequest(path, "POST", "", body=text)


def decode(document: object, served: Served = MIXED) -> InferenceRequest:
    return rest.decode(post(document, f"/v1/models/{served.model.name}:predict"), served)


def encode(document: object, served: Served = MIXED, **outputs: Any) -> Any:
    path = f"/v1/models/{served.model.name}:predict"
    message = post(document, path)
    request = rest.decode(message, served)
    return json.loads(rest.encode(message, request, computed(**outputs), served).body)


ROWS = {
    "instances": [
        {"x": [1, 2], "n": 7, "s": ["a"]},
        {"x": [3, 4.5], "n": -7, "s": [B64]},
    ]
}
COLUMNS = {"inputs": {"x": [[1, 2], [3, 4.5]], "n": [7, -7], "s": [["a"], [B64]]}}


@pytest.mark.parametrize("document", [ROWS, COLUMNS])
def test_rows_and_columns_are_the_same_request(document: dict[str, Any]) -> None:
    request = decode(document)
    assert same(request, x=X, n=N, s=S)
    assert request.rows == 2


def test_the_response_has_the_format_of_the_request() -> None:
    outputs: dict[str, Any] = {"y": X, "t": np.array(["p", b"\xff"], object)}
    assert encode(ROWS, MIXED, **outputs) == {
        "predictions": [{"y": [1, 2], "t": "p"}, {"y": [3, 4.5], "t": B64}]
    }
    assert encode(COLUMNS, MIXED, **outputs) == {
        "outputs": {"y": [[1, 2], [3, 4.5]], "t": ["p", B64]}
    }


@pytest.mark.parametrize("named", [False, True])
def test_a_model_of_one_input_needs_no_names(named: bool) -> None:
    served, data = echo("FP32"), [[1, 2, 3], [4, 5, 6]]
    rows = {"instances": [{"x": row} for row in data] if named else data}
    columns = {"inputs": {"x": data} if named else data}
    y = np.array(data, np.float32)
    assert encode(rows, served, y=y) == {"predictions": data}
    assert encode(columns, served, y=y) == {"outputs": data}


@pytest.mark.parametrize("datatype", sorted(set(DATATYPES) - {"BYTES"}))
def test_every_number_goes_there_and_back_in_json(datatype: str) -> None:
    served, array = echo(datatype), tensor(datatype)
    data = np.array(VALUES[datatype], object).reshape(2, 3).tolist()
    assert same(decode({"instances": data}, served), x=array)
    back = encode({"instances": data}, served, y=array)["predictions"]
    assert np.array_equal(np.array(back, DATATYPES[datatype]), array)


@pytest.mark.parametrize(
    "path",
    ["/v1/models/other:predict", "/v1/models/mixed/versions/4:predict"],
)
def test_another_model_or_version_is_not_found(path: str) -> None:
    with pytest.raises(ModelNotFound):
        rest.decode(post(ROWS, path), MIXED)
    assert rest.decode(post(ROWS, "/v1/models/mixed/versions/3:predict"), MIXED).rows == 2


REFUSED: dict[str, tuple[object, str]] = {
    "no JSON": (b"{", "the body is no valid JSON"),
    "a list": ([], "the body is a list"),
    "nothing": ({}, "both or none of instances and inputs"),
    "both": (ROWS | COLUMNS, "both or none of instances and inputs"),
    "another signature": (ROWS | {"signature_name": "train"}, "is 'train', expected 'serving_def"),
    "no instances": ({"instances": []}, "instances is empty, expected at least one"),
    "an object": ({"instances": {}}, "instances is an object"),
    "an instance of numbers": (
        {"instances": [1]},
        r"instances\[0\] is an integer, expected an obj",
    ),
    "an input is missing": ({"instances": [{"x": [1, 2]}]}, "with the inputs x, n, s"),
    "columns of numbers": ({"inputs": [1]}, "inputs is a list, expected an object"),
    "an unknown input": ({"inputs": {"z": 1}}, "input name is 'z'"),
    "missing columns": ({"inputs": {"x": [[1, 2]]}}, "input 'n' is missing"),
    "another shape": ({"inputs": COLUMNS["inputs"] | {"x": [1, 2]}}, r"has shape \[2\]"),
    "no base64": ({"inputs": COLUMNS["inputs"] | {"s": [[{"b64": "?"}]]}}, "is no base64"),
    "base64 beyond ASCII": (
        {"inputs": COLUMNS["inputs"] | {"s": [[{"b64": "\u2028"}]]}},
        "is no base64",
    ),
    "another object": ({"inputs": COLUMNS["inputs"] | {"s": [[{"c": ""}]]}}, "has an object"),
    "an object for numbers": ({"inputs": COLUMNS["inputs"] | {"n": [B64]}}, "is an object"),
}


@pytest.mark.parametrize(("document", "text"), REFUSED.values(), ids=REFUSED)
def test_an_invalid_request_is_refused_with_field_and_limit(document: object, text: str) -> None:
    with pytest.raises(InvalidInput, match=text):
        decode(document)


def test_a_model_without_a_batch_has_columns_alone() -> None:
    spec = (TensorSpec("x", "FP32", (3,)),)
    served = Served(ModelInfo("one", "1", "fake", Signature(spec, spec, batched=False)), "default")
    with pytest.raises(InvalidInput, match="has no batch, expected inputs"):
        decode({"instances": [1, 2, 3]}, served)
    assert decode({"inputs": [1, 2, 3]}, served).rows == 1


def test_status_and_metadata_are_those_of_tensorflow_serving() -> None:
    (status,) = rest.model_status(MIXED, ready=True)["model_version_status"]
    assert (status["version"], status["state"]) == ("3", "AVAILABLE")
    metadata = rest.model_metadata(MIXED)
    signature = metadata["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert signature["inputs"]["s"]["dtype"] == "DT_STRING"
    assert signature["outputs"]["y"]["tensor_shape"]["dim"] == [
        {"size": "-1", "name": ""},
        {"size": "2", "name": ""},
    ]


FIELDS = {
    "BOOL": "bool_val",
    "INT64": "int64_val",
    "UINT32": "uint32_val",
    "UINT64": "uint64_val",
    "FP16": "half_val",
    "FP32": "float_val",
    "FP64": "double_val",
    "BYTES": "string_val",
}


def predict(datatype: str, in_content: bool) -> PredictRequest:
    request = PredictRequest()
    request.model_spec.name = "echo"
    item = request.inputs["x"]
    item.dtype = DataType.Value(rest.dtype_name(datatype))
    for size in (2, 3):
        item.tensor_shape.dim.add(size=size)
    array = tensor(datatype)
    if in_content:
        item.tensor_content = to_binary(array)
    else:
        values = array.view(np.uint16) if datatype == "FP16" else array
        getattr(item, FIELDS.get(datatype, "int_val")).extend(values.ravel().tolist())
    return request


def array_of(item: TensorProto, datatype: str) -> np.ndarray:
    shape = [dim.size for dim in item.tensor_shape.dim]
    if item.tensor_content:
        return np.frombuffer(item.tensor_content, DATATYPES[datatype]).reshape(shape)
    values = list(getattr(item, FIELDS.get(datatype, "int_val")))
    return np.array(values, DATATYPES[datatype]).reshape(shape)


@pytest.mark.parametrize(
    ("datatype", "in_content"),
    # TensorFlow has strings in string_val alone.
    [
        *((datatype, False) for datatype in DATATYPES),
        *((datatype, True) for datatype in DATATYPES if datatype != "BYTES"),
    ],
)
def test_every_datatype_goes_there_and_back(datatype: str, in_content: bool) -> None:
    served, array = echo(datatype), tensor(datatype)
    encoded = predict(datatype, in_content).SerializeToString()
    request = grpc.decode(encoded, served)
    assert same(request, x=array)
    reply = grpc.encode(encoded, request, computed(y=array), served)
    assert reply.message is not None
    response = PredictResponse.FromString(reply.message)
    assert (response.model_spec.name, response.model_spec.version.value) == ("echo", 3)
    assert np.array_equal(array_of(response.outputs["y"], datatype), array)


def test_one_value_stands_for_all_elements() -> None:
    message = predict("FP32", in_content=False)
    del message.inputs["x"].float_val[1:]
    request = grpc.decode(message.SerializeToString(), echo("FP32"))
    assert same(request, x=np.full((2, 3), 0.5, np.float32))


@pytest.mark.parametrize("sizes", [(10**6, 10**6), (2, -3), (6000, 3)])
def test_a_small_message_does_not_abbreviate_a_large_tensor(sizes: tuple[int, int]) -> None:
    message = predict("FP32", in_content=False)
    item = message.inputs["x"]
    del item.float_val[1:]
    for dim, size in zip(item.tensor_shape.dim, sizes, strict=True):
        dim.size = size
    with pytest.raises(InvalidInput, match=r"has 1 elements, expected|expected sizes from 0"):
        grpc.decode(message.SerializeToString(), echo("FP32"))


def test_a_size_beyond_numpys_is_refused() -> None:
    message = predict("FP32", in_content=False)
    item = message.inputs["x"]
    del item.float_val[:]
    item.tensor_shape.dim[0].size, item.tensor_shape.dim[1].size = 0, 2**63 - 1
    with pytest.raises(InvalidInput, match="has a size that is too large"):
        grpc.decode(message.SerializeToString(), echo("FP32"))


def test_deeply_nested_strings_are_refused() -> None:
    data: object = "a"
    for _ in range(600):
        data = [data]
    with pytest.raises(InvalidInput, match="nested deeper than 8 lists"):
        decode({"inputs": {"x": data}}, echo("BYTES"))


def test_an_invalid_call_is_refused_with_field_and_limit() -> None:
    served = echo("FP32")
    message = predict("FP32", in_content=True)
    message.inputs["x"].dtype = DataType.DT_DOUBLE
    with pytest.raises(InvalidInput, match="has dtype DT_DOUBLE, expected DT_FLOAT"):
        grpc.decode(message.SerializeToString(), served)
    message = predict("FP32", in_content=True)
    message.output_filter.append("z")
    with pytest.raises(InvalidInput, match="output name is 'z', expected one of: y"):
        grpc.decode(message.SerializeToString(), served)
    message = predict("FP32", in_content=True)
    message.model_spec.version.value = 4
    with pytest.raises(ModelNotFound):
        grpc.decode(message.SerializeToString(), served)
    message.model_spec.version_label = "stable"
    with pytest.raises(InvalidInput, match="version_label is 'stable'"):
        grpc.decode(message.SerializeToString(), served)
    with pytest.raises(InvalidInput, match="broken protobuf"):
        grpc.decode(b"\xff", served)


def test_the_signature_is_packed_as_tensorflow_serving_packs_it() -> None:
    request = GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "mixed"
    response = GetModelMetadataResponse.FromString(
        grpc.model_metadata(request.SerializeToString(), MIXED)
    )
    packed = response.metadata["signature_def"]
    assert packed.type_url == "type.googleapis.com/tensorflow.serving.SignatureDefMap"
    signature = SignatureDefMap.FromString(packed.value).signature_def["serving_default"]
    assert signature.inputs["n"].dtype == DataType.DT_INT64
    assert [dim.size for dim in signature.outputs["y"].tensor_shape.dim] == [-1, 2]
    request.metadata_field[0] = "weights"
    with pytest.raises(InvalidInput, match="metadata_field is"):
        grpc.model_metadata(request.SerializeToString(), MIXED)
