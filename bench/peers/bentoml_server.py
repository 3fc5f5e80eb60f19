"""BentoML with its adaptive batches: `bentoml serve bentoml_server:Mnist`, with its own options.

BATCH is how many images a batch has at most, 1 for none. BentoML learns what a batch costs, and
by that how long it is worth waiting for more.
"""

import os
from typing import Annotated, Any

import bentoml
import numpy as np
from bentoml.validators import DType

from model import NAME, load

BATCH = int(os.environ["BATCH"])
OPTIONS: dict[str, Any] = {"batchable": True, "max_batch_size": BATCH} if BATCH > 1 else {}


@bentoml.service(
    name=NAME,
    workers=1,
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
)
class Mnist:
    """{"instances": [[…]]} to [[…]]: a batch is taken apart only where it is an array."""

    def __init__(self) -> None:
        self._model = load()

    @bentoml.api(route=f"/v1/models/{NAME}:predict", **OPTIONS)
    async def predict(self, instances: Annotated[np.ndarray, DType("float32")]) -> np.ndarray:
        """In the event loop itself: there is one core."""
        return self._model.predict(instances)
