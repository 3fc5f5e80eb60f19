"""A test prediction of any model: an example of its inputs, by the Open Inference Protocol."""

import grpc
import requests

import open_inference_pb2 as pb
import open_inference_pb2_grpc
from deploy.errors import StackUnhealthy
from deploy.probes import loopback_session
from serving_core.loading import example
from serving_core.protocols.open_inference.client import json_request, raw_request, signature_of

_TIMEOUT_S = 10.0
_ROWS = 1


def over_rest(base: str, token: str, name: str) -> list[str]:
    """Send an example.

    Args:
        base: The gateway's or a server's URL.
        token: An access token; "" without a gateway.
        name: The model's name.

    Returns:
        Names and shapes of the outputs.

    Raises:
        StackUnhealthy: The request failed.
    """
    url = f"{base}/v2/models/{name}"
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    with loopback_session() as session:
        session.headers.update(headers)
        try:
            answer = session.get(url, timeout=_TIMEOUT_S)
            answer.raise_for_status()
            body = json_request(example(signature_of(answer.json()), _ROWS))
            answer = session.post(f"{url}/infer", data=body, timeout=_TIMEOUT_S)
            answer.raise_for_status()
            return [f"{one['name']} {one['shape']}" for one in answer.json()["outputs"]]
        except (requests.RequestException, ValueError, KeyError, TypeError) as error:
            reason = getattr(getattr(error, "response", None), "text", "") or type(error).__name__
            raise StackUnhealthy(f"the prediction over REST failed: {reason}") from None


def over_grpc(address: str, token: str, name: str) -> list[str]:
    """The same over gRPC; `address` is HOST:PORT."""
    metadata = (("oauth_token", token),) if token else ()
    options = [("grpc.enable_http_proxy", 0)]
    try:
        with grpc.insecure_channel(address, options=options) as channel:
            stub = open_inference_pb2_grpc.GRPCInferenceServiceStub(channel)
            described = stub.ModelMetadata(
                pb.ModelMetadataRequest(name=name),
                metadata=metadata,
                timeout=_TIMEOUT_S,
                wait_for_ready=True,
            )
            request = raw_request(name, example(signature_of(described), _ROWS))
            response = stub.ModelInfer(request, metadata=metadata, timeout=_TIMEOUT_S)
    except grpc.RpcError as error:
        raise StackUnhealthy(
            f"the prediction over gRPC failed: {error.code().name}: {error.details()}"
        ) from None
    return [f"{one.name} {list(one.shape)}" for one in response.outputs]
