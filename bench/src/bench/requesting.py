"""Requests in every server's format, and the digit that a response predicts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import orjson
from google.protobuf.message import DecodeError

from bench.cases import Form, Way
from loadtest import answers, wire
from loadtest.payloads import Payloads, misclassified
from loadtest.payloads import digits as held_out_digits
from open_inference_pb2 import ModelInferRequest, ModelInferResponse
from seldon_core_pb2 import SeldonMessage
from seldon_pb2 import ClassificationReply
from serving_core.digits import held_out

JSON_HEADERS = {"Content-Type": "application/json"}
# In V2 requests to our servers and, unless the peer has others, to peers: the same bytes to all.
MODEL, INPUT = "mnist", "instances"
MODEL_INFER = "/inference.GRPCInferenceService/ModelInfer"
_RAW = np.dtype("<f4")
GRPC_PREFIX = b"\0"  # not compressed; four bytes of length follow, big-endian


class Contents(StrEnum):
    """The field of a gRPC message that holds the numbers."""

    RAW = "raw"  # V2's raw_input_contents, Seldon Core's binData: float32 as bytes
    FP32 = "fp32"  # fp32_contents of V2's input
    TENSOR = "tensor"  # Seldon Core's tensor, of doubles


_MARKERS = {
    Form.RECORDED: "",
    Form.V1_BARE: "[[",
    Form.V2: '"outputs"',
    Form.V2_BINARY: '"outputs"',
    Form.SELDON: '"ndarray"',
}


@dataclass(frozen=True)
class RequestSet:
    """Requests to one address, sent round robin.

    Attributes:
        way: POST or JSONP over HTTP/1.1, or gRPC.
        host: The host.
        port: The port.
        path: The path of every request; of JSONP only for the URL, each body is a GET target.
        bodies: HTTP bodies, GET targets or serialised messages.
        digits: The digit of each request; None if unknown.
        form: The format of responses.
        headers: Additional headers; gRPC metadata.
    """

    way: Way
    host: str
    port: int
    path: str
    bodies: tuple[bytes, ...]
    digits: tuple[int, ...] | None
    form: Form = Form.OURS
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """Scheme, host, port and path."""
        return f"http://{self.host}:{self.port}{self.path}"

    @property
    def marker(self) -> str:
        """Text that successful HTTP responses contain and errors do not; empty if unknown."""
        return _MARKERS.get(self.form, '"predictions"')


@dataclass(frozen=True)
class Digits:
    """The held-out digits that the model classifies correctly."""

    payloads: Payloads
    indices: tuple[int, ...]

    @classmethod
    def of_model(cls, folder: Path) -> "Digits":
        """Exclude the digits that the model in `folder` misclassifies."""
        payloads = held_out_digits()
        wrong = misclassified(folder) or frozenset()
        return cls(payloads, tuple(i for i in range(len(payloads)) if i not in wrong))

    @property
    def labels(self) -> tuple[int, ...]:
        """The labels of the digits."""
        labels = held_out().labels
        return tuple(int(labels[index]) for index in self.indices)


def ours(
    way: Way,
    host: str,
    port: int,
    digits: Digits,
    js_key: str = "",
    token: str = "",
    answered: int | None = None,
) -> RequestSet:
    """Requests to our server, or to the gateway if keys are set.

    Args:
        way: The request variant.
        host: The host.
        port: The port.
        digits: The instances.
        js_key: The key of REST through the gateway.
        token: The token of gRPC through the gateway.
        answered: The fixed prediction of the null model.
    """
    payloads, indices = digits.payloads, digits.indices
    expected = digits.labels if answered is None else (answered,) * len(indices)
    if way is Way.GRPC:
        bodies = tuple(payloads.request_data[index] for index in indices)
        metadata = dict(wire.oauth_metadata(token)) if token else {}
        return RequestSet(way, host, port, wire.CLASSIFY, bodies, expected, headers=metadata)
    key = f"consumer_key={quote(js_key, safe='')}" if js_key else ""
    if way is Way.POST:
        bodies = tuple(payloads.documents[index].encode() for index in indices)
        path = "/js/predict" + (f"?{key}" if key else "")
        return RequestSet(way, host, port, path, bodies, expected, headers=JSON_HEADERS)
    before = f"/js/predict?{key}{'&' if key else ''}json="
    after = f"&jsonpCallback={answers.CALLBACK}"
    bodies = tuple(f"{before}{payloads.url_json[index]}{after}".encode() for index in indices)
    return RequestSet(way, host, port, "/js/predict", bodies, expected)


def ours_v2(
    form: Form,
    host: str,
    port: int,
    digits: Digits,
    model: str = MODEL,
    token: str = "",
    answered: int | None = None,
) -> RequestSet:
    """Open inference requests to our server, or to the gateway if there is a token.

    Args:
        form: One of the V2 formats.
        host: The host.
        port: The port.
        digits: The instances.
        model: The model's name; at the gateway that of the variation.
        token: The token of the gateway.
        answered: The fixed prediction of the null model.
    """
    if form is Form.V2_GRPC:
        requests = v2_grpc(host, port, MODEL_INFER, digits, model, INPUT, Contents.RAW)
        access = dict(wire.oauth_metadata(token)) if token else {}
    else:
        path = f"/v2/models/{model}/infer"
        requests = (v2_binary if form is Form.V2_BINARY else v2)(host, port, path, digits, INPUT)
        access = {"Authorization": f"Bearer {token}"} if token else {}
    expected = digits.labels if answered is None else (answered,) * len(digits.indices)
    return replace(requests, digits=expected, headers={**requests.headers, **access})


def v1(host: str, port: int, path: str, digits: Digits, form: Form = Form.V1) -> RequestSet:
    """{"instances": [[784 numbers]]}; `form` is that of the response."""
    bodies = tuple(_dumps({"instances": [row]}) for row in _rows(digits))
    return RequestSet(Way.POST, host, port, path, bodies, digits.labels, form, JSON_HEADERS)


def v2(host: str, port: int, path: str, digits: Digits, input_name: str) -> RequestSet:
    """One FP32 tensor of shape (1, 784) in the open inference protocol."""
    bodies = tuple(
        _dumps(
            {
                "inputs": [
                    {
                        "name": input_name,
                        "shape": [1, len(row)],
                        "datatype": "FP32",
                        "data": row,
                    }
                ]
            }
        )
        for row in _rows(digits)
    )
    return RequestSet(Way.POST, host, port, path, bodies, digits.labels, Form.V2, JSON_HEADERS)


def v2_binary(host: str, port: int, path: str, digits: Digits, input_name: str) -> RequestSet:
    """The same with the binary extension: the tensors come behind the JSON, in both directions."""
    data = [row.astype(_RAW).tobytes() for row in _rows(digits)]
    size = len(data[0])
    tensor = {
        "name": input_name,
        "shape": [1, size // _RAW.itemsize],
        "datatype": "FP32",
        "parameters": {"binary_data_size": size},
    }
    text = _dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}})
    headers = {
        "Content-Type": "application/octet-stream",
        "Inference-Header-Content-Length": str(len(text)),
    }
    bodies = tuple(text + one for one in data)
    return RequestSet(Way.POST, host, port, path, bodies, digits.labels, Form.V2_BINARY, headers)


def v2_grpc(
    host: str,
    port: int,
    path: str,
    digits: Digits,
    model: str,
    input_name: str,
    contents: Contents,
) -> RequestSet:
    """The same as an inference.ModelInferRequest."""
    bodies = []
    for row in _rows(digits):
        message = ModelInferRequest(model_name=model)
        tensor = message.inputs.add(name=input_name, datatype="FP32", shape=(1, len(row)))
        if contents is Contents.RAW:
            message.raw_input_contents.append(row.astype(_RAW).tobytes())
        else:
            tensor.contents.fp32_contents.extend(row)
        bodies.append(message.SerializeToString())
    return RequestSet(Way.GRPC, host, port, path, tuple(bodies), digits.labels, Form.V2_GRPC)


def seldon(host: str, port: int, path: str, digits: Digits) -> RequestSet:
    """{"data": {"ndarray": [[784 numbers]]}}, Seldon Core's format."""
    bodies = tuple(_dumps({"data": {"ndarray": [row]}}) for row in _rows(digits))
    return RequestSet(Way.POST, host, port, path, bodies, digits.labels, Form.SELDON, JSON_HEADERS)


