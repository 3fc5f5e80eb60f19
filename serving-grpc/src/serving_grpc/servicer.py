"""Seldon/Classify on raw bytes: status, metadata and metrics here, the messages in wire.py.

The handler takes and gives bytes. grpc would answer a request that its own deserializer cannot
read with INTERNAL; read here, it is the caller's INVALID_ARGUMENT with a text that says why.
"""

import logging
import time

import grpc

import seldon_pb2
from model_runtime import ErrorKind, MicroBatcher, Scored, ServingError
from monitoring.metrics import ServingMetrics
from serving_grpc import wire

log = logging.getLogger(__name__)

SERVICE = seldon_pb2.DESCRIPTOR.services_by_name["Seldon"].full_name

STATUS = {
    ErrorKind.INVALID_ARGUMENT: grpc.StatusCode.INVALID_ARGUMENT,
    ErrorKind.NOT_READY: grpc.StatusCode.UNAVAILABLE,
    ErrorKind.OVERLOADED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    ErrorKind.DEADLINE_EXCEEDED: grpc.StatusCode.DEADLINE_EXCEEDED,
    ErrorKind.INTERNAL: grpc.StatusCode.INTERNAL,
}

CLIENT_KEY = "x-seldon-client"
VARIATION_KEY = "x-seldon-variation"
TIMING_KEY = "server-timing"

# A deadline beyond this is none: a caller may send one that no clock can wait for.
_LONGEST_DEADLINE_S = 86_400.0


class SeldonServicer:
    """Answers Classify from one micro-batcher."""

    def __init__(self, batcher: MicroBatcher, metrics: ServingMetrics) -> None:
        """`metrics` counts every call, whatever its end."""
        self._batcher = batcher
        self._metrics = metrics
        self._info = batcher.info

    def Classify(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        """Score one ClassificationRequest; see seldon.proto."""
        started = time.perf_counter()
        client, variation = _caller(context)
        status, details = grpc.StatusCode.OK, ""
        reply = b""
        scored: Scored | None = None
        with self._metrics.in_flight():
            try:
                instance, puid = wire.read_request(request, self._info.features)
                scored = self._batcher.submit(instance, _timeout_s(context))
                reply = wire.write_reply(scored.scores, self._info, puid, variation)
            except ServingError as error:
                status, details = STATUS[error.kind], str(error)
            except Exception:  # whatever it is, the caller gets no traceback
                log.exception("Classify failed")
                status, details = grpc.StatusCode.INTERNAL, "the server failed on this request"
            total_s = time.perf_counter() - started
            context.set_trailing_metadata(((TIMING_KEY, wire.server_timing(total_s, scored)),))
        if scored is None:
            self._metrics.observe(client, variation, status.name, total_s)
        else:
            self._metrics.observe(
                client,
                variation,
                status.name,
                total_s,
                scored.queue_s,
                scored.compute_s,
                scored.batch_size,
            )
        if status is not grpc.StatusCode.OK:
            context.abort(status, details)
        return reply

    def handlers(self) -> "dict[str, grpc.RpcMethodHandler[bytes, bytes]]":
        """The service's method handlers, on bytes both ways."""
        return {"Classify": grpc.unary_unary_rpc_method_handler(self.Classify)}


def _caller(context: grpc.ServicerContext) -> tuple[str, str]:
    """Client and variation, as the gateway's metadata names them."""
    client, variation = "direct", "default"
    for key, value in context.invocation_metadata():
        if key == VARIATION_KEY:
            variation = str(value) or variation
        elif key == CLIENT_KEY:
            client = str(value) or client
    return client, variation


def _timeout_s(context: grpc.ServicerContext) -> float | None:
    remaining_s = context.time_remaining()
    if remaining_s is None or remaining_s > _LONGEST_DEADLINE_S:
        return None
    return remaining_s
