import json
import struct
from http import HTTPStatus
from typing import Any

import numpy as np
import pytest

from models_under_test import MIXED, VALUES, computed, echo, same, tensor
from serving_core import ErrorKind, InferenceRequest, InvalidInput, ModelNotFound, QueueFull, Served
from serving_core.protocols.http import HttpRequest, HttpResponse
from serving_core.protocols.open_inference import rest
from serving_core.protocols.open_inference.common import from_binary, to_binary
from serving_core.tensors import DATATYPES

X = np.array([[1, 2], [3, 4.5]], np.float32)
N = np.array([7, -7])
S = np.array([[b"a"], [b"bc"]], object)
INPUTS: list[dict[str, Any]] = [
    {"name": "x", "datatype": "FP32", "shape": [2, 2], "data": [1, 2, 3, 4.5]},
    {"name": "n", "datatype": "INT64", "shape": [2], "data": [7, -7]},
    {"name": "s", "datatype": "BYTES", "shape": [2, 1], "data": ["a", "bc"]},
]


def post(
    document: object, binary: bytes = b"", path: str = "/v2/models/mixed/infer", **fields: str
) -> HttpRequest:
    text = document if isinstance(document, bytes) else json.dumps(document).encode()
    if binary:
        fields["header_length"] = str(len(text))
    return HttpRequest(path, "POST", "", body=text + binary, **fields)


def decode(message: HttpRequest, served: Served = MIXED) -> InferenceRequest:
    return rest.decode(message, served)


def test_json_tensors_are_read_flat_and_nested() -> None:
    nested = [dict(tensor) for tensor in INPUTS]
    nested[0]["data"] = [[1, 2], [3, 4.5]]
    nested[2]["data"] = [["a"], ["bc"]]
    for inputs in (INPUTS, nested):
        request = decode(post({"id": "7", "inputs": inputs}))
        assert same(request, x=X, n=N, s=S)
        assert (request.rows, request.id) == (2, "7")


def test_binary_tensors_come_behind_the_json_in_order() -> None:
    blobs = {"x": X.tobytes(), "s": struct.pack("<I1sI2s", 1, b"a", 2, b"bc")}
    inputs = [
        {key: value for key, value in tensor.items() if key != "data"}
        | {"parameters": {"binary_data_size": len(blobs[tensor["name"]])}}
        if tensor["name"] in blobs
        else tensor
        for tensor in INPUTS
    ]
    request = decode(post({"inputs": inputs}, b"".join(blobs.values())))
    assert same(request, x=X, n=N, s=S)


@pytest.mark.parametrize("datatype", DATATYPES)
def test_every_datatype_goes_there_and_back(datatype: str) -> None:
    served, array = echo(datatype), tensor(datatype)
    base = {"name": "x", "datatype": datatype, "shape": [2, 3]}
    data = [v.decode() if isinstance(v, bytes) else v for v in VALUES[datatype]]
    path = "/v2/models/echo/infer"
    as_json = post({"inputs": [base | {"data": data}]}, path=path)
    blob = to_binary(array)
    size = {"parameters": {"binary_data_size": len(blob)}}
    as_binary = post(
        {"inputs": [base | size], "parameters": {"binary_data_output": True}}, blob, path
    )
    for message in (as_json, as_binary):
        request = decode(message, served)
        assert same(request, x=array)
        response = rest.encode(message, request, computed(y=array), served)
        assert response.status is HTTPStatus.OK
        length = int(dict(response.headers).get(rest.HEADER_LENGTH, len(response.body)))
        (output,) = json.loads(response.body[:length])["outputs"]
        assert (output["name"], output["datatype"], output["shape"]) == ("y", datatype, [2, 3])
        if message is as_json:
            back = np.array(output["data"], object if datatype == "BYTES" else DATATYPES[datatype])
            expected = data if datatype == "BYTES" else array.ravel()
            assert np.array_equal(back, expected)
        else:
            assert output["parameters"]["binary_data_size"] == len(blob)
            assert response.body[length:] == blob
            assert response.content_type == "application/octet-stream"
            assert np.array_equal(from_binary(blob, array.dtype, "y"), array.ravel())


def encode(document: dict[str, Any], served: Served = MIXED) -> tuple[dict[str, Any], HttpResponse]:
    message = post({"inputs": INPUTS} | document)
    request = decode(message, served)
    outputs = computed(y=X, t=np.array(["p", b"q"], object))
    response = rest.encode(message, request, outputs, served)
    length = int(dict(response.headers).get(rest.HEADER_LENGTH, len(response.body)))
    return json.loads(response.body[:length]), response


