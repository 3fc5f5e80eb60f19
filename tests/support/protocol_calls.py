"""Requests of every protocol, and what their responses hold, for any model at a gateway."""

import http.client
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Self
from urllib.parse import quote

import grpc
import numpy as np
import orjson
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.json_format import MessageToDict
from numpy.typing import NDArray

import open_inference_pb2 as v2
import seldon_pb2
import tensorflow_serving_pb2 as tfs
from seldon_core_pb2 import SeldonMessage
from serving_core import Signature, Tensors

HEADER_LENGTH = "Inference-Header-Content-Length"
_OK = 200


@dataclass(frozen=True)
class Target:
    """A model at the gateway: the name of its only variation, and its client's credentials."""

    name: str
    signature: Signature
    js_key: str
    token: str


@dataclass(frozen=True)
class Request:
    """A request; over gRPC the path is the method's and the body is the message."""

    path: str
    body: bytes
    method: str = "POST"
    headers: Mapping[str, str] = field(default_factory=dict)


class Response(NamedTuple):
    """A response of REST, with the names of headers in lower case, or a message of gRPC."""

    body: bytes
    status: int = _OK
    headers: Mapping[str, str] = {}


@dataclass(frozen=True)
class Prediction:
    """What a response holds; None for what its protocol has not."""

    outputs: Tensors
    id: str | None
    model: str | None


@dataclass(frozen=True)
class Refusal:
    """An error: its HTTP status or the name of its gRPC status code, and its text."""

    code: str
    text: str


@dataclass(frozen=True)
class Way:
    """A form of requests, and how to read responses to them.

    Attributes:
        transport: Of REST or gRPC.
        request: Makes a request of a model, with inputs and an id.
        read: Reads the response to a request with that id; an error of gRPC is none.
        named: Whether requests name the model and its inputs; otherwise it must have one input.
        max_rows: The most rows of a request; None for any number.
    """

    transport: Literal["rest", "grpc"]
    request: Callable[[Target, Tensors, str], Request]
    read: Callable[[Target, str, Response], Prediction | Refusal]
    named: bool = True
    max_rows: int | None = None


class Gateway:
    """Connections to a gateway, which nobody shares."""

    def __init__(self, rest_port: int, grpc_target: str, timeout_s: float = 60.0) -> None:
        self._timeout_s = timeout_s
        self._rest = http.client.HTTPConnection("127.0.0.1", rest_port, timeout=timeout_s)
        # Channels of one address share a connection otherwise.
        options = [("grpc.use_local_subchannel_pool", 1)]
        self._channel = grpc.insecure_channel(grpc_target, options)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._rest.close()
        self._channel.close()

    def send(self, way: Way, target: Target, inputs: Tensors, id: str) -> Prediction | Refusal:
        """Send a request in this form.

        Raises:
            AssertionError, LookupError, ValueError: The response is not as the protocol says.
            OSError, http.client.HTTPException: The connection failed; the next call opens one.
        """
        contiguous = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
        request = way.request(target, contiguous, id)
        try:
            call = self._over_rest if way.transport == "rest" else self._over_grpc
            return way.read(target, id, call(request, target.token))
        except grpc.RpcError as error:
            return Refusal(error.code().name, str(error.details()))
        except (OSError, http.client.HTTPException):
            self._rest.close()
            raise

    def _over_rest(self, request: Request, token: str) -> Response:
        headers = {"Authorization": f"Bearer {token}", **request.headers}
        self._rest.request(request.method, request.path, request.body or None, headers)
        response = self._rest.getresponse()
        named = {name.lower(): value for name, value in response.getheaders()}
        return Response(response.read(), response.status, named)

    def _over_grpc(self, request: Request, token: str) -> Response:
        call = self._channel.unary_unary(request.path, bytes, bytes)
        metadata = (("oauth_token", token),)
        return Response(call(request.body, metadata=metadata, timeout=self._timeout_s))


def _json(document: object) -> bytes:
    return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)


def _first(tensors: Tensors) -> NDArray[Any]:
    """The only input, where a protocol has one."""
    return next(iter(tensors.values()))


def _outputs(target: Target, values: Mapping[str, Any]) -> Tensors:
    """The outputs, which must be the model's."""
    assert set(values) == set(target.signature.output_names)
    return {
        spec.name: np.asarray(values[spec.name], spec.dtype) for spec in target.signature.outputs
    }


