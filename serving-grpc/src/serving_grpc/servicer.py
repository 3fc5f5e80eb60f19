"""Serves the methods of predictions; serving_core has their protocols."""

import time
from collections.abc import Callable

import grpc

import open_inference_pb2
import seldon_core_pb2
import seldon_pb2
from serving_core import DataPlane, Exchange, ModelNotFound, Served
from serving_core.exchange import Codec, server_timing
from serving_core.protocols.grpc import GrpcReply
from serving_core.protocols.open_inference import grpc as open_inference
from serving_core.protocols.open_inference.common import check_model
from serving_core.protocols.seldon import grpc as seldon
from serving_core.protocols.seldon_core import grpc as seldon_core
from serving_core.protocols.tensorflow_serving import grpc as tensorflow_serving
from serving_grpc.call_loop import Call, Metadata

SELDON = seldon_pb2.DESCRIPTOR.services_by_name["Seldon"].full_name
OPEN_INFERENCE = open_inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name
SELDON_CORE = seldon_core_pb2.DESCRIPTOR.services_by_name["Seldon"].full_name
SERVICES = (SELDON, OPEN_INFERENCE, SELDON_CORE, tensorflow_serving.SERVICE)

# Methods of predictions, which the call loop serves.
CODECS: dict[str, Codec[bytes, GrpcReply]] = {
    f"/{SELDON}/Classify": seldon,
    f"/{OPEN_INFERENCE}/ModelInfer": open_inference,
    f"/{SELDON_CORE}/Predict": seldon_core,
    f"/{tensorflow_serving.SERVICE}/Predict": tensorflow_serving,
}

CLIENT_KEY = "x-seldon-client"
VARIATION_KEY = "x-seldon-variation"
MODELS_KEY = "x-seldon-models"
# Seldon Core's ingress routes by it, and its messages name no model.
DEPLOYMENT_KEY = "seldon"
TIMING_KEY = "server-timing"

NO_MESSAGE = "the call has no message, expected one"

# A longer deadline counts as none: a client may send one beyond the range of timers.
_MAX_DEADLINE_S = 86_400.0


def serve(plane: DataPlane, codec: Codec[bytes, GrpcReply], call: Call) -> None:
    """Serve one RPC; the engine thread sends the reply."""
    client, variation, models, deployment = _caller(call.metadata)
    if call.message is None:
        _refuse_without_message(plane, call, client, variation)
        return

    def send(reply: GrpcReply, timing: str, count: Callable[[], None]) -> None:
        status = grpc.StatusCode[reply.code]
        call.respond(status, reply.details, reply.message, ((TIMING_KEY, timing),), count)

    served = Served.by(plane.batcher.info, variation, models)
    exchange = Exchange(plane, codec, client, served, send)
    if deployment and served.names and codec is seldon_core:
        try:
            check_model(deployment, "", served)
        except ModelNotFound as error:
            exchange.refuse(call.message, error)
            return
    exchange.start(call.message, _timeout_s(call))


def _refuse_without_message(plane: DataPlane, call: Call, client: str, variation: str) -> None:
    """Refuse an RPC without a message; most are cancelled, and counted as such."""
    started = time.perf_counter()
    plane.metrics.begin()

    def count(cancelled: bool) -> None:
        code = "CANCELLED" if cancelled else "INVALID_ARGUMENT"
        plane.metrics.observe(
            client or "direct", variation or "default", code, time.perf_counter() - started
        )

    call.on_closed = count
    timing = ((TIMING_KEY, server_timing(time.perf_counter() - started)),)
    call.respond(grpc.StatusCode.INVALID_ARGUMENT, NO_MESSAGE, None, timing)


def _caller(metadata: Metadata) -> tuple[str, str, str, str]:
    """Client, variation and models from the gateway's metadata, and the caller's deployment.

    Those that are missing are empty, as without a gateway.
    """
    client = variation = models = deployment = ""
    for key, value in metadata:
        if key == VARIATION_KEY:
            variation = str(value)
        elif key == CLIENT_KEY:
            client = str(value)
        elif key == MODELS_KEY:
            models = str(value)
        elif key == DEPLOYMENT_KEY:
            deployment = str(value)
    return client, variation, models, deployment


def _timeout_s(call: Call) -> float | None:
    remaining_s = call.remaining_s
    if remaining_s is None or remaining_s > _MAX_DEADLINE_S:
        return None
    return remaining_s
