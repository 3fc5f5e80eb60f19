from typing import Any

import numpy as np
import pytest

from models_under_test import MIXED, VALUES, computed, echo, same, tensor
from open_inference_pb2 import InferParameter, ModelInferRequest, ModelInferResponse
from serving_core import InvalidInput, ModelNotFound, Served
from serving_core.protocols.open_inference import grpc
from serving_core.protocols.open_inference.common import from_binary, to_binary
from serving_core.tensors import DATATYPES

FIELDS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


def request(datatype: str, raw: bool, **fields: Any) -> ModelInferRequest:
    message = ModelInferRequest(model_name="echo", id="7", **fields)
    item = message.inputs.add(name="x", datatype=datatype, shape=(2, 3))
    if raw:
        message.raw_input_contents.append(to_binary(tensor(datatype)))
    else:
        getattr(item.contents, FIELDS[datatype]).extend(VALUES[datatype])
    return message


@pytest.mark.parametrize(
    ("datatype", "raw"),
    # Protobuf has no field for FP16.
    [*((datatype, True) for datatype in DATATYPES), *((datatype, False) for datatype in FIELDS)],
)
def test_every_datatype_goes_there_and_back(datatype: str, raw: bool) -> None:
    served, array = echo(datatype), tensor(datatype)
    encoded = request(datatype, raw).SerializeToString()
    decoded = grpc.decode(encoded, served)
    assert same(decoded, x=array)
    assert (decoded.rows, decoded.id) == (2, "7")
    reply = grpc.encode(encoded, decoded, computed(y=array), served)
    assert reply.message is not None
    response = ModelInferResponse.FromString(reply.message)
    assert (response.model_name, response.model_version, response.id) == ("echo", "3", "7")
    (output,) = response.outputs
    assert (output.name, output.datatype, list(output.shape)) == ("y", datatype, [2, 3])
    if raw:
        (blob,) = response.raw_output_contents
        assert np.array_equal(from_binary(blob, array.dtype, "y"), array.ravel())
        assert not output.HasField("contents")
    else:
        assert not response.raw_output_contents
        values = getattr(output.contents, FIELDS[datatype])
        assert list(values) == array.ravel().tolist()


def test_unpacked_and_unknown_fields_of_contents_are_read() -> None:
    message = request("FP32", raw=False)
    del message.inputs[0].contents.fp32_contents[:]
    values = np.array(VALUES["FP32"], "<f4")
    unpacked = b"".join(b"\x35" + value.tobytes() for value in values)
    message.inputs[0].contents.MergeFromString(unpacked + b"\x7a\x03abc")
    assert same(grpc.decode(message.SerializeToString(), echo("FP32")), x=tensor("FP32"))


def test_only_requested_outputs_are_encoded() -> None:
    message = ModelInferRequest(model_name="mixed")
    for name, datatype, shape, field, values in (
        ("x", "FP32", (1, 2), "fp32_contents", (1, 2)),
        ("n", "INT64", (1,), "int64_contents", (3,)),
        ("s", "BYTES", (1, 1), "bytes_contents", (b"",)),
    ):
        item = message.inputs.add(name=name, datatype=datatype, shape=shape)
        getattr(item.contents, field).extend(values)
    message.outputs.add(name="t")
    encoded = message.SerializeToString()
    decoded = grpc.decode(encoded, MIXED)
    outputs = computed(y=np.ones((1, 2), np.float32), t=np.array(["é"], object))
    reply = grpc.encode(encoded, decoded, outputs, MIXED)
    assert reply.message is not None
    response = ModelInferResponse.FromString(reply.message)
    assert [output.name for output in response.outputs] == ["t"]
    assert list(response.outputs[0].contents.bytes_contents) == ["é".encode()]