def test_a_response_has_all_outputs_unless_some_are_requested() -> None:
    document, _ = encode({"id": "a"})
    assert document == {
        "model_name": "mixed",
        "model_version": "3",
        "id": "a",
        "outputs": [
            {"name": "y", "datatype": "FP32", "shape": [2, 2], "data": [1.0, 2.0, 3.0, 4.5]},
            {"name": "t", "datatype": "BYTES", "shape": [2], "data": ["p", "q"]},
        ],
    }
    document, _ = encode({"outputs": [{"name": "t"}]})
    assert [output["name"] for output in document["outputs"]] == ["t"]
    assert "id" not in document


def test_each_output_may_be_binary_or_not() -> None:
    document, response = encode(
        {
            "parameters": {"binary_data_output": True},
            "outputs": [{"name": "y"}, {"name": "t", "parameters": {"binary_data": False}}],
        }
    )
    assert document["outputs"][0]["parameters"] == {"binary_data_size": 16}
    assert document["outputs"][1]["data"] == ["p", "q"]
    assert response.body.endswith(X.tobytes())


def test_at_a_gateway_a_request_names_any_variation_and_the_response_who_served_it() -> None:
    routed = MIXED._replace(variation="blue", names="green,blue")
    message = post({"inputs": INPUTS}, path="/v2/models/green/infer")
    outputs = computed(y=X, t=np.array(["p", b"q"], object))
    response = rest.encode(message, decode(message, routed), outputs, routed)
    assert json.loads(response.body)["model_name"] == "blue"
    with pytest.raises(ModelNotFound, match="is 'mixed', expected one of: green, blue"):
        decode(post({"inputs": INPUTS}), routed)


@pytest.mark.parametrize(
    "path",
    [
        "/v2/models/other/infer",
        "/v2/models/mixed/versions/4/infer",
        "/v2/models/mixed%2F/infer",
    ],
)
def test_another_model_or_version_is_not_found(path: str) -> None:
    with pytest.raises(ModelNotFound, match="expected"):
        decode(post({"inputs": INPUTS}, path=path))


def test_the_model_may_be_named_with_its_version_and_beyond_ascii() -> None:
    assert decode(post({"inputs": INPUTS}, path="/v2/models/mixed/versions/3/infer")).rows == 2
    # The reader has decoded the escapes of the path, to bytes as latin-1.
    named = MIXED._replace(names="é%41")
    path = f"/v2/models/{'é%41'.encode().decode('latin-1')}/infer"
    assert decode(post({"inputs": INPUTS}, path=path), named).rows == 2


def changed(number: int, **fields: object) -> dict[str, Any]:
    inputs = [dict(tensor) for tensor in INPUTS]
    inputs[number] |= fields
    return {"inputs": inputs}


REFUSED: dict[str, tuple[object, str]] = {
    "no JSON": (b"{", "the body is no valid JSON"),
    "empty": (b"", "the body is no valid JSON"),
    "NaN": (b'{"inputs": [NaN]}', "the body is no valid JSON"),
    "a list": ([], "the body is a list, expected an object"),
    "no inputs": ({}, "inputs is null, expected a list"),
    "inputs of numbers": ({"inputs": [1]}, r"inputs\[0\] is an integer, expected an object"),
    "id is a number": ({"id": 7, "inputs": INPUTS}, "id is an integer, expected a string"),
    "an input is missing": ({"inputs": INPUTS[:2]}, "input 's' is missing, expected: x, n, s"),
    "an unknown input": (changed(0, name="z"), "input name is 'z', expected one of: x, n, s"),
    "an input twice": ({"inputs": [*INPUTS, INPUTS[0]]}, "input 'x' appears twice"),
    "no name": (changed(0, name=None), r"inputs\[0\]\.name is null, expected a string"),
    "another datatype": (changed(0, datatype="FP64"), "'x' has datatype 'FP64', expected 'FP32'"),
    "an unknown datatype": (changed(0, datatype="x"), "has datatype 'x', expected 'FP32'"),
    "no shape": (changed(0, shape=None), r"inputs\[0\]\.shape is null, expected a list"),
    "a shape of texts": (changed(0, shape=["2"]), "expected a list of integers"),
    "a negative size": (changed(0, shape=[-1, 2]), "expected sizes from 0"),
    "another rank": (changed(0, shape=[4]), r"has shape \[4\], expected \[-1, 2\]"),
    "a size beyond numpy's": (
        changed(0, shape=[0, 2**63], data=[]),
        "has a size that is too large",
    ),
    "sizes whose product is": (
        changed(0, shape=[0, 2**62, 2**62], data=[]),
        "has a size that is too large",
    ),
    "another count": (changed(0, shape=[3, 2]), r"has 4 elements, expected 6"),
    "other rows": (changed(1, shape=[1], data=[7]), "'n' has 1 rows, expected 2"),
    "no rows": (
        {"inputs": [t | {"shape": [0, *t["shape"][1:]], "data": []} for t in INPUTS]},
        "has 0 rows, expected at least 1",
    ),
    "no data": (changed(0, data=None), r"inputs\[0\]\.data\[0\] is null, expected a number"),
    "ragged": (changed(0, data=[[1, 2], [3]]), r"inputs\[0\]\.data is ragged"),
    "half nested": (changed(0, data=[1, [2], 3, 4]), r"data\[1\] is a list, expected a number"),
    "a text": (changed(0, data=[1, 2, 3, "4"]), r"data\[3\] is a string, expected a number"),
    "a boolean": (changed(0, data=[1, 2, 3, True]), r"data\[3\] is a boolean, expected a number"),
    "a large number": (changed(0, data=[1, 2, 3, 1e39]), r"data\[3\] is 1e\+39, beyond the range"),
    "a huge number": (changed(0, data=[1, 2, 3, 10**300]), r"data\[3\] is 1e\+300, beyond"),
    "a fraction": (changed(1, data=[7, 0.5]), r"data\[1\] is a number with a fraction"),
    "an integer too large": (changed(1, data=[7, 2**63]), r"data\[1\] is 9223.*beyond the range"),
    "a number as text": (changed(2, data=["a", 1]), r"data\[1\] is an integer, expected a string"),
    "shared memory": (changed(0, parameters={"shared_memory_region": "r"}), "is in shared memory"),
    "parameters of numbers": (changed(0, parameters=[1]), "parameters is a list"),
    "a size too large": (changed(0, parameters={"binary_data_size": 1}), "at most the 0 bytes"),
    "a negative size of bytes": (changed(0, parameters={"binary_data_size": -1}), "is -1"),
    "an unknown output": (
        {"inputs": INPUTS, "outputs": [{"name": "x"}]},
        "output name is 'x', expected one of: y, t",
    ),
    "outputs of texts": ({"inputs": INPUTS, "outputs": ["y"]}, r"outputs\[0\] is a string"),
}


