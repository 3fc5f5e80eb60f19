"""A test prediction of any model: an example of its inputs, by the Open Inference Protocol."""

from collections.abc import Sequence
from typing import Any

import grpc
import requests

import open_inference_pb2 as pb
import open_inference_pb2_grpc
from deploy.errors import StackUnhealthy
from deploy.probes import loopback_session
from serving_core import Signature, TensorSpec
from serving_core.loading import example
from serving_core.protocols.open_inference.common import strings_of, to_binary

_TIMEOUT_S = 10.0
_ROWS = 1


def over_rest(base: str, token: str, name: str, signature: Signature | None) -> list[str]:
    """Send an example.

    Args:
        base: The gateway's or a server's URL.
        token: An access token; "" without a gateway.
        name: The model's name.
        signature: Of the model; None asks the server, which does not tell ranges.

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
            if signature is None:
                answer = session.get(url, timeout=_TIMEOUT_S)
                answer.raise_for_status()
                metadata = answer.json()
                signature = _signature(
                    [(one["name"], one["datatype"], one["shape"]) for one in metadata["inputs"]]
                )
            inputs = [
                {
                    "name": input_name,
                    "datatype": signature.input(input_name).datatype,
                    "shape": list(array.shape),
                    "data": [text.decode() for text in strings_of(array)]
                    if array.dtype.kind == "O"
                    else array.ravel().tolist(),
                }
                for input_name, array in example(signature, _ROWS, of_request=True).items()
            ]
            answer = session.post(f"{url}/infer", json={"inputs": inputs}, timeout=_TIMEOUT_S)
            answer.raise_for_status()
            return [f"{one['name']} {one['shape']}" for one in answer.json()["outputs"]]
        except (requests.RequestException, ValueError, KeyError, TypeError) as error:
            reason = getattr(getattr(error, "response", None), "text", "") or type(error).__name__
            raise StackUnhealthy(f"the prediction over REST failed: {reason}") from None


def over_grpc(address: str, token: str, name: str, signature: Signature | None) -> list[str]:
    """The same over gRPC; `address` is HOST:PORT."""
    metadata = (("oauth_token", token),) if token else ()
    options = [("grpc.enable_http_proxy", 0)]
    how: dict[str, Any] = {"metadata": metadata, "timeout": _TIMEOUT_S, "wait_for_ready": True}
    try:
        with grpc.insecure_channel(address, options=options) as channel:
            stub = open_inference_pb2_grpc.GRPCInferenceServiceStub(channel)
            if signature is None:
                described = stub.ModelMetadata(pb.ModelMetadataRequest(name=name), **how)
                signature = _signature(
                    [(one.name, one.datatype, one.shape) for one in described.inputs]
                )
            request = pb.ModelInferRequest(model_name=name)
            for input_name, array in example(signature, _ROWS, of_request=True).items():
                datatype = signature.input(input_name).datatype
                request.inputs.add(name=input_name, datatype=datatype, shape=array.shape)
                request.raw_input_contents.append(to_binary(array))
            response = stub.ModelInfer(request, **how)
    except grpc.RpcError as error:
        raise StackUnhealthy(
            f"the prediction over gRPC failed: {error.code().name}: {error.details()}"
        ) from None
    return [f"{one.name} {list(one.shape)}" for one in response.outputs]


def _signature(inputs: Sequence[tuple[str, str, Sequence[int]]]) -> Signature:
    specs = tuple(TensorSpec(name, datatype, tuple(shape)) for name, datatype, shape in inputs)
    return Signature(specs, (), all(spec.shape[:1] == (-1,) for spec in specs))
