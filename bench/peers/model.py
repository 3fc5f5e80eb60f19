"""The one model of every peer: LiteRT as one writes it by hand, in float32 and one thread.

MODEL_FOLDER is the model's folder, the released one by default. With NO_MODEL=1 every image is
answered with the same scores: what is left is the framework's own cost.
"""

import os
import threading
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

NAME = "mnist"
PIXELS, CLASSES = 784, 10
_RELEASED = Path(__file__).parents[2] / "models/deep_mnist/1"
_ANSWERED = 3  # `answered` in peers.yaml

Images = NDArray[np.float32]
Scores = NDArray[np.float32]


class Model:
    """An interpreter for each batch size, those up to BATCH prepared before the first request.

    Resizing one costs more than a call, and a batch of exactly its size costs less than one that is
    filled up or taken apart. Preparing one takes 20 to 40 ms: in a measurement of seconds the first
    batches of each size would count against the peer.
    """

    def __init__(self) -> None:
        folder = os.environ.get("MODEL_FOLDER", str(_RELEASED))
        self._file = str(Path(folder) / "model.tflite")
        self._prepared: dict[int, _Prepared] = {}
        self._lock = threading.Lock()  # an interpreter is of one thread; so is the core
        for size in range(1, int(os.environ.get("BATCH", "1")) + 1):
            self.predict(np.zeros((size, PIXELS), np.float32))

    def predict(self, images: Images) -> Scores:
        """Scores of shape (batch, 10) for images of shape (batch, 784)."""
        size = len(images)
        with self._lock:
            prepared = self._prepared.get(size)
            if prepared is None:
                prepared = self._prepared[size] = _Prepared(self._file, size)
            return prepared.run(images)


class _Prepared:
    def __init__(self, file: str, size: int) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self._interpreter = Interpreter(model_path=file, num_threads=1)
        self._input = self._interpreter.get_input_details()[0]["index"]
        self._output = self._interpreter.get_output_details()[0]["index"]
        self._interpreter.resize_tensor_input(self._input, [size, PIXELS])
        self._interpreter.allocate_tensors()

    def run(self, images: Images) -> Scores:
        self._interpreter.set_tensor(self._input, images)
        self._interpreter.invoke()
        scores: Scores = self._interpreter.get_tensor(self._output)
        return scores


class NoModel:
    """The same digit whatever the image shows."""

    def __init__(self) -> None:
        self._scores = np.zeros((1, CLASSES), np.float32)
        self._scores[0, _ANSWERED] = 1

    def predict(self, images: Images) -> Scores:
        """See Model.predict."""
        return np.repeat(self._scores, len(images), axis=0)


def load() -> Model | NoModel:
    """The model, or none of it with NO_MODEL=1."""
    return NoModel() if os.environ.get("NO_MODEL") == "1" else Model()