def seldon_grpc(host: str, port: int, path: str, digits: Digits, contents: Contents) -> RequestSet:
    """The same as a seldon.protos.SeldonMessage, with bytes or a tensor."""
    bodies = []
    for row in _rows(digits):
        message = SeldonMessage()
        if contents is Contents.RAW:
            message.binData = row.astype(_RAW).tobytes()
        else:
            message.data.tensor.shape.extend((1, len(row)))
            message.data.tensor.values.extend(row)
        bodies.append(message.SerializeToString())
    return RequestSet(Way.GRPC, host, port, path, tuple(bodies), digits.labels, Form.SELDON_GRPC)


def recorded(way: Way, host: str, port: int, path: str, body: bytes) -> RequestSet:
    """One recorded request; only the status of its responses can be checked."""
    headers = {} if way is Way.GRPC else JSON_HEADERS
    return RequestSet(way, host, port, path, (body,), None, Form.RECORDED, headers)


def predicted_digit(request_set: RequestSet, body: bytes) -> int | None:
    """The predicted digit of a response; None if its form is unknown.

    Raises:
        ValueError: The response does not have that form.
    """
    if request_set.form is Form.RECORDED:
        return None
    try:
        if request_set.form is Form.V2_GRPC:
            return _largest(_v2_scores(ModelInferResponse.FromString(body)))
        if request_set.form is Form.SELDON_GRPC:
            return _largest(_seldon_scores(SeldonMessage.FromString(body)))
        if request_set.way is Way.GRPC:
            return _largest(answers.of_reply(ClassificationReply.FromString(body)).scores)
        if request_set.form is Form.OURS:
            document = answers.from_jsonp(200, body)
            return _largest(answers.of_document(200, document).scores)
        if request_set.form is Form.V2_BINARY:
            return _largest(_v2_binary_scores(body))
        document = orjson.loads(body)
        if request_set.form is Form.V1:
            (scores,) = document["predictions"]
        elif request_set.form is Form.V1_BARE:
            (scores,) = document
        elif request_set.form is Form.SELDON:
            (scores,) = document["data"]["ndarray"]
        else:
            scores = document["outputs"][0]["data"]
        return _largest(scores)
    except (LookupError, TypeError, ValueError, DecodeError, answers.InvalidResponse) as error:
        raise ValueError(f"the response is not of form {request_set.form}: {error}") from error


