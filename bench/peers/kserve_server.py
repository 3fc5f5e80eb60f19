"""KServe's Python server, with its own options: `kserve_server.py --http_port N --grpc_port N`."""

import asyncio
import copy
from typing import Any

import numpy as np
import uvloop
from kserve import InferRequest, InferResponse, Model, ModelServer
from kserve.logging import KSERVE_LOG_CONFIG, configure_logging
from kserve.utils.utils import get_predict_response

from model import NAME, PIXELS, load


class Mnist(Model):
    """V1 and V2 over HTTP, V2 over gRPC."""

    def __init__(self) -> None:
        super().__init__(NAME)
        self._model = load()
        self.ready = True

    def predict(
        self, payload: Any, headers: Any = None, response_headers: Any = None
    ) -> dict[str, Any] | InferResponse:
        """In the event loop itself: there is one core."""
        if isinstance(payload, InferRequest):
            return self._v2(payload)
        images = np.array(payload["instances"], np.float32)
        return {"predictions": self._model.predict(images).tolist()}

    def _v2(self, request: InferRequest) -> InferResponse:
        scores = self._model.predict(request.inputs[0].as_numpy().reshape(-1, PIXELS))
        response: InferResponse = get_predict_response(request, scores, NAME)
        return response


def without_access_logs() -> dict[str, Any]:
    """KServe's own configuration, with nothing said of a request that went well."""
    config: dict[str, Any] = copy.deepcopy(KSERVE_LOG_CONFIG)
    for name in ("kserve", "kserve.trace"):
        config["loggers"][name]["level"] = "WARNING"
    config["loggers"]["uvicorn.access"]["handlers"] = []
    return config


if __name__ == "__main__":
    # KServe's option --event-loop does not reach the loop of a single worker.
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    asyncio.set_event_loop(asyncio.new_event_loop())
    configure_logging(without_access_logs())
    ModelServer(workers=1, enable_latency_logging=False).start([Mnist()])
