"""The same model by every protocol through the gateway: the same scores, each in its own form."""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
import orjson
import pytest
import requests
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

import open_inference_pb2 as v2
import seldon_core_pb2
import tensorflow_serving_pb2 as tfs
from deploy.deployment import MICROSERVICE
from local_stack import ROOT, Stack
from serving_core import Classifier, load_predictor
from serving_core.digits import held_out

ROWS = 20  # more than a batch
IMAGES = held_out().images[:: 200 // ROWS]
CLASSES = list("0123456789")


@dataclass
class Caller:
    """One client's session, channel and token."""

    stack: Stack
    session: requests.Session
    channel: grpc.Channel
    token: str

    def get(self, path: str) -> requests.Response:
        return self.session.get(f"{self.stack.url}{path}", timeout=10)

    def post(self, path: str, body: object, **headers: str) -> requests.Response:
        data = body if isinstance(body, bytes) else orjson.dumps(body)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.session.post(f"{self.stack.url}{path}", data, headers=named, timeout=10)

    def call(self, method: str, message: Any, reply: type) -> Any:
        encode = type(message).SerializeToString
        call = self.channel.unary_unary(method, encode, reply.FromString)  # type: ignore[attr-defined]
        return call(message, metadata=(("oauth_token", self.token),), timeout=10)


@pytest.fixture(scope="module")
def caller(stack: Stack) -> Iterator[Caller]:
    token = stack.token()
    with requests.Session() as session, grpc.insecure_channel(stack.grpc_target) as channel:
        session.headers["Authorization"] = f"Bearer {token}"
        yield Caller(stack, session, channel, token)


@pytest.fixture(scope="module")
def scores() -> np.ndarray:
    """What the model says of the images, shape (ROWS, 10)."""
    return Classifier(load_predictor(ROOT / "models" / "deep_mnist" / "1")).predict(IMAGES)


def v2_json(caller: Caller) -> object:
    tensor = {"name": "instances", "datatype": "FP32", "shape": [ROWS, 784]}
    tensor["data"] = IMAGES.tolist()
    answer = caller.post(f"/v2/models/{MICROSERVICE}/infer", {"id": "7", "inputs": [tensor]})
    assert answer.status_code == 200, answer.text
    document = answer.json()
    assert (document["id"], document["model_name"]) == ("7", MICROSERVICE)
    (output,) = document["outputs"]
    assert output["shape"] == [ROWS, 10]
    return np.reshape(output["data"], (ROWS, 10))


def v2_binary(caller: Caller) -> object:
    blob = IMAGES.tobytes()
    tensor: dict[str, object] = {"name": "instances", "datatype": "FP32", "shape": [ROWS, 784]}
    tensor["parameters"] = {"binary_data_size": len(blob)}
    text = orjson.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}})
    answer = caller.post(
        f"/v2/models/{MICROSERVICE}/versions/1/infer",
        text + blob,
        Inference_Header_Content_Length=str(len(text)),
    )
    assert answer.status_code == 200, answer.text
    length = int(answer.headers["Inference-Header-Content-Length"])
    return np.frombuffer(answer.content[length:], np.float32).reshape(ROWS, 10)


def v1_rows(caller: Caller) -> object:
    answer = caller.post(f"/v1/models/{MICROSERVICE}:predict", {"instances": IMAGES.tolist()})
    assert answer.status_code == 200, answer.text
    return answer.json()["predictions"]


def v1_columns(caller: Caller) -> object:
    path = f"/v1/models/{MICROSERVICE}/versions/1:predict"
    answer = caller.post(path, {"inputs": {"instances": IMAGES.tolist()}})
    assert answer.status_code == 200, answer.text
    return answer.json()["outputs"]


def seldon_core_rest(caller: Caller) -> object:
    answer = caller.post("/api/v1.0/predictions", {"data": {"ndarray": IMAGES.tolist()}})
    assert answer.status_code == 200, answer.text
    assert answer.json()["data"]["names"] == CLASSES
    return answer.json()["data"]["ndarray"]


