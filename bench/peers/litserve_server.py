"""LitServe: a process takes the requests, another one scores them: `litserve_server.py PORT`.

BATCH is how many requests a batch has at most, 1 for none; LitServe waits for a full one, so the
best depends on how many callers there are.
"""

import os
import sys
from typing import Any

import litserve
import numpy as np
import orjson
from fastapi import Request, Response

from model import NAME, Images, Scores, load

WAIT_S = 0.001


class Mnist(litserve.LitAPI):
    """{"instances": [[…]]} to {"predictions": [[…]]}."""

    def setup(self, device: str) -> None:
        """In the process that scores."""
        self._model = load()

    def decode_request(self, request: Request) -> Images:
        """LitServe wants `Request` here for JSON of any kind; what comes is the document."""
        return np.array(request["instances"], np.float32)

    def batch(self, inputs: list[Images]) -> list[Images]:
        """As they are: predict has to know which images are whose."""
        return inputs

    def predict(self, x: Any) -> Any:
        """Score the images of all the batch's requests at once."""
        if self.max_batch_size == 1:
            return self._model.predict(x)
        scores = self._model.predict(np.concatenate(x))
        ends = np.cumsum([len(images) for images in x])
        return [scores[end - len(images) : end] for images, end in zip(x, ends, strict=True)]

    def encode_response(self, output: Scores) -> Response:
        """In place of the standard library's JSON."""
        body = orjson.dumps({"predictions": output}, option=orjson.OPT_SERIALIZE_NUMPY)
        return Response(body, media_type="application/json")


def main() -> None:
    """Until it is told to end."""
    api = Mnist(
        max_batch_size=int(os.environ["BATCH"]),
        batch_timeout=WAIT_S,
        api_path=f"/v1/models/{NAME}:predict",
    )
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1, timeout=False)
    server.run(
        host="127.0.0.1",
        port=int(sys.argv[1]),
        num_api_servers=1,
        log_level="warning",
        generate_client_file=False,
        access_log=False,  # this one and the two below are uvicorn's
        loop="uvloop",
        http="httptools",
    )


if __name__ == "__main__":
    main()