def test_at_a_gateway_a_request_names_any_variation_and_the_response_who_served_it() -> None:
    routed = echo("FP32")._replace(variation="blue", names="green,blue")
    message = request("FP32", raw=True)
    message.model_name = "red"
    with pytest.raises(ModelNotFound, match="is 'red', expected one of: green, blue"):
        grpc.decode(message.SerializeToString(), routed)
    message.model_name = "green"
    encoded = message.SerializeToString()
    decoded = grpc.decode(encoded, routed)
    reply = grpc.encode(encoded, decoded, computed(y=tensor("FP32")), routed)
    assert reply.message is not None
    assert ModelInferResponse.FromString(reply.message).model_name == "blue"


def test_another_model_or_version_is_not_found() -> None:
    message = request("FP32", raw=True)
    message.model_version = "4"
    with pytest.raises(ModelNotFound, match="version of model echo is '4', expected '3'"):
        grpc.decode(message.SerializeToString(), echo("FP32"))
    message.model_name = "other"
    with pytest.raises(ModelNotFound, match="model name is 'other', expected one of: echo"):
        grpc.decode(message.SerializeToString(), echo("FP32"))


def edited(edit: str) -> bytes:
    """A request of FP32 with one thing wrong."""
    message = request("FP32", raw=edit.startswith("raw"))
    item = message.inputs[0]
    match edit:
        case "raw too many":
            message.raw_input_contents.append(b"")
        case "raw cut":
            message.raw_input_contents[0] = message.raw_input_contents[0][:-1]
        case "raw short":
            message.raw_input_contents[0] = message.raw_input_contents[0][:-4]
        case "unknown":
            item.name = "z"
        case "twice":
            message.inputs.append(item)
        case "datatype":
            item.datatype = "FP64"
        case "rank":
            item.shape.append(1)
        case "negative":
            item.shape[:] = (-2, -3)
        case "other field":
            item.contents.int_contents.append(1)
        case "shared memory":
            item.parameters["shared_memory_region"].CopyFrom(InferParameter(string_param="r"))
        case "output":
            message.outputs.add(name="x")
        case "empty":
            item.contents.Clear()
    return message.SerializeToString()


@pytest.mark.parametrize(
    ("edit", "text"),
    [
        ("raw too many", "raw_input_contents has 2 tensors, expected 1"),
        ("raw cut", "has 23 bytes, expected a multiple of 4"),
        ("raw short", "has 5 elements, expected 6"),
        ("unknown", "input name is 'z', expected one of: x"),
        ("twice", "input 'x' appears twice"),
        ("datatype", "has datatype 'FP64', expected 'FP32'"),
        ("rank", r"has shape \[2, 3, 1\], expected \[-1, 3\]"),
        ("negative", "expected sizes from 0"),
        ("other field", "has int_contents, expected fp32_contents for FP32"),
        ("shared memory", "is in shared memory"),
        ("output", "output name is 'x', expected one of: y"),
        ("empty", "has 0 elements, expected 6"),
    ],
)
def test_an_invalid_request_is_refused_with_field_and_limit(edit: str, text: str) -> None:
    with pytest.raises(InvalidInput, match=text):
        grpc.decode(edited(edit), echo("FP32"))


def test_broken_protobuf_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"no inference\.ModelInferRequest: broken protobuf"):
        grpc.decode(b"\xff", echo("FP32"))


@pytest.mark.parametrize(("datatype", "value"), [("INT8", 200), ("UINT16", 70_000)])
def test_an_integer_beyond_the_datatype_is_refused(datatype: str, value: int) -> None:
    message = request(datatype, raw=False)
    getattr(message.inputs[0].contents, FIELDS[datatype])[4] = value
    with pytest.raises(InvalidInput, match=rf"\[4\] of input 'x' is {value}, beyond the range"):
        grpc.decode(message.SerializeToString(), echo(datatype))


def test_fp16_outputs_need_raw_contents() -> None:
    served: Served = echo("FP16")
    encoded = request("FP16", raw=True).SerializeToString()
    decoded = grpc.decode(encoded, served)
    decoded = decoded._replace(options=decoded.options._replace(outputs={"y": False}))
    with pytest.raises(InvalidInput, match="which only raw contents can hold"):
        grpc.encode(encoded, decoded, computed(y=tensor("FP16")), served)
