"""The engine for everything else: a Python class in model.py."""

import importlib.util
import logging
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving_core.engines.offered import Offered, OfferedTensor
from serving_core.errors import ModelFolderInvalid, PredictorFailed, ServingError
from serving_core.model_folder import ModelFolder
from serving_core.predictor import ModelInfo
from serving_core.tensors import Tensors, TensorSpec

log = logging.getLogger(__name__)

CLASS = "Model"
METHODS = ("load", "predict")
MODULE = "model"  # also in pickles that model.py writes


class PythonPredictor:
    """An instance of the class `Model`."""

    def __init__(self, folder: ModelFolder) -> None:
        """Import model.py, create the model and call its `load` with the folder.

        Raises:
            ModelFolderInvalid: model.py raises, or has no such class; names the file and line.
        """
        self.info: ModelInfo = folder.info
        self._folder = folder.path.resolve()
        kind = _class_of(self._folder)
        try:
            self._model = kind()
            self._model.load(self._folder)
        except Exception as error:
            raise ModelFolderInvalid(_failure(self._folder, "load", error)) from error

    def predict(self, inputs: Tensors) -> Tensors:
        """See Predictor.predict; a ServingError of the model's reaches the caller."""
        own = {
            # A request's arrays may be read-only, which the author of a model cannot know.
            name: array if array.flags.writeable else array.copy()
            for name, array in inputs.items()
        }
        try:
            outputs = self._model.predict(own)
        except ServingError:
            raise
        except Exception as error:
            raise _failed(_failure(self._folder, "predict", error)) from error
        try:
            return self._checked(outputs)
        except ModelFolderInvalid as error:
            raise _failed(str(error)) from error

    def _checked(self, outputs: object) -> Tensors:
        arrays = as_arrays(outputs, self._folder)
        expected = self.info.signature.outputs
        if not expected:  # not known before the first call
            return arrays
        missing = [spec.name for spec in expected if spec.name not in arrays]
        if missing:
            has = ", ".join(map(str, arrays)) or "none"
            raise ModelFolderInvalid(
                f"{self._folder}/model.py: predict returns the outputs {has}, "
                f"expected {', '.join(missing)}"
            )
        return {spec.name: self._of_datatype(arrays[spec.name], spec) for spec in expected}

    def _of_datatype(self, array: NDArray[Any], spec: TensorSpec) -> NDArray[Any]:
        if array.dtype == spec.dtype:
            return array
        if not np.can_cast(array.dtype, spec.dtype, "same_kind"):
            raise ModelFolderInvalid(
                f"{self._folder}/model.py: output {spec.name} has datatype {array.dtype}, "
                f"expected {spec.datatype}"
            )
        return array.astype(spec.dtype)


def as_arrays(outputs: object, folder: Path) -> dict[str, NDArray[Any]]:
    """What `predict` returned, as arrays; strings become objects.

    Raises:
        ModelFolderInvalid: Not a dictionary of arrays.
    """
    if not isinstance(outputs, dict):
        raise ModelFolderInvalid(
            f"{folder}/model.py: predict returns {type(outputs).__name__}, "
            f"expected a dictionary of arrays by the name of the output"
        )
    arrays: dict[str, NDArray[Any]] = {}
    for name, value in outputs.items():
        try:
            array = np.asarray(value)
        except ValueError:
            raise ModelFolderInvalid(
                f"{folder}/model.py: output {name} is ragged, expected an array"
            ) from None
        if array.dtype.kind == "U":
            array = np.char.encode(array, "utf-8")
        arrays[name] = array.astype(np.object_) if array.dtype.kind == "S" else array
    return arrays


def offered(folder: ModelFolder) -> dict[str, Offered]:
    """What the class declares: attributes `inputs` and `outputs`, datatype and shape by name.

    Raises:
        ModelFolderInvalid: See PythonPredictor; or an attribute has another form.
    """
    kind = _class_of(folder.path.resolve())
    inputs = _declared(folder.path, kind, "inputs")
    return {CLASS: Offered(inputs, _declared(folder.path, kind, "outputs") or None)}


def _declared(folder: Path, kind: type[Any], field: str) -> tuple[OfferedTensor, ...]:
    value = getattr(kind, field, {})
    try:
        return tuple(
            OfferedTensor(str(name), str(datatype), tuple(int(size) for size in shape))
            for name, (datatype, shape) in value.items()
        )
    except (AttributeError, TypeError, ValueError):
        raise ModelFolderInvalid(
            f"{folder}/model.py: {CLASS}.{field} is {value!r:.80}, "
            f'expected datatypes and shapes by name, such as {{"x": ("FP32", [-1, 4])}}'
        ) from None


def _class_of(folder: Path) -> type[Any]:
    module = _import(folder)
    kind = getattr(module, CLASS, None)
    lacks = [method for method in METHODS if not callable(getattr(kind, method, None))]
    if not isinstance(kind, type) or lacks:
        what = "has no class Model" if not isinstance(kind, type) else f"Model has no {lacks[0]}"
        raise ModelFolderInvalid(
            f"{folder}/model.py: {what}, expected a class {CLASS} with load(folder) and "
            f"predict(inputs)"
        )
    return kind


def _import(folder: Path) -> ModuleType:
    file = folder / "model.py"
    loaded = sys.modules.get(MODULE)
    if loaded is not None and loaded.__file__ == str(file):
        return loaded
    spec = importlib.util.spec_from_file_location(MODULE, file)
    if spec is None or spec.loader is None:
        raise ModelFolderInvalid(f"{file} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[MODULE] = module
    sys.path.insert(0, str(folder))  # for modules beside model.py
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[MODULE]
        raise ModelFolderInvalid(_failure(folder, "the import", error)) from error
    return module


def _failure(folder: Path, place: str, error: Exception) -> str:
    """Name the module that is not installed, or the line that raised; the log has the rest."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        return (
            f"{folder}/model.py needs the module {error.name}, which is not installed; pip install "
            f"its package beside the server's, for an image as docs/containers.md shows"
        )
    log.exception("model.py failed in %s", place)
    at = [
        (frame.filename, frame.lineno)
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).is_relative_to(folder)
    ]
    if isinstance(error, SyntaxError) and error.filename:
        at.append((error.filename, error.lineno))
    file, line = at[-1] if at else (str(folder / "model.py"), None)
    where = f"{file}, line {line}" if line else file
    return f"{where}: {place} raises {type(error).__name__}; the log has the traceback"


def _failed(reason: str) -> PredictorFailed:
    """An error whose reason the log has, and the caller does not."""
    log.error("%s", reason)
    failed = PredictorFailed("the model failed on this input")
    failed.add_note(reason)
    return failed
