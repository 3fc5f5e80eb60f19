"""Every decoder refuses what it cannot read by a ServingError, whatever the input.

FUZZ_INPUTS is the number of inputs of each decoder.
"""

import copy
import json
import os
import random
from collections.abc import Callable
from typing import Any

import pytest

import seldon_pb2
from models_under_test import MIXED, echo
from open_inference_pb2 import ModelInferRequest
from seldon_core_pb2 import SeldonMessage
from serving_core import InferenceRequest, Served, ServingError
from serving_core.protocols.http import HttpRequest
from serving_core.protocols.open_inference import grpc as open_inference_grpc
from serving_core.protocols.open_inference import rest as open_inference_rest
from serving_core.protocols.seldon import grpc as seldon_grpc
from serving_core.protocols.seldon import rest as seldon_rest
from serving_core.protocols.seldon_core import grpc as seldon_core_grpc
from serving_core.protocols.seldon_core import rest as seldon_core_rest
from serving_core.protocols.tensorflow_serving import grpc as tensorflow_grpc
from serving_core.protocols.tensorflow_serving import rest as tensorflow_rest
from serving_core.testing import classifier_info
from tensorflow_serving_pb2 import DataType, PredictRequest

INPUTS = int(os.environ.get("FUZZ_INPUTS", "1500"))
CLASSIFIER = Served(classifier_info(features=3), "default")
FP32 = echo("FP32")
NUMBERS: list[Any] = [0, -1, 1, 2**31, 2**62, 2**63, 2**64, -(2**63) - 1, 0.5, 1e39, -1e308]
TEXTS: list[Any] = ["", "x", "NaN", "\u2028\0"]
DEEP: list[Any] = []
for _ in range(100):  # json and copy recurse too
    DEEP = [DEEP]
LISTS: list[Any] = [
    DEEP,
    [0, 2**62],
    [0, 2**62, 2**62],
    [],
    [[]],
    [1, [2]],
    [{}],
    [None] * 3,
    [1] * 100,
]
OBJECTS: list[Any] = [{}, {"b64": 1}, {"b64": "="}, {"": ""}]
STRANGE = [None, True, False, *NUMBERS, *TEXTS, *LISTS, *OBJECTS]


def mutate_json(document: Any, random: random.Random) -> Any:
    """Replace, remove or repeat a part of a document."""
    document = copy.deepcopy(document)
    for _ in range(random.randint(1, 3)):
        node = document
        while True:
            keys = list(node) if isinstance(node, dict) else list(range(len(node)))
            if not keys:
                break
            key = random.choice(keys)
            child = node[key]
            if isinstance(child, dict | list) and child and random.random() < 0.7:
                node = child
                continue
            match random.randint(0, 3):
                case 0:
                    del node[key]
                case 1 if isinstance(node, list):
                    node.append(copy.deepcopy(child))
                case 2 if isinstance(node, dict):
                    node[random.choice(["inputs", "data", "name", "x", "shape"])] = child
                case _:
                    node[key] = copy.deepcopy(random.choice(STRANGE))
            break
    return document


def mutate_bytes(data: bytes, random: random.Random) -> bytes:
    """Change, cut or repeat some bytes."""
    changed = bytearray(data)
    for _ in range(random.randint(1, 4)):
        at = random.randrange(len(changed) + 1)
        match random.randint(0, 3):
            case 0:
                changed[at : at + 1] = random.randbytes(1)
            case 1:
                del changed[at : at + random.randint(1, 8)]
            case 2:
                changed[at:at] = random.randbytes(random.randint(1, 8))
            case _:
                changed[at:at] = changed[: random.randint(0, 16)]
    return bytes(changed)


REST: dict[str, tuple[Any, str, Served, Any]] = {
    "open inference": (
        open_inference_rest,
        "/v2/models/mixed/infer",
        MIXED,
        {
            "id": "7",
            "parameters": {"binary_data_output": False},
            "inputs": [
                {"name": "x", "datatype": "FP32", "shape": [2, 2], "data": [[1, 2], [3, 4]]},
                {"name": "n", "datatype": "INT64", "shape": [2], "data": [1, 2]},
                {"name": "s", "datatype": "BYTES", "shape": [2, 1], "data": ["a", "b"]},
            ],
            "outputs": [{"name": "y", "parameters": {"binary_data": True}}],
        },
    ),
    "tensorflow rows": (
        tensorflow_rest,
        "/v1/models/mixed:predict",
        MIXED,
        {"signature_name": "", "instances": [{"x": [1, 2], "n": 1, "s": [{"b64": "YQ=="}]}] * 2},
    ),
    "tensorflow columns": (
        tensorflow_rest,
        "/v1/models/mixed:predict",
        MIXED,
        {"inputs": {"x": [[1, 2]], "n": [1], "s": [["a"]]}},
    ),
    "seldon core": (
        seldon_core_rest,
        seldon_core_rest.PATH,
        FP32,
        {"data": {"tensor": {"shape": [1, 3], "values": [1, 2, 3]}}, "meta": {"puid": "7"}},
    ),
    "seldon": (
        seldon_rest,
        seldon_rest.PREDICT,
        CLASSIFIER,
        {"data": [[1, 2, 3], [4, 5, 6]], "meta": {"puid": "7"}},
    ),
}


