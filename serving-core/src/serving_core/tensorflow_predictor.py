"""The TensorFlow engine: a SavedModel with one input and one output."""

import logging

import numpy as np
from numpy.typing import NDArray

from serving_core.errors import ModelFolderInvalid, PredictorFailed
from serving_core.model_folder import ModelFolder
from serving_core.predictor import ModelInfo, check_batch

log = logging.getLogger(__name__)

SIGNATURE = "serving_default"


class TensorFlowPredictor:
    """A SavedModel's serving signature."""

    def __init__(self, folder: ModelFolder) -> None:
        """Import TensorFlow (seconds) and load.

        Raises:
            ModelFolderInvalid: TensorFlow is not installed or cannot read the SavedModel.
        """
        try:
            import tensorflow as tf
        except ImportError:
            raise ModelFolderInvalid(
                "the engine tensorflow needs the package tensorflow-cpu: "
                "install serving-core with its extra [tensorflow], or use MODEL_ENGINE=litert"
            ) from None
        self.info: ModelInfo = folder.info
        self._constant = tf.constant
        try:
            # Keep the model: a signature has only a weak reference to its variables.
            self._model = tf.saved_model.load(str(folder.saved_model))
            self._signature = self._model.signatures[SIGNATURE]
            (self._input,) = self._signature.structured_input_signature[1]
            (self._output,) = self._signature.structured_outputs
        except (OSError, ValueError, KeyError, tf.errors.OpError) as error:
            raise ModelFolderInvalid(
                f"TensorFlow cannot serve {folder.saved_model}: {error}"
            ) from error
        self._failures = (tf.errors.OpError, ValueError, TypeError)

    def predict(self, instances: NDArray[np.float32]) -> NDArray[np.float32]:
        """See Predictor.predict."""
        check_batch(instances, self.info.features)
        try:
            outputs = self._signature(**{self._input: self._constant(instances)})
            scores: NDArray[np.float32] = outputs[self._output].numpy()
        except self._failures as error:
            log.exception("TensorFlow failed on a batch of %d", len(instances))
            raise PredictorFailed("the model failed on this instance") from error
        return scores
