"""Seldon/Classify on serialised messages, which wire.py decodes and encodes."""

import logging
import time
from functools import partial

import grpc

import seldon_pb2
from monitoring.metrics import ServingMetrics
from serving_core import ErrorKind, MicroBatcher, Scored, ServingError
from serving_grpc import wire
from serving_grpc.call_loop import Call, Metadata

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

NO_MESSAGE = "the call has no message, expected one"

# A longer deadline counts as none: a client may send one beyond the range of timers.
_MAX_DEADLINE_S = 86_400.0


class SeldonServicer:
    """Serves Classify with one micro-batcher."""

    def __init__(self, batcher: MicroBatcher, metrics: ServingMetrics) -> None:
        """`metrics` counts every RPC, whatever its status."""
        self._batcher = batcher
        self._metrics = metrics
        self._info = batcher.info

    def classify(self, call: Call) -> None:
        """Serve one ClassificationRequest of seldon.proto; the engine thread sends the reply."""
        started = time.perf_counter()
        self._metrics.begin()
        puid = ""

        def end(outcome: Scored | Exception) -> None:
            self._end(call, started, puid, outcome)

        if call.message is None:
            self._end_without_message(call, started)
            return
        try:
            instance, puid = wire.read_request(call.message, self._info.features)
            self._batcher.enqueue(instance, end, _timeout_s(call))
        except Exception as error:  # the client never receives a traceback
            end(error)

    def _end_without_message(self, call: Call, started: float) -> None:
        """Refuse an RPC without a message; most are cancelled, and counted as such."""
        client, variation = _caller(call.metadata)
        total_s = time.perf_counter() - started

        def count(cancelled: bool) -> None:
            status = grpc.StatusCode.CANCELLED if cancelled else grpc.StatusCode.INVALID_ARGUMENT
            self._metrics.observe(client, variation, status.name, total_s)

        call.on_closed = count
        timing = ((TIMING_KEY, wire.server_timing(total_s, None)),)
        call.respond(grpc.StatusCode.INVALID_ARGUMENT, NO_MESSAGE, None, timing)

    def _end(self, call: Call, started: float, puid: str, outcome: Scored | Exception) -> None:
        client, variation = _caller(call.metadata)
        status, details, reply = grpc.StatusCode.OK, "", None
        scored = None
        try:
            if not isinstance(outcome, Scored):
                raise outcome
            scored = outcome
            reply = wire.write_reply(scored.scores, self._info, puid, variation)
        except ServingError as error:
            status, details = STATUS[error.kind], str(error)
        except Exception:
            log.exception("Classify failed")
            status, details = grpc.StatusCode.INTERNAL, "the server failed on this request"
        total_s = time.perf_counter() - started
        times = (scored.queue_s, scored.compute_s, scored.batch_size) if scored else ()
        count = partial(self._metrics.observe, client, variation, status.name, total_s, *times)
        timing = ((TIMING_KEY, wire.server_timing(total_s, scored)),)
        call.respond(status, details, reply, timing, count)


def _caller(metadata: Metadata) -> tuple[str, str]:
    """Client and variation from the gateway's metadata."""
    client, variation = "direct", "default"
    for key, value in metadata:
        if key == VARIATION_KEY:
            variation = str(value) or variation
        elif key == CLIENT_KEY:
            client = str(value) or client
    return client, variation


def _timeout_s(call: Call) -> float | None:
    remaining_s = call.remaining_s
    if remaining_s is None or remaining_s > _MAX_DEADLINE_S:
        return None
    return remaining_s
