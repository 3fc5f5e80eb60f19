"""Plain grpcio with a pool of threads: `grpcio_server.py PORT`."""

import sys
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np

from model import CLASSES, PIXELS, load
from open_inference_pb2 import ModelInferRequest, ModelInferResponse
from open_inference_pb2_grpc import (
    GRPCInferenceServiceServicer,
    add_GRPCInferenceServiceServicer_to_server,
)

THREADS = 8


class Servicer(GRPCInferenceServiceServicer):
    """Numbers come and go as raw bytes."""

    def __init__(self) -> None:
        self._model = load()

    def ModelInfer(  # noqa: N802
        self, request: ModelInferRequest, context: grpc.ServicerContext
    ) -> ModelInferResponse:
        """Score one image or several."""
        images = np.frombuffer(request.raw_input_contents[0], np.float32)
        if len(images) % PIXELS:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "expected rows of 784 numbers")
        scores = self._model.predict(images.reshape(-1, PIXELS))
        response = ModelInferResponse(
            model_name=request.model_name, raw_output_contents=[scores.tobytes()]
        )
        response.outputs.add(name="scores", datatype="FP32", shape=(len(scores), CLASSES))
        return response


def main() -> None:
    server = grpc.server(ThreadPoolExecutor(THREADS))
    add_GRPCInferenceServiceServicer_to_server(Servicer(), server)
    server.add_insecure_port(f"127.0.0.1:{sys.argv[1]}")
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    main()
