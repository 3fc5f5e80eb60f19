"""The same model by every protocol through the gateway: the same scores, each in its own form."""

import struct
from collections.abc import Iterator
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
import tensorflow_serving_pb2 as tfs
from deploy.deployment import MICROSERVICE
from local_stack import ROOT, Stack
from protocol_calls import WAYS, Gateway, Prediction, Target
from serving_core import Classifier, load_predictor, read_model_folder
from serving_core.digits import held_out

ROWS = 20  # more than a batch
IMAGES = held_out().images[:: 200 // ROWS]
MODEL = ROOT / "models" / "deep_mnist" / "1"


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
def gateway(stack: Stack) -> Iterator[Gateway]:
    with Gateway(stack.rest_port, stack.grpc_target) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def target(stack: Stack, caller: Caller) -> Target:
    signature = read_model_folder(MODEL).info.signature
    return Target(MICROSERVICE, signature, stack.credentials().js_key, caller.token)


@pytest.fixture(scope="module")
def scores() -> np.ndarray:
    """What the model says of the images, shape (ROWS, 10)."""
    return Classifier(load_predictor(MODEL)).predict(IMAGES)


@pytest.mark.parametrize("name", WAYS)
def test_every_protocol_gives_the_models_scores(
    name: str, gateway: Gateway, target: Target, scores: np.ndarray
) -> None:
    way = WAYS[name]
    images = IMAGES[: way.max_rows]
    answer = gateway.send(way, target, {"instances": images}, "7")
    assert isinstance(answer, Prediction), answer
    assert answer.id in (None, "7")
    assert answer.model in (None, MICROSERVICE)
    found = answer.outputs["probabilities"]
    assert found.shape == (len(images), 10)
    assert np.abs(found - scores[: len(images)]).max() <= 1e-5


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
