"""The default engine: LiteRT with XNNPACK on one thread."""

import logging
from collections.abc import Iterator
from functools import cache

import numpy as np
from ai_edge_litert.interpreter import Interpreter  # type: ignore[import-untyped]
from numpy.typing import NDArray

from serving_core.errors import ModelFolderInvalid, PredictorFailed
from serving_core.mapped_file import release_pages
from serving_core.model_folder import ModelFolder
from serving_core.predictor import MAX_BATCH, ModelInfo, check_batch

log = logging.getLogger(__name__)

# Batch sizes with an interpreter; each has a copy of the weights. A size of 2 or 8 would save
# little (docs/performance-log.md).
PREPARED = (MAX_BATCH, 4, 1)


@cache
def split_batch(instances: int) -> tuple[int, ...]:
    """Split a batch into prepared sizes at the lowest cost; the last part may be padded.

    A call costs about as much as one more image: three images are cheaper as four than singly.
    """
    if instances <= 0:
        return ()
    if instances >= MAX_BATCH:
        full, rest = divmod(instances, MAX_BATCH)
        return (MAX_BATCH,) * full + split_batch(rest)
    ways = [(size, *split_batch(instances - size)) for size in PREPARED]
    return min(ways, key=lambda sizes: sum(sizes) + len(sizes))


class LiteRTPredictor:
    """One interpreter per prepared batch size: resizing one costs more than a call."""

    def __init__(self, folder: ModelFolder) -> None:
        """Create the interpreters.

        Raises:
            ModelFolderInvalid: LiteRT cannot read the file, or its shapes differ from model.json.
        """
        self.info: ModelInfo = folder.info
        try:
            self._interpreters = {size: _PreparedInterpreter(folder, size) for size in PREPARED}
        except (ValueError, RuntimeError) as error:
            raise ModelFolderInvalid(f"LiteRT cannot load {folder.litert_file}: {error}") from error
        # Each interpreter has copied the weights out of the mapped file.
        release_pages(folder.litert_file)

    def predict(self, instances: NDArray[np.float32]) -> NDArray[np.float32]:
        """See Predictor.predict; a batch of another size is split."""
        check_batch(instances, self.info.features)
        prepared = self._interpreters.get(len(instances))
        try:
            if prepared is not None:
                return prepared.run(instances)
            return np.concatenate(list(self._in_parts(instances)))
        except (ValueError, RuntimeError) as error:
            log.exception("LiteRT failed on a batch of %d", len(instances))
            raise PredictorFailed("the model failed on this instance") from error

    def _in_parts(self, instances: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
        start = 0
        for size in split_batch(len(instances)):
            yield self._interpreters[size].run(instances[start : start + size])
            start += size


class _PreparedInterpreter:
    def __init__(self, folder: ModelFolder, batch_size: int) -> None:
        # One thread: each core has a process of its own.
        self._size = batch_size
        self._interpreter = Interpreter(model_path=str(folder.litert_file), num_threads=1)
        (source,) = self._interpreter.get_input_details()
        (result,) = self._interpreter.get_output_details()
        self._input, self._output = source["index"], result["index"]
        self._interpreter.resize_tensor_input(self._input, [batch_size, folder.info.features])
        self._interpreter.allocate_tensors()
        shape = tuple(self._interpreter.get_output_details()[0]["shape"])
        expected = (batch_size, len(folder.info.classes))
        if shape != expected:
            raise ValueError(f"its output has shape {shape}, expected {expected} from model.json")

    def run(self, instances: NDArray[np.float32]) -> NDArray[np.float32]:
        """Score a batch of at most the prepared size; a smaller one is padded."""
        given = len(instances)
        if given < self._size:
            filled = np.zeros((self._size, instances.shape[1]), np.float32)
            filled[:given] = instances
            instances = filled
        self._interpreter.set_tensor(self._input, instances)
        self._interpreter.invoke()
        scores: NDArray[np.float32] = self._interpreter.get_tensor(self._output)
        return scores[:given]