def v2_grpc(caller: Caller, raw: bool) -> object:
    message = v2.ModelInferRequest(model_name=MICROSERVICE, id="7")
    item = message.inputs.add(name="instances", datatype="FP32", shape=IMAGES.shape)
    if raw:
        message.raw_input_contents.append(IMAGES.tobytes())
    else:
        item.contents.fp32_contents.extend(IMAGES.ravel().tolist())
    method = "/inference.GRPCInferenceService/ModelInfer"
    reply = caller.call(method, message, v2.ModelInferResponse)
    assert (reply.id, reply.model_name, reply.model_version) == ("7", MICROSERVICE, "1")
    if raw:
        return np.frombuffer(reply.raw_output_contents[0], np.float32).reshape(ROWS, 10)
    return np.reshape(reply.outputs[0].contents.fp32_contents, (ROWS, 10))


def v1_grpc(caller: Caller) -> object:
    request = tfs.PredictRequest()
    request.model_spec.name = MICROSERVICE
    tensor = request.inputs["instances"]
    tensor.dtype = tfs.DT_FLOAT
    for size in IMAGES.shape:
        tensor.tensor_shape.dim.add(size=size)
    tensor.tensor_content = IMAGES.tobytes()
    method = "/tensorflow.serving.PredictionService/Predict"
    reply = caller.call(method, request, tfs.PredictResponse)
    return np.reshape(reply.outputs["probabilities"].float_val, (ROWS, 10))


def seldon_core_grpc(caller: Caller) -> object:
    message = seldon_core_pb2.SeldonMessage()
    message.data.tensor.shape.extend(IMAGES.shape)
    message.data.tensor.values.extend(IMAGES.ravel().tolist())
    reply = caller.call("/seldon.protos.Seldon/Predict", message, seldon_core_pb2.SeldonMessage)
    assert list(reply.data.names) == CLASSES
    return np.reshape(reply.data.tensor.values, (ROWS, 10))


WAYS: dict[str, Callable[[Caller], object]] = {
    "Open Inference, JSON": v2_json,
    "Open Inference, binary": v2_binary,
    "TensorFlow Serving, rows": v1_rows,
    "TensorFlow Serving, columns": v1_columns,
    "Seldon Core": seldon_core_rest,
    "Open Inference, gRPC typed": lambda caller: v2_grpc(caller, raw=False),
    "Open Inference, gRPC raw": lambda caller: v2_grpc(caller, raw=True),
    "TensorFlow Serving, gRPC": v1_grpc,
    "Seldon Core, gRPC": seldon_core_grpc,
}


@pytest.mark.parametrize("way", WAYS)
def test_every_protocol_gives_the_models_scores(
    way: str, caller: Caller, scores: np.ndarray
) -> None:
    found = np.array(WAYS[way](caller), np.float32)
    assert found.shape == (ROWS, 10)
    assert np.abs(found - scores).max() <= 1e-5


def test_health_and_metadata_over_rest(caller: Caller) -> None:
    assert caller.get("/v2").json()["name"] == "prediction-services"
    for path in ("/v2/health/live", "/v2/health/ready", f"/v2/models/{MICROSERVICE}/ready"):
        assert caller.get(path).status_code == 200
    metadata = caller.get(f"/v2/models/{MICROSERVICE}").json()
    (instances,) = metadata["inputs"]
    assert instances["parameters"] == {"minimum": 0.0, "maximum": 1.0}
    del instances["parameters"]
    assert instances == {"name": "instances", "datatype": "FP32", "shape": [-1, 784]}
    assert metadata["outputs"] == [{"name": "probabilities", "datatype": "FP32", "shape": [-1, 10]}]
    status = caller.get(f"/v1/models/{MICROSERVICE}").json()["model_version_status"][0]
    assert (status["version"], status["state"]) == ("1", "AVAILABLE")
    metadata = caller.get(f"/v1/models/{MICROSERVICE}/metadata").json()["metadata"]
    signature = metadata["signature_def"]["signature_def"]["serving_default"]
    assert signature["inputs"]["instances"]["dtype"] == "DT_FLOAT"


def test_openapi_describes_the_clients_models(caller: Caller) -> None:
    document = caller.get("/openapi.json").json()
    assert document["openapi"] == "3.1.0"
    infer = document["paths"]["/v2/models/{name}/infer"]
    assert infer["parameters"][0]["schema"]["enum"] == [MICROSERVICE]
    body = infer["post"]["requestBody"]["content"]["application/json"]["schema"]
    (tensor,) = body["properties"]["inputs"]["items"]["oneOf"]
    assert tensor["properties"]["name"] == {"const": "instances"}


