"""mosec: Rust takes the requests and forms the batches, one Python process scores them.

`mosec_server.py --port PORT`, with mosec's own options. BATCH is how many requests a batch has at
most, 1 for none; mosec waits for a full one, so the best depends on how many callers there are.
FORM is the format: v1 (the default), v2 or v2-binary.
"""

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import orjson
from mosec import Server, Worker

from model import NAME, PIXELS, Images, Scores, load

BATCH = int(os.environ["BATCH"])
WAIT_MS = 1  # the shortest that mosec takes
IMAGE_BYTES = PIXELS * np.dtype(np.float32).itemsize


def from_v1(data: bytes) -> Images:
    return np.array(orjson.loads(data)["instances"], np.float32)


def to_v1(scores: Scores) -> bytes:
    return orjson.dumps({"predictions": scores}, option=orjson.OPT_SERIALIZE_NUMPY)


def from_v2(data: bytes) -> Images:
    (tensor,) = orjson.loads(data)["inputs"]
    return np.array(tensor["data"], np.float32).reshape(tensor["shape"])


def to_v2(scores: Scores) -> bytes:
    return _v2(scores, {"data": scores.ravel()})


def from_v2_binary(data: bytes) -> Images:
    """One image: mosec does not pass on the header that tells where the JSON ends."""
    (tensor,) = orjson.loads(data[:-IMAGE_BYTES])["inputs"]
    return np.frombuffer(data[-IMAGE_BYTES:], np.float32).reshape(tensor["shape"])


def to_v2_binary(scores: Scores) -> bytes:
    return _v2(scores, {"parameters": {"binary_data_size": scores.nbytes}}) + scores.tobytes()


def _v2(scores: Scores, rest: dict[str, Any]) -> bytes:
    output = {"name": "scores", "datatype": "FP32", "shape": scores.shape, **rest}
    document = {"model_name": NAME, "outputs": [output]}
    return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)


V2 = f"/v2/models/{NAME}/infer"
FORMS: dict[str, tuple[str, Callable[[bytes], Images], Callable[[Scores], bytes]]] = {
    "v1": (f"/v1/models/{NAME}:predict", from_v1, to_v1),
    "v2": (V2, from_v2, to_v2),
    "v2-binary": (V2, from_v2_binary, to_v2_binary),
}
ROUTE, DECODE, ENCODE = FORMS[os.environ.get("FORM", "v1")]


class Mnist(Worker):
    """Images to scores, in one of the formats."""

    def __init__(self) -> None:
        super().__init__()
        self._model = load()

    def deserialize(self, data: bytes) -> Images:
        """In place of the standard library's JSON."""
        return DECODE(data)

    def serialize(self, data: Scores) -> bytes:
        """In place of the standard library's JSON."""
        return ENCODE(data)

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
        route=ROUTE,
    )
    server.run()


if __name__ == "__main__":
    main()
