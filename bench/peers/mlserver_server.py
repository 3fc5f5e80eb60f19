"""MLServer with a runtime of its own: `mlserver_server.py HTTP_PORT GRPC_PORT`.

BATCH is how many requests a batch has at most, 1 for none; MLServer waits for a full one, so the
best depends on how many callers there are.
"""

import asyncio
import os
import sys

import numpy as np
from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput
from mlserver.utils import install_uvloop_event_loop

from model import CLASSES, NAME, PIXELS, load

WAIT_S = 0.001


class Mnist(MLModel):
    """One FP32 tensor of shape (batch, 784) to one of shape (batch, 10)."""

    async def load(self) -> bool:
        """Before the first request."""
        self._model = load()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """In the event loop itself: there is one core."""
        images = np.array(payload.inputs[0].data.root, np.float32).reshape(-1, PIXELS)
        scores = self._model.predict(images)
        output = ResponseOutput(
            name="scores",
            shape=[len(scores), CLASSES],
            datatype="FP32",
            data=scores.ravel().tolist(),
        )
        return InferenceResponse(model_name=NAME, outputs=[output])


async def main() -> None:
    """Until it is told to end."""
    settings = Settings(
        debug=False,  # nor access logs
        host="127.0.0.1",
        http_port=int(sys.argv[1]),
        grpc_port=int(sys.argv[2]),
        parallel_workers=0,
        metrics_endpoint=None,
        gzip_enabled=False,
    )
    model = ModelSettings(
        name=NAME,
        implementation=Mnist,
        max_batch_size=int(os.environ["BATCH"]),
        max_batch_time=WAIT_S,
    )
    await MLServer(settings).start([model])


if __name__ == "__main__":
    install_uvloop_event_loop()  # as `mlserver start` does
    asyncio.run(main())