# Seldon Server 1.4


def _seldon_document(inputs: Tensors, id: str) -> bytes:
    images = _first(inputs)
    return _json({"data": images[0] if len(images) == 1 else images, "meta": {"puid": id}})


def _seldon_json(target: Target, inputs: Tensors, id: str) -> Request:
    headers = {"Content-Type": "application/json"}
    return Request("/predict", _seldon_document(inputs, id), headers=headers)


def _seldon_jsonp(target: Target, inputs: Tensors, id: str) -> Request:
    query = f"consumer_key={target.js_key}&json={quote(_seldon_document(inputs, id))}"
    return Request(f"/js/predict?{query}&jsonpCallback={_callback(id)}", b"", "GET")


def _callback(id: str) -> str:
    return f"on_{id.replace('-', '_')}"


def _read_jsonp(target: Target, id: str, response: Response) -> Prediction | Refusal:
    start, end = f"{_callback(id)}(".encode(), b")"
    assert response.body.startswith(start)
    assert response.body.endswith(end)
    return _read_seldon(target, id, Response(response.body[len(start) : -len(end)]))


def _read_seldon(target: Target, id: str, response: Response) -> Prediction | Refusal:
    document = orjson.loads(response.body)
    if "error_id" in document:
        return Refusal(str(document["http_response"]), document["error_msg"])
    meta, rows = document["meta"], document["predictions"]
    labels, scores, again = zip(
        *((row["predictedClass"], row["prediction"], row["confidence"]) for row in rows),
        strict=True,
    )
    assert scores == again
    return _classified(target, labels, scores, meta["puid"], meta["variation"])


