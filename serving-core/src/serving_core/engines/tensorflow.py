"""The TensorFlow engine: one signature of a SavedModel."""

import logging

from serving_core.errors import ModelFolderInvalid, PredictorFailed
from serving_core.model_folder import ModelFolder
from serving_core.predictor import ModelInfo
from serving_core.tensors import Tensors

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
            self._model = tf.saved_model.load(str(folder.model))
        except (OSError, ValueError, KeyError, tf.errors.OpError) as error:
            raise ModelFolderInvalid(f"TensorFlow cannot load {folder.model}: {error}") from error
        name = folder.signature_name or SIGNATURE
        if name not in self._model.signatures:
            has = ", ".join(self._model.signatures) or "none"
            raise ModelFolderInvalid(
                f"{folder.model} has no signature {name!r}, expected one of: {has}"
            )
        self._signature = self._model.signatures[name]
        signature = self.info.signature
        sources = sorted(self._signature.structured_input_signature[1])
        results = sorted(self._signature.structured_outputs)
        self._inputs = _names(folder, "input", [spec.name for spec in signature.inputs], sources)
        self._outputs = _names(folder, "output", list(signature.output_names), results)
        self._failures = (tf.errors.OpError, ValueError, TypeError)

    def predict(self, inputs: Tensors) -> Tensors:
        """See Predictor.predict."""
        try:
            outputs = self._signature(
                **{self._inputs[name]: self._constant(array) for name, array in inputs.items()}
            )
            return {name: outputs[key].numpy() for name, key in self._outputs.items()}
        except self._failures as error:
            log.exception("TensorFlow failed on a batch")
            raise PredictorFailed("the model failed on this input") from error


def _names(folder: ModelFolder, kind: str, wanted: list[str], has: list[str]) -> dict[str, str]:
    """The signature's name of each tensor of model.json; a single one may have another name."""
    if set(wanted) <= set(has):
        return {name: name for name in wanted}
    if len(wanted) == len(has) == 1:
        return {wanted[0]: has[0]}
    raise ModelFolderInvalid(
        f"{folder.model} has the {kind}s {', '.join(has)}, "
        f"expected {', '.join(wanted)} from model.json"
    )