@pytest.mark.parametrize(("document", "text"), REFUSED.values(), ids=REFUSED)
def test_an_invalid_request_is_refused_with_field_and_limit(document: object, text: str) -> None:
    with pytest.raises(InvalidInput, match=text):
        decode(post(document))


@pytest.mark.parametrize(
    ("length", "text"),
    [
        ("x", "is 'x'"),
        ("-1", "is '-1'"),
        ("99999", "at most the"),
        ("1" * 5000, "at most the"),
        ("\u0661", "is '\u0661'"),
    ],
)
def test_an_invalid_length_of_the_json_is_refused(length: str, text: str) -> None:
    with pytest.raises(InvalidInput, match=text):
        decode(post({"inputs": INPUTS}, header_length=length))


@pytest.mark.parametrize(
    ("blob", "text"),
    [
        (b"\1\0\0", "ends within the length of a string"),
        (b"\4\0\0\0abc", "ends within a string of 4 bytes"),
        (b"\0\0\0\0", "has 1 elements, expected 2"),
    ],
)
def test_broken_binary_strings_are_refused(blob: bytes, text: str) -> None:
    document = changed(2, parameters={"binary_data_size": len(blob)})
    with pytest.raises(InvalidInput, match=text):
        decode(post(document, blob))


def test_bytes_that_belong_to_no_input_are_refused() -> None:
    with pytest.raises(InvalidInput, match="3 bytes behind the JSON belong to no input"):
        decode(post({"inputs": INPUTS}, b"abc"))


def test_a_compressed_body_is_refused() -> None:
    with pytest.raises(InvalidInput, match="Content-Encoding is 'gzip', expected none"):
        decode(post({"inputs": INPUTS}, encoding="gzip"))


def test_what_json_cannot_hold_is_refused_and_served_as_binary() -> None:
    served = echo("FP32")
    base = {"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}
    nan = computed(y=np.array([[np.nan, 1, 2]], np.float32))
    path = "/v2/models/echo/infer"
    message = post({"inputs": [base]}, path=path)
    with pytest.raises(InvalidInput, match="output 'y' has a value that is not finite"):
        rest.encode(message, decode(message, served), nan, served)
    message = post({"inputs": [base], "parameters": {"binary_data_output": True}}, path=path)
    response = rest.encode(message, decode(message, served), nan, served)
    assert response.body.endswith(nan.outputs["y"].tobytes())


def test_every_kind_of_error_has_a_status() -> None:
    assert set(rest.STATUS) == set(ErrorKind)
    refused = rest.refuse(post({}), QueueFull("the queue is full"))
    assert refused.status is HTTPStatus.TOO_MANY_REQUESTS
    assert json.loads(refused.body) == {"error": "the queue is full"}
    assert dict(refused.headers) == {"Retry-After": "1"}