def framed(message: bytes) -> bytes:
    """A length-prefixed gRPC message, for a plain HTTP/2 client."""
    return GRPC_PREFIX + len(message).to_bytes(4, "big") + message


def _rows(digits: Digits) -> list[Any]:
    images = held_out().images
    return [images[index] for index in digits.indices]


def _v2_scores(response: ModelInferResponse) -> Sequence[float]:
    """The scores; servers choose the field, independent of the request."""
    if response.raw_output_contents:
        return [float(score) for score in np.frombuffer(response.raw_output_contents[0], _RAW)]
    return response.outputs[0].contents.fp32_contents


def _v2_binary_scores(body: bytes) -> Sequence[float]:
    """The scores, which are the end of the body."""
    size = len(answers.CLASSES) * _RAW.itemsize
    (output,) = orjson.loads(body[:-size])["outputs"]
    stated = output["parameters"]["binary_data_size"]
    if stated != size:
        raise ValueError(f"binary_data_size is {stated}, expected {size}")
    return [float(score) for score in np.frombuffer(body[-size:], _RAW)]


def _seldon_scores(message: SeldonMessage) -> Sequence[float]:
    if message.HasField("binData"):
        return [float(score) for score in np.frombuffer(message.binData, _RAW)]
    return message.data.tensor.values


def _dumps(document: object) -> bytes:
    return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)


def _largest(scores: Sequence[float]) -> int:
    if len(scores) != len(answers.CLASSES):
        raise ValueError(f"{len(scores)} scores, expected {len(answers.CLASSES)}")
    return max(range(len(scores)), key=scores.__getitem__)