@pytest.mark.parametrize("protocol", REST)
def test_no_body_breaks_a_decoder(protocol: str) -> None:
    codec, path, served, document = REST[protocol]
    random_ = random.Random(protocol)  # noqa: S311  # the same inputs in every run
    text = json.dumps(document).encode()

    def message(number: int) -> HttpRequest:
        if number % 2:
            body = mutate_bytes(text, random_)
        else:
            body = json.dumps(mutate_json(document, random_)).encode()
        length = random_.choice(["", "", "", str(random_.randint(0, len(body))), "9" * 5000])
        return HttpRequest(path, "POST", "", body=body, header_length=length)

    check(
        lambda message: codec.decode(message, served),
        message,
        HttpRequest(path, "POST", "", body=text),
    )


def _open_inference(raw: bool) -> bytes:
    message = ModelInferRequest(model_name="mixed", id="7")
    for name, datatype, shape, field, values, blob in (
        ("x", "FP32", (1, 2), "fp32_contents", (1, 2), b"\0" * 8),
        ("n", "INT64", (1,), "int64_contents", (3,), b"\0" * 8),
        ("s", "BYTES", (1, 1), "bytes_contents", (b"a",), b"\1\0\0\0a"),
    ):
        item = message.inputs.add(name=name, datatype=datatype, shape=shape)
        if raw:
            message.raw_input_contents.append(blob)
        else:
            getattr(item.contents, field).extend(values)
    message.outputs.add(name="y")
    return message.SerializeToString()


def _tensorflow() -> bytes:
    request = PredictRequest(output_filter=["y"])
    request.model_spec.name = "mixed"
    for name, dtype, sizes, field, values in (
        ("x", DataType.DT_FLOAT, (1, 2), "float_val", (1, 2)),
        ("n", DataType.DT_INT64, (1,), "int64_val", (3,)),
        ("s", DataType.DT_STRING, (1, 1), "string_val", (b"a",)),
    ):
        item = request.inputs[name]
        item.dtype = dtype
        for size in sizes:
            item.tensor_shape.dim.add(size=size)
        getattr(item, field).extend(values)
    return request.SerializeToString()


def _seldon() -> bytes:
    request = seldon_pb2.ClassificationRequest()
    request.meta.puid = "7"
    request.data.Pack(seldon_pb2.DefaultCustomPredictRequest(values=(1, 2, 3)))
    return request.SerializeToString()


def _seldon_core(kind: str) -> bytes:
    message = SeldonMessage()
    if kind == "ndarray":
        message.data.ndarray.extend([[1.0, 2.0, 3.0]])  # type: ignore[list-item]
    else:
        message.data.tensor.shape.extend((1, 3))
        message.data.tensor.values.extend((1, 2, 3))
    return message.SerializeToString()


GRPC: dict[str, tuple[Any, Served, bytes]] = {
    "open inference": (open_inference_grpc, MIXED, _open_inference(raw=False)),
    "open inference raw": (open_inference_grpc, MIXED, _open_inference(raw=True)),
    "tensorflow": (tensorflow_grpc, MIXED, _tensorflow()),
    "seldon core tensor": (seldon_core_grpc, FP32, _seldon_core("tensor")),
    "seldon core ndarray": (seldon_core_grpc, FP32, _seldon_core("ndarray")),
    "seldon": (seldon_grpc, CLASSIFIER, _seldon()),
}


@pytest.mark.parametrize("protocol", GRPC)
def test_no_message_breaks_a_decoder(protocol: str) -> None:
    codec, served, message = GRPC[protocol]
    random_ = random.Random(protocol)  # noqa: S311  # the same inputs in every run
    check(
        lambda data: codec.decode(data, served), lambda _: mutate_bytes(message, random_), message
    )


def check(
    decode: Callable[[Any], InferenceRequest], message: Callable[[int], Any], valid: Any
) -> None:
    """Decode INPUTS messages; each is decoded or refused, and both occur."""
    assert decode(valid).rows
    decoded = refused = longest = 0
    for number in range(INPUTS):
        data = message(number)
        try:
            request = decode(data)
        except ServingError as error:
            longest = max(longest, len(str(error)))
            refused += 1
        except Exception as error:
            raise AssertionError(f"{data!r} raised {error!r}") from error
        else:
            assert request.rows >= 1
            decoded += 1
    assert decoded
    assert refused
    assert longest < 600