def test_health_and_metadata_over_grpc(caller: Caller) -> None:
    service = "/inference.GRPCInferenceService"
    assert caller.call(f"{service}/ServerLive", v2.ServerLiveRequest(), v2.ServerLiveResponse).live
    assert caller.call(
        f"{service}/ServerReady", v2.ServerReadyRequest(), v2.ServerReadyResponse
    ).ready
    assert caller.call(
        f"{service}/ModelReady", v2.ModelReadyRequest(name=MICROSERVICE), v2.ModelReadyResponse
    ).ready
    metadata = caller.call(
        f"{service}/ModelMetadata",
        v2.ModelMetadataRequest(name=MICROSERVICE),
        v2.ModelMetadataResponse,
    )
    (instances,) = metadata.inputs
    assert (instances.name, list(instances.shape)) == ("instances", [-1, 784])
    assert instances.parameters["maximum"].double_param == 1
    request = tfs.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = MICROSERVICE
    reply = caller.call(
        "/tensorflow.serving.PredictionService/GetModelMetadata",
        request,
        tfs.GetModelMetadataResponse,
    )
    assert "signature_def" in reply.metadata


def test_a_probe_needs_no_token_and_reflection_names_the_services(caller: Caller) -> None:
    stub = health_pb2_grpc.HealthStub(caller.channel)
    for service in ("", "inference.GRPCInferenceService"):
        request = health_pb2.HealthCheckRequest(service=service)
        assert stub.Check(request, timeout=10).status == health_pb2.HealthCheckResponse.SERVING
    token = (("oauth_token", caller.token),)
    channel = grpc.intercept_channel(caller.channel, _WithMetadata(token))
    services = set(ProtoReflectionDescriptorDatabase(channel).get_services())
    assert services >= {"io.seldon.api.rpc.Seldon", "inference.GRPCInferenceService"}


class _WithMetadata(grpc.StreamStreamClientInterceptor):
    def __init__(self, metadata: tuple[tuple[str, str], ...]) -> None:
        self._metadata = metadata

    def intercept_stream_stream(self, continuation: Any, details: Any, requests: Any) -> Any:
        return continuation(details._replace(metadata=self._metadata), requests)


@pytest.mark.parametrize(
    ("path", "body", "status", "text"),
    [
        ("/v2/models/other/infer", {"inputs": []}, 404, MICROSERVICE),
        (f"/v2/models/{MICROSERVICE}/versions/2/infer", {"inputs": []}, 404, "expected '1'"),
        (f"/v2/models/{MICROSERVICE}/infer", {"inputs": []}, 400, "input 'instances' is missing"),
        (f"/v2/models/{MICROSERVICE}/infer", b"{", 400, "the body is no valid JSON"),
        (f"/v1/models/{MICROSERVICE}:predict", {"instances": [[1]]}, 400, "has shape [1, 1]"),
    ],
)
def test_an_error_has_the_protocols_shape(
    path: str, body: object, status: int, text: str, caller: Caller
) -> None:
    refused = caller.post(path, body)
    assert refused.status_code == status
    assert list(refused.json()) == ["error"]
    assert text in refused.json()["error"]


def test_an_error_of_seldon_core_has_its_shape(caller: Caller) -> None:
    refused = caller.post("/api/v1.0/predictions", {"data": {"ndarray": [[1.0]]}})
    assert refused.status_code == 400
    assert refused.json()["status"]["status"] == "FAILURE"
    assert "has shape [1, 1], expected [-1, 784]" in refused.json()["status"]["info"]


def test_another_model_over_grpc_is_not_found(caller: Caller) -> None:
    message = v2.ModelInferRequest(model_name="other")
    with pytest.raises(grpc.RpcError) as refused:
        caller.call("/inference.GRPCInferenceService/ModelInfer", message, v2.ModelInferResponse)
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND
    assert MICROSERVICE in str(refused.value.details())


def test_strings_to_a_model_of_numbers_are_refused(caller: Caller) -> None:
    blob = struct.pack("<I", 1) + b"a"
    tensor = {"name": "instances", "datatype": "BYTES", "shape": [1, 1]}
    tensor["parameters"] = {"binary_data_size": len(blob)}  # type: ignore[assignment]
    text = orjson.dumps({"inputs": [tensor]})
    refused = caller.post(
        f"/v2/models/{MICROSERVICE}/infer",
        text + blob,
        Inference_Header_Content_Length=str(len(text)),
    )
    assert refused.status_code == 400
    assert "has datatype 'BYTES', expected 'FP32'" in refused.json()["error"]
