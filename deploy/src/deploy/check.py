"""A test prediction through the gateway, over each protocol."""

import time

import grpc
import requests
from google.protobuf.any_pb2 import Any

import seldon_pb2
import seldon_pb2_grpc
from deploy import example
from deploy.errors import StackUnhealthy
from deploy.microservices import Api
from deploy.operator_view import Credentials
from deploy.probes import loopback_session
from deploy.settings import gateway_host
from seldon_gateway.settings import GatewaySettings
from serving_core import ModelInfo
from serving_core.digits import held_out

_TIMEOUT_S = 10.0
_DIGIT = 7


def prediction(
    api: Api,
    settings: GatewaySettings,
    credentials: Credentials,
    name: str = "",
    model: ModelInfo | None = None,
) -> str:
    """Predict a held-out digit as a client would; of another model, an example of its inputs.

    Args:
        api: Over which API.
        settings: The gateway's.
        credentials: The client's.
        name: A variation of the client's.
        model: What it serves; None for a model of digits.

    Returns:
        A line for the operator.

    Raises:
        StackUnhealthy: The request failed.
    """
    if model is not None and not _reads_digits(model):
        return _example(api, settings, credentials, name)
    digits = held_out()
    index = digits.labels.tolist().index(_DIGIT)
    started = time.monotonic()
    call = _over_rest if api is Api.REST else _over_grpc
    predicted = call(digits.images[index].tolist(), settings, credentials)
    spent_ms = (time.monotonic() - started) * 1000
    name = "REST" if api is Api.REST else "gRPC"
    right = "" if predicted == str(_DIGIT) else f", expected {_DIGIT}; check the model folder"
    return (
        f"a handwritten {_DIGIT} is predicted as {predicted} over {name} ({spent_ms:.0f} ms){right}"
    )


def _reads_digits(model: ModelInfo) -> bool:
    view = model.classifier
    return (
        view is not None
        and view.features == held_out().images.shape[1]
        and view.classes == tuple("0123456789")
    )


def _example(api: Api, settings: GatewaySettings, credentials: Credentials, name: str) -> str:
    host, token = gateway_host(settings), access_token(settings, credentials)
    started = time.monotonic()
    if api is Api.REST:
        outputs = example.over_rest(f"http://{host}:{settings.rest_port}", token, name)
    else:
        outputs = example.over_grpc(f"{host}:{settings.grpc_port}", token, name)
    spent_ms = (time.monotonic() - started) * 1000
    over = "REST" if api is Api.REST else "gRPC"
    return f"{name} predicts {', '.join(outputs)} over {over} ({spent_ms:.0f} ms)"


def _over_rest(values: list[float], settings: GatewaySettings, credentials: Credentials) -> str:
    url = f"http://{gateway_host(settings)}:{settings.rest_port}/js/predict"
    with loopback_session() as session:
        try:
            answer = session.post(
                url,
                params={"consumer_key": credentials.js_key},
                json={"data": values},
                timeout=_TIMEOUT_S,
            )
            answer.raise_for_status()
            rows = answer.json()["predictions"]
            return str(max(rows, key=lambda row: row["prediction"])["predictedClass"])
        except (requests.RequestException, ValueError, KeyError, TypeError) as error:
            # Not the error itself: its URL holds the key.
            reason = getattr(getattr(error, "response", None), "text", "") or type(error).__name__
            raise StackUnhealthy(f"the prediction over REST failed: {reason}") from None


def _over_grpc(values: list[float], settings: GatewaySettings, credentials: Credentials) -> str:
    data = Any()
    data.Pack(seldon_pb2.DefaultCustomPredictRequest(values=values))
    target = f"{gateway_host(settings)}:{settings.grpc_port}"
    options = [("grpc.enable_http_proxy", 0)]
    try:
        token = access_token(settings, credentials)
        with grpc.insecure_channel(target, options=options) as channel:
            reply = seldon_pb2_grpc.SeldonStub(channel).Classify(
                seldon_pb2.ClassificationRequest(data=data),
                metadata=(("oauth_token", token),),
                timeout=_TIMEOUT_S,
                wait_for_ready=True,
            )
    except grpc.RpcError as error:
        raise StackUnhealthy(
            f"the prediction over gRPC failed: {error.code().name}: {error.details()}"
        ) from None
    if not reply.predictions:
        raise StackUnhealthy("the prediction over gRPC failed: the response has no predictions")
    return str(max(reply.predictions, key=lambda row: row.prediction).predictedClass)


def access_token(settings: GatewaySettings, credentials: Credentials) -> str:
    """A fresh access token from the gateway.

    Raises:
        StackUnhealthy: The gateway issues none.
    """
    with loopback_session() as session:
        try:
            answer = session.post(
                f"http://{gateway_host(settings)}:{settings.rest_port}/token",
                data={"grant_type": "client_credentials"},
                auth=(credentials.all_key, credentials.all_secret),
                timeout=_TIMEOUT_S,
            )
            return str(answer.json()["access_token"])
        except (requests.RequestException, ValueError, KeyError) as error:
            raise StackUnhealthy(
                f"the gateway issued no access token: {type(error).__name__}"
            ) from None
