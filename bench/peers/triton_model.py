"""The model for Triton's Python backend; triton_server.py makes it the server's `model.py`."""

from typing import Any

import numpy as np
import triton_python_backend_utils as triton

from model import load


class TritonPythonModel:
    """One FP32 tensor of shape (batch, 784) to one of shape (batch, 10)."""

    def initialize(self, args: dict[str, str]) -> None:
        """Before the first request."""
        self._model = load()

    def execute(self, requests: list[Any]) -> list[Any]:
        """Score the images of all the batch's requests at once."""
        images = [
            triton.get_input_tensor_by_name(request, "instances").as_numpy() for request in requests
        ]
        scores = self._model.predict(np.concatenate(images))
        ends = np.cumsum([len(one) for one in images])
        return [
            triton.InferenceResponse([triton.Tensor("scores", scores[end - len(one) : end])])
            for one, end in zip(images, ends, strict=True)
        ]
