"""The default engine: LiteRT with XNNPACK, one thread; weights as the model's file has them."""

import logging

import numpy as np
from ai_edge_litert.interpreter import Interpreter  # type: ignore[import-untyped]
from numpy.typing import NDArray

from model_runtime.errors import ModelFolderInvalid, PredictorFailed
from model_runtime.mapped_file import give_back
from model_runtime.model_folder import ModelFolder
from model_runtime.predictor import MAX_BATCH, ModelInfo, check_batch

log = logging.getLogger(__name__)

# Each takes a copy of the weights. By two an image costs hardly less than alone, by eight no less
# than by four (docs/performance.md).
PREPARED = (1, 4, MAX_BATCH)


class LiteRTPredictor:
    """One prepared interpreter for each batch size: resizing one costs more than a call."""

    def __init__(self, folder: ModelFolder) -> None:
        """Load and allocate.

        Raises:
            ModelFolderInvalid: LiteRT cannot read the file, or its shapes are not model.json's.
        """
        self.info: ModelInfo = folder.info
        try:
            self._interpreters = {
                size: _PreparedInterpreter(folder, size) for size in reversed(PREPARED)
            }
        except (ValueError, RuntimeError) as error:
            raise ModelFolderInvalid(f"LiteRT cannot load {folder.litert_file}: {error}") from error
        # Each has mapped the file and copied the weights into an order of its own.
        give_back(folder.litert_file)

    def predict(self, instances: NDArray[np.float32]) -> NDArray[np.float32]:
        """See Predictor.predict; a batch that is no prepared size is scored in parts."""
        check_batch(instances, self.info.features)
        prepared = self._interpreters.get(len(instances))
        try:
            if prepared is not None:
                return prepared.run(instances)
            return np.concatenate([run.run(part) for run, part in self._parts(instances)])
        except (ValueError, RuntimeError) as error:
            log.exception("LiteRT failed on a batch of %d", len(instances))
            raise PredictorFailed("the model failed on this instance") from error

    def _parts(
        self, instances: NDArray[np.float32]
    ) -> "list[tuple[_PreparedInterpreter, NDArray[np.float32]]]":
        parts = []
        start = 0
        for size, prepared in self._interpreters.items():  # largest first
            while len(instances) - start >= size:
                parts.append((prepared, instances[start : start + size]))
                start += size
        return parts


class _PreparedInterpreter:
    def __init__(self, folder: ModelFolder, batch_size: int) -> None:
        # One thread: the process has one core, the other cores have processes of their own.
        self._interpreter = Interpreter(model_path=str(folder.litert_file), num_threads=1)
        (source,) = self._interpreter.get_input_details()
        (result,) = self._interpreter.get_output_details()
        self._input, self._output = source["index"], result["index"]
        self._interpreter.resize_tensor_input(self._input, [batch_size, folder.info.features])
        self._interpreter.allocate_tensors()
        shape = tuple(self._interpreter.get_output_details()[0]["shape"])
        expected = (batch_size, len(folder.info.classes))
        if shape != expected:
            raise ValueError(f"its output has shape {shape}, model.json says {expected}")

    def run(self, instances: NDArray[np.float32]) -> NDArray[np.float32]:
        self._interpreter.set_tensor(self._input, instances)
        self._interpreter.invoke()
        scores: NDArray[np.float32] = self._interpreter.get_tensor(self._output)
        return scores
