"""mosec: Rust takes the requests and forms the batches, one Python process scores them.

`mosec_server.py --port PORT`, with mosec's own options. BATCH is how many requests a batch has at
most, 1 for none; mosec waits for a full one, so the best depends on how many callers there are.
"""

import os
from typing import Any

import numpy as np
import orjson
from mosec import Server, Worker

from model import NAME, Images, Scores, load

BATCH = int(os.environ["BATCH"])
WAIT_MS = 1  # the shortest that mosec takes


class Mnist(Worker):
    """{"instances": [[…]]} to {"predictions": [[…]]}."""

    def __init__(self) -> None:
        super().__init__()
        self._model = load()

    def deserialize(self, data: bytes) -> Images:
        """In place of the standard library's JSON."""
        return np.array(orjson.loads(data)["instances"], np.float32)

    def serialize(self, data: Scores) -> bytes:
        """In place of the standard library's JSON."""
        return orjson.dumps({"predictions": data}, option=orjson.OPT_SERIALIZE_NUMPY)

    def forward(self, data: Any) -> Any:
        """Score the images of all the batch's requests at once."""
        if BATCH == 1:
            return self._model.predict(data)
        scores = self._model.predict(np.concatenate(data))
        ends = np.cumsum([len(images) for images in data])
        return [scores[end - len(images) : end] for images, end in zip(data, ends, strict=True)]


def main() -> None:
    server = Server()
    server.append_worker(
        Mnist,
        num=1,
        max_batch_size=BATCH,
        max_wait_time=WAIT_MS,
        route=f"/v1/models/{NAME}:predict",
    )
    server.run()


if __name__ == "__main__":
    main()
