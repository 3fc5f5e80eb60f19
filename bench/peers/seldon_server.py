"""Seldon Core's Python wrapper: `seldon-core-microservice seldon_server.Mnist`, with its options.

predict_rest and predict_grpc are deprecated in favour of predict_raw, and cost less: after each of
the others the wrapper asks the process that keeps its metrics, whether there are any or not. The
deprecation is logged at every request, hence `--log-level ERROR`. With PAYLOAD_PASSTHROUGH=true
the wrapper leaves JSON to the model.
"""

import numpy as np
import orjson
from seldon_core.proto.prediction_pb2 import SeldonMessage

from model import PIXELS, load


class Mnist:
    """{"data": {"ndarray": [[…]]}} over REST, float32 as binData over gRPC; answers alike."""

    def load(self) -> None:
        """Called in each process that serves."""
        self._model = load()

    def predict_rest(self, request: bytes) -> bytes:
        """In place of the standard library's JSON."""
        images = np.array(orjson.loads(request)["data"]["ndarray"], np.float32)
        answer = {"data": {"ndarray": self._model.predict(images)}}
        return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)

    def predict_grpc(self, request: SeldonMessage) -> SeldonMessage:
        """Bytes cost less than a tensor, which has doubles."""
        images = np.frombuffer(request.binData, np.float32).reshape(-1, PIXELS)
        return SeldonMessage(binData=self._model.predict(images).tobytes())
