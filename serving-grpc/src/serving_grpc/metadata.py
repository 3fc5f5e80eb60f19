"""Calls that compute nothing: readiness and metadata of the model, by grpcio's threads."""

from collections.abc import Callable
from typing import Any

import grpc

import open_inference_pb2 as pb
from serving_core import ModelInfo, Served, ServingError
from serving_core.protocols.grpc import CODES
from serving_core.protocols.open_inference import common
from serving_core.protocols.open_inference import grpc as open_inference
from serving_core.protocols.tensorflow_serving import grpc as tensorflow_serving
from serving_grpc.servicer import MODELS_KEY, VARIATION_KEY


class MetadataCalls:
    """Readiness and metadata of one model."""

    def __init__(self, model: ModelInfo, ready: Callable[[], bool]) -> None:
        """`ready` is whether predictions are served."""
        self._model = model
        self._ready = ready

    def add_to(self, server: grpc.Server) -> None:
        """Register the calls."""
        for service, calls in (
            (
                pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name,
                {
                    "ServerLive": _handler(pb.ServerLiveRequest, self._server_live),
                    "ServerReady": _handler(pb.ServerReadyRequest, self._server_ready),
                    "ModelReady": _handler(pb.ModelReadyRequest, self._model_ready),
                    "ServerMetadata": _handler(pb.ServerMetadataRequest, self._server_metadata),
                    "ModelMetadata": _handler(pb.ModelMetadataRequest, self._model_metadata),
                },
            ),
            (
                tensorflow_serving.SERVICE,
                {"GetModelMetadata": _handler(bytes, self._signatures)},
            ),
        ):
            server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, calls),))

    def _server_live(
        self, request: pb.ServerLiveRequest, context: grpc.ServicerContext
    ) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    def _server_ready(
        self, request: pb.ServerReadyRequest, context: grpc.ServicerContext
    ) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=self._ready())

    def _model_ready(
        self, request: pb.ModelReadyRequest, context: grpc.ServicerContext
    ) -> pb.ModelReadyResponse:
        common.check_model(request.name, request.version, self._served(context))
        return pb.ModelReadyResponse(ready=self._ready())

    def _server_metadata(
        self, request: pb.ServerMetadataRequest, context: grpc.ServicerContext
    ) -> pb.ServerMetadataResponse:
        return pb.ServerMetadataResponse(**common.server_metadata())

    def _model_metadata(
        self, request: pb.ModelMetadataRequest, context: grpc.ServicerContext
    ) -> pb.ModelMetadataResponse:
        served = self._served(context)
        common.check_model(request.name, request.version, served)
        return open_inference.model_metadata(served)

    def _signatures(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        return tensorflow_serving.model_metadata(request, self._served(context))

    def _served(self, context: grpc.ServicerContext) -> Served:
        metadata = dict(context.invocation_metadata())
        variation = str(metadata.get(VARIATION_KEY, ""))
        return Served.by(self._model, variation, str(metadata.get(MODELS_KEY, "")))


def _handler(request_type: Any, call: Callable[[Any, grpc.ServicerContext], Any]) -> Any:
    """A handler of a unary call; a ServingError becomes its status.

    With `bytes` the messages stay encoded.
    """

    def reply(request: Any, context: grpc.ServicerContext) -> Any:
        try:
            return call(request, context)
        except ServingError as error:
            context.abort(grpc.StatusCode[CODES[error.kind]], str(error))

    if request_type is bytes:
        return grpc.unary_unary_rpc_method_handler(reply)
    return grpc.unary_unary_rpc_method_handler(
        reply, request_type.FromString, lambda message: message.SerializeToString()
    )