def _classified(
    target: Target, labels: tuple[str, ...], scores: tuple[float, ...], puid: str, variation: str
) -> Prediction:
    (spec,) = target.signature.outputs
    classes = tuple(str(number) for number in range(spec.shape[1]))
    assert labels == classes * (len(labels) // len(classes))
    values = np.reshape(scores, (-1, len(classes)))
    return Prediction(_outputs(target, {spec.name: values}), puid, variation)


def _classify(target: Target, inputs: Tensors, id: str) -> Request:
    data = AnyMessage()
    data.Pack(seldon_pb2.DefaultCustomPredictRequest(values=_first(inputs).ravel()))
    meta = seldon_pb2.ClassificationRequestMeta(puid=id)
    message = seldon_pb2.ClassificationRequest(meta=meta, data=data)
    return Request("/io.seldon.api.rpc.Seldon/Classify", message.SerializeToString())


def _read_classify(target: Target, id: str, response: Response) -> Prediction:
    reply = seldon_pb2.ClassificationReply.FromString(response.body)
    labels, scores = zip(
        *((r.predictedClass, r.prediction) for r in reply.predictions), strict=True
    )
    return _classified(target, labels, scores, reply.meta.puid, reply.meta.variation)


# Open Inference


def _v2_json(target: Target, inputs: Tensors, id: str) -> Request:
    tensors = [{**_v2_tensor(name, array), "data": array} for name, array in inputs.items()]
    return Request(f"/v2/models/{target.name}/infer", _json({"id": id, "inputs": tensors}))


def _v2_tensor(name: str, array: NDArray[Any]) -> dict[str, Any]:
    return {"name": name, "datatype": _DATATYPES[array.dtype.str], "shape": list(array.shape)}


_DATATYPES = {"<f4": "FP32", "<f8": "FP64", "<i8": "INT64"}


def _v2_binary(target: Target, inputs: Tensors, id: str) -> Request:
    tensors = [
        {**_v2_tensor(name, array), "parameters": {"binary_data_size": array.nbytes}}
        for name, array in inputs.items()
    ]
    parameters = {"binary_data_output": True}
    text = _json({"id": id, "inputs": tensors, "parameters": parameters})
    return Request(
        f"/v2/models/{target.name}/versions/1/infer",
        text + b"".join(array.tobytes() for array in inputs.values()),
        headers={HEADER_LENGTH: str(len(text))},
    )


def _read_v2(target: Target, id: str, response: Response) -> Prediction | Refusal:
    if response.status != _OK:
        return _read_error(response)
    length = int(response.headers.get(HEADER_LENGTH.lower()) or len(response.body))
    document, at = orjson.loads(response.body[:length]), length
    arrays: dict[str, Any] = {}
    for output in document["outputs"]:
        if "data" in output:
            values = np.array(output["data"])
        else:
            size = output["parameters"]["binary_data_size"]
            values = np.frombuffer(response.body[at : at + size], _numpy(output["datatype"]))
            at += size
        arrays[output["name"]] = values.reshape(output["shape"])
    assert at == len(response.body)
    return Prediction(_outputs(target, arrays), document["id"], document["model_name"])


def _numpy(datatype: str) -> str:
    return next(dtype for dtype, name in _DATATYPES.items() if name == datatype)


def _read_error(response: Response) -> Refusal:
    document = orjson.loads(response.body)
    assert list(document) == ["error"]
    return Refusal(str(response.status), document["error"])


def _v2_message(target: Target, inputs: Tensors, id: str, raw: bool) -> Request:
    message = v2.ModelInferRequest(model_name=target.name, id=id)
    for name, array in inputs.items():
        tensor = message.inputs.add(**_v2_tensor(name, array))
        if raw:
            message.raw_input_contents.append(array.tobytes())
        else:
            getattr(tensor.contents, _contents(tensor.datatype)).extend(array.ravel().tolist())
    method = "/inference.GRPCInferenceService/ModelInfer"
    return Request(method, message.SerializeToString())


def _contents(datatype: str) -> str:
    return f"{datatype.lower()}_contents"


def _v2_typed(target: Target, inputs: Tensors, id: str) -> Request:
    return _v2_message(target, inputs, id, raw=False)


def _v2_raw(target: Target, inputs: Tensors, id: str) -> Request:
    return _v2_message(target, inputs, id, raw=True)


def _read_v2_message(target: Target, id: str, response: Response) -> Prediction:
    reply = v2.ModelInferResponse.FromString(response.body)
    assert reply.model_version == "1"
    arrays: dict[str, Any] = {}
    for number, tensor in enumerate(reply.outputs):
        if reply.raw_output_contents:
            values = np.frombuffer(reply.raw_output_contents[number], _numpy(tensor.datatype))
        else:
            values = np.array(getattr(tensor.contents, _contents(tensor.datatype)))
        arrays[tensor.name] = values.reshape(list(tensor.shape))
    return Prediction(_outputs(target, arrays), reply.id, reply.model_name)


# TensorFlow Serving


def _v1_rows(target: Target, inputs: Tensors, id: str) -> Request:
    if len(inputs) == 1 and list(inputs) == [spec.name for spec in target.signature.inputs]:
        rows: Any = _first(inputs)
    else:
        columns = [array.tolist() for array in inputs.values()]
        rows = [dict(zip(inputs, values, strict=True)) for values in zip(*columns, strict=True)]
    return Request(f"/v1/models/{target.name}:predict", _json({"instances": rows}))


def _v1_columns(target: Target, inputs: Tensors, id: str) -> Request:
    return Request(f"/v1/models/{target.name}/versions/1:predict", _json({"inputs": dict(inputs)}))


def _read_v1(target: Target, id: str, response: Response) -> Prediction | Refusal:
    if response.status != _OK:
        return _read_error(response)
    ((form, values),) = orjson.loads(response.body).items()
    names = target.signature.output_names
    if len(names) == 1:
        values = {names[0]: values}
    elif form == "predictions":
        values = {name: [row[name] for row in values] for name in names}
    return Prediction(_outputs(target, values), None, None)


def _v1_message(target: Target, inputs: Tensors, id: str) -> Request:
    message = tfs.PredictRequest()
    message.model_spec.name = target.name
    for name, array in inputs.items():
        tensor = message.inputs[name]
        tensor.dtype = _TENSORFLOW[array.dtype.str]
        for size in array.shape:
            tensor.tensor_shape.dim.add(size=size)
        tensor.tensor_content = array.tobytes()
    method = "/tensorflow.serving.PredictionService/Predict"
    return Request(method, message.SerializeToString())


_TENSORFLOW = {"<f4": tfs.DT_FLOAT, "<f8": tfs.DT_DOUBLE, "<i8": tfs.DT_INT64}


def _read_v1_message(target: Target, id: str, response: Response) -> Prediction:
    reply = tfs.PredictResponse.FromString(response.body)
    arrays = {name: _tensor(tensor) for name, tensor in reply.outputs.items()}
    return Prediction(_outputs(target, arrays), None, reply.model_spec.name)


def _tensor(tensor: tfs.TensorProto) -> NDArray[Any]:
    dtype = next(dtype for dtype, number in _TENSORFLOW.items() if number == tensor.dtype)
    content = tensor.tensor_content
    values = np.frombuffer(content, dtype) if content else np.array(tensor.float_val)
    return values.reshape([dimension.size for dimension in tensor.tensor_shape.dim])


# Seldon Core


def _core_ndarray(target: Target, inputs: Tensors, id: str) -> Request:
    return _core(id, {"ndarray": _first(inputs)})


def _core_tensor(target: Target, inputs: Tensors, id: str) -> Request:
    array = _first(inputs)
    return _core(id, {"tensor": {"shape": list(array.shape), "values": array.ravel()}})


def _core(id: str, data: dict[str, Any]) -> Request:
    return Request("/api/v1.0/predictions", _json({"data": data, "meta": {"puid": id}}))


def _read_core(target: Target, id: str, response: Response) -> Prediction | Refusal:
    document = orjson.loads(response.body)
    if response.status != _OK:
        assert document["status"]["status"] == "FAILURE"
        return Refusal(str(response.status), document["status"]["info"])
    return _read_core_document(target, document)


def _core_message(target: Target, inputs: Tensors, id: str) -> Request:
    array, message = _first(inputs), SeldonMessage()
    message.meta.puid = id
    message.data.tensor.shape.extend(array.shape)
    message.data.tensor.values.extend(array.ravel().tolist())
    return Request("/seldon.protos.Seldon/Predict", message.SerializeToString())


def _core_list_message(target: Target, inputs: Tensors, id: str) -> Request:
    message = SeldonMessage()
    message.meta.puid = id
    message.data.ndarray.extend(_first(inputs).tolist())
    return Request("/seldon.protos.Seldon/Predict", message.SerializeToString())


def _read_core_message(target: Target, id: str, response: Response) -> Prediction:
    reply = SeldonMessage.FromString(response.body)
    return _read_core_document(target, MessageToDict(reply))


def _read_core_document(target: Target, document: dict[str, Any]) -> Prediction:
    (spec,) = target.signature.outputs
    data, meta = document["data"], document["meta"]
    assert data["names"] == [str(number) for number in range(spec.shape[1])]
    if "tensor" in data:
        values = np.reshape(data["tensor"]["values"], data["tensor"]["shape"])
    else:
        values = data["ndarray"]
    ((model, version),) = meta["requestPath"].items()
    assert version == "1"
    return Prediction(_outputs(target, {spec.name: values}), meta["puid"], model)


WAYS: dict[str, Way] = {
    "Seldon, JSON": Way("rest", _seldon_json, _read_seldon, named=False, max_rows=16),
    # More make a URL that the gateway refuses.
    "Seldon, JSONP": Way("rest", _seldon_jsonp, _read_jsonp, named=False, max_rows=3),
    "Seldon, gRPC": Way("grpc", _classify, _read_classify, named=False, max_rows=16),
    "Open Inference, JSON": Way("rest", _v2_json, _read_v2),
    "Open Inference, binary": Way("rest", _v2_binary, _read_v2),
    "Open Inference, gRPC typed": Way("grpc", _v2_typed, _read_v2_message),
    "Open Inference, gRPC raw": Way("grpc", _v2_raw, _read_v2_message),
    "TensorFlow Serving, rows": Way("rest", _v1_rows, _read_v1),
    "TensorFlow Serving, columns": Way("rest", _v1_columns, _read_v1),
    "TensorFlow Serving, gRPC": Way("grpc", _v1_message, _read_v1_message),
    "Seldon Core, ndarray": Way("rest", _core_ndarray, _read_core, named=False),
    "Seldon Core, tensor": Way("rest", _core_tensor, _read_core, named=False),
    "Seldon Core, gRPC tensor": Way("grpc", _core_message, _read_core_message, named=False),
    "Seldon Core, gRPC ndarray": Way("grpc", _core_list_message, _read_core_message, named=False),
}
