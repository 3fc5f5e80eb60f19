"""The TensorFlow engine: one signature of a SavedModel."""

import logging
from functools import lru_cache
from pathlib import Path
from typing import Any

import tensorflow as tf

from serving_core.engines.offered import Offered, OfferedTensor, datatype_name
from serving_core.errors import ModelFolderInvalid, PredictorFailed
from serving_core.model_folder import DEFAULT_SIGNATURE, ModelFolder
from serving_core.predictor import ModelInfo
from serving_core.tensors import ANY, Tensors

log = logging.getLogger(__name__)


class TensorFlowPredictor:
    """A SavedModel's serving signature."""

    def __init__(self, folder: ModelFolder) -> None:
        """Load the SavedModel.

        Raises:
            ModelFolderInvalid: TensorFlow cannot read it, or its signature differs from model.json.
        """
        self.info: ModelInfo = folder.info
        self._constant = tf.constant
        # Keep the model: a signature has only a weak reference to its variables.
        self._model = _load(folder.model)
        name = folder.signature_name or DEFAULT_SIGNATURE
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


@lru_cache(maxsize=1)  # loaded once to read its signatures and to serve it
def _load(folder: Path) -> Any:
    try:
        return tf.saved_model.load(str(folder))
    except (OSError, tf.errors.OpError) as error:
        reason = str(error).partition("\n")[0]
        raise ModelFolderInvalid(f"TensorFlow cannot load {folder}: {reason}") from error
    except Exception as error:  # of any kind, and about TensorFlow's own code
        log.exception("TensorFlow cannot load %s", folder)
        raise ModelFolderInvalid(
            f"TensorFlow {tf.__version__} cannot load {folder}: {type(error).__name__}; "
            f"the log has the traceback; export the model again, with a newer TensorFlow"
        ) from error


def offered(folder: ModelFolder) -> dict[str, Offered]:
    """The SavedModel's signatures.

    Raises:
        ModelFolderInvalid: TensorFlow cannot read the SavedModel.
    """
    return {
        str(name): Offered(
            _offered_tensors(signature.structured_input_signature[1]),
            _offered_tensors(signature.structured_outputs),
        )
        for name, signature in _load(folder.model).signatures.items()
    }


def _offered_tensors(specs: dict[str, Any]) -> tuple[OfferedTensor, ...]:
    return tuple(
        OfferedTensor(
            name,
            "BYTES" if spec.dtype.name == "string" else datatype_name(spec.dtype.as_numpy_dtype),
            None
            if spec.shape.rank is None
            else tuple(ANY if size is None else size for size in spec.shape),
        )
        for name, spec in sorted(specs.items())
    )


def convert_keras(file: Path, target: Path) -> None:
    """Export a .keras or .h5 file as a SavedModel.

    Raises:
        ModelFolderInvalid: Keras cannot load or export the file.
    """
    try:
        tf.keras.models.load_model(file, compile=False).export(target, verbose=False)
    except Exception as error:
        log.exception("Keras cannot convert %s", file)
        raise ModelFolderInvalid(
            f"Keras cannot load {file}: {type(error).__name__}; "
            f"export it where it was trained, with model.export(FOLDER), and import the FOLDER"
        ) from error


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
