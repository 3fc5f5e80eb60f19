import json
from typing import Any

import numpy as np
import pytest

from models_under_test import MIXED, computed, echo, same
from seldon_core_pb2 import SeldonMessage, Status
from serving_core import InferenceRequest, InvalidInput, QueueFull, Served
from serving_core.protocols.http import HttpRequest
from serving_core.protocols.seldon_core import grpc, rest
from serving_core.testing import classifier_info

FP32 = echo("FP32")
ROWS = [[1.0, 2.0, 3.5], [-1.0, 0.0, 0.25]]
X = np.array(ROWS, np.float32)
TENSOR = {"shape": [2, 3], "values": [1, 2, 3.5, -1, 0, 0.25]}


def post(document: object) -> HttpRequest:
    text = document if isinstance(document, bytes) else json.dumps(document).encode()
    return HttpRequest(rest.PATH, "POST", "", body=text)


def decode(document: object, served: Served = FP32) -> InferenceRequest:
    return rest.decode(post(document), served)


@pytest.mark.parametrize("data", [{"ndarray": ROWS}, {"tensor": TENSOR}])
def test_a_response_has_the_form_of_the_request(data: dict[str, Any]) -> None:
    message = post({"data": data, "meta": {"puid": "7"}})
    request = rest.decode(message, FP32)
    assert same(request, x=X)
    document = json.loads(rest.encode(message, request, computed(y=X), FP32).body)
    assert document == {
        "data": {"names": ["t:0", "t:1", "t:2"]} | data,
        "meta": {"puid": "7", "requestPath": {"echo": "3"}},
    }


def test_a_classifiers_columns_are_its_classes() -> None:
    served = Served(classifier_info(), "default")
    message = post({"data": {"ndarray": [[0.5] * 784]}})
    request = rest.decode(message, served)
    scores = computed(probabilities=np.full((1, 10), 0.1, np.float32))
    document = json.loads(rest.encode(message, request, scores, served).body)
    assert document["data"]["names"] == list("0123456789")
    assert len(document["meta"]["puid"]) == 40


REFUSED: dict[str, tuple[object, str]] = {
    "no JSON": (b"{", "the body is no valid JSON"),
    "a list": ([], "the body is a list"),
    "no data": ({}, "data is null, expected an object"),
    "nothing in it": ({"data": {}}, "both or none of ndarray and tensor"),
    "both": ({"data": {"ndarray": ROWS, "tensor": TENSOR}}, "both or none"),
    "a text": ({"data": {"ndarray": [["1", 2, 3]]}}, r"data\.ndarray\[0\] is a string"),
    "another width": ({"data": {"ndarray": [[1, 2]]}}, r"has shape \[1, 2\], expected \[-1, 3\]"),
    "no shape": ({"data": {"tensor": {"values": [1]}}}, r"data\.tensor\.shape is None"),
    "another shape": ({"data": {"tensor": TENSOR | {"shape": [3, 3]}}}, "has 6 values, expected"),
    "a long puid": ({"data": {"ndarray": ROWS}, "meta": {"puid": "x" * 257}}, "has 257 characters"),
    "a puid of numbers": ({"data": {"ndarray": ROWS}, "meta": {"puid": 7}}, "meta.puid is an int"),
}


@pytest.mark.parametrize(("document", "text"), REFUSED.values(), ids=REFUSED)
def test_an_invalid_request_is_refused_with_field_and_limit(document: object, text: str) -> None:
    with pytest.raises(InvalidInput, match=text):
        decode(document)


def test_a_model_of_several_tensors_is_referred_to_another_protocol() -> None:
    with pytest.raises(InvalidInput, match="use the Open Inference Protocol"):
        decode({"data": {"ndarray": ROWS}}, MIXED)


def test_an_error_has_seldon_cores_shape() -> None:
    refused = rest.refuse(post({}), QueueFull("the queue is full"))
    assert json.loads(refused.body)["status"] == {
        "code": 429,
        "info": "the queue is full",
        "reason": "OVERLOADED",
        "status": "FAILURE",
    }


def message_of(kind: str) -> SeldonMessage:
    message = SeldonMessage()
    message.meta.puid = "7"
    if kind == "ndarray":
        message.data.ndarray.extend(ROWS)  # type: ignore[arg-type]  # a list is a ListValue
    else:
        message.data.tensor.shape.extend(X.shape)
        message.data.tensor.values.extend(X.ravel().tolist())
    return message


@pytest.mark.parametrize("kind", ["tensor", "ndarray"])
def test_a_reply_has_the_form_of_the_request(kind: str) -> None:
    encoded = message_of(kind).SerializeToString()
    request = grpc.decode(encoded, FP32)
    assert same(request, x=X)
    reply = grpc.encode(encoded, request, computed(y=X), FP32)
    assert reply.message is not None
    response = SeldonMessage.FromString(reply.message)
    assert response.status.status == Status.SUCCESS
    assert response.meta.puid == "7"
    assert list(response.data.names) == ["t:0", "t:1", "t:2"]
    assert response.data.WhichOneof("data_oneof") == kind
    if kind == "tensor":
        assert list(response.data.tensor.values) == X.ravel().tolist()
    else:
        assert [list(row) for row in response.data.ndarray] == ROWS  # type: ignore[arg-type]


def test_a_number_that_the_datatype_cannot_hold_is_refused() -> None:
    message = message_of("tensor")
    message.data.tensor.values[4] = 1e39
    with pytest.raises(InvalidInput, match=r"data\.tensor\[4\] is 1e\+39, which FP32 cannot hold"):
        grpc.decode(message.SerializeToString(), FP32)
    message.data.tensor.values[4] = 0.5
    with pytest.raises(InvalidInput, match=r"\[2\] is 3\.5, which INT8 cannot hold"):
        grpc.decode(message.SerializeToString(), echo("INT8"))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_ndarray_that_json_cannot_hold_is_refused(value: float) -> None:
    message = SeldonMessage()
    message.data.ndarray.extend([[1.0, value, 3.0]])  # type: ignore[list-item]
    with pytest.raises(InvalidInput, match=r"data\.ndarray has a value that is not finite"):
        grpc.decode(message.SerializeToString(), FP32)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({}, "the request has no data, expected data"),
        ({"strData": "x"}, "the request has strData, expected data"),
        ({"data": {}}, "data is empty, expected tensor or ndarray"),
        ({"data": {"tensor": {"shape": [-1], "values": [1]}}}, "expected sizes from 0"),
        ({"data": {"tensor": {"shape": [2, 3], "values": [1]}}}, "has 1 values, expected"),
    ],
)
def test_an_invalid_message_is_refused(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidInput, match=text):
        grpc.decode(SeldonMessage(**fields).SerializeToString(), FP32)
