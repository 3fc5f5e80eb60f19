"""Load a model folder into a warmed-up predictor."""

import time
from collections.abc import Callable
from importlib import import_module
from math import prod
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving_core.digits import held_out
from serving_core.errors import ModelFolderInvalid, ServingError
from serving_core.model_folder import (
    LITERT,
    ONNX,
    PYTHON,
    TENSORFLOW,
    ModelFolder,
    read_model_folder,
)
from serving_core.predictor import MAX_BATCH, ModelInfo, Predictor
from serving_core.tensors import ANY, Signature, Tensors, fits

# An engine with shorter calls may block a server's event loop: the scheduler delays it as long.
FAST_CALL_S = 0.02

# The outputs of a quantized model are multiples of 1/256: ten of them may miss 1 by 0.02.
_SCORE_TOLERANCE = 1e-3
SUM_TOLERANCE = 0.05

_PREDICTORS = {
    LITERT: "LiteRTPredictor",
    TENSORFLOW: "TensorFlowPredictor",
    ONNX: "OnnxPredictor",
    PYTHON: "PythonPredictor",
}
# What an engine without its package needs.
_NEEDS = {
    LITERT: "ai-edge-litert; pip install -c constraints.txt ./serving-core",
    **{
        engine: f"{package}; pip install -c constraints.txt './serving-core[{engine}]', or build "
        f"the image with make images WITH_{engine.upper()}=1"
        for engine, package in ((TENSORFLOW, "tensorflow-cpu"), (ONNX, "onnxruntime"))
    },
}


def load_predictor(folder: Path, engine: str | None = None, name: str | None = None) -> Predictor:
    """Load a model folder and warm up the model.

    Call it in the serving process, after any fork: the threads of TensorFlow and LiteRT do not
    survive one.

    Args:
        folder: See read_model_folder.
        engine: See read_model_folder.
        name: The model's name in responses; by default the name in model.json.

    Raises:
        ModelFolderInvalid: The folder is invalid, or the model fails its warm-up.
    """
    model = read_model_folder(folder, engine, name)
    if model.info.signature.inputs:
        predictor = create(model)
    else:
        from serving_core.describing import describe  # it needs this module

        _, predictor = describe(model)
    warm_up(predictor, folder)
    return predictor


def create(model: ModelFolder) -> Predictor:
    """Load a model.

    Raises:
        ModelFolderInvalid: The engine's package is missing, or the engine cannot load the model.
    """
    engine = model.info.engine
    kind: Callable[[ModelFolder], Predictor] = getattr(engine_module(engine), _PREDICTORS[engine])
    return kind(model)


def engine_module(engine: str) -> ModuleType:
    """The module of an engine; it alone imports the engine's package.

    Raises:
        ModelFolderInvalid: The package is missing or cannot be imported.
    """
    try:
        return import_module(f"serving_core.engines.{engine}")
    except ImportError as error:
        reason = str(error).partition("\n")[0]
        raise ModelFolderInvalid(
            f"the engine {engine} cannot be imported ({reason}), expected the package "
            f"{_NEEDS[engine]}"
        ) from None


def is_fast(predictor: Predictor) -> bool:
    """Whether the engine is fast enough to run in a server's event loop.

    Measures the shortest of three calls with the maximum batch size.
    """
    inputs = example(predictor.info.signature, MAX_BATCH)
    durations = []
    for _ in range(3):
        began = time.perf_counter()
        predictor.predict(inputs)
        durations.append(time.perf_counter() - began)
    return min(durations) < FAST_CALL_S


def example(signature: Signature, rows: int) -> Tensors:
    """Values within the model's ranges, the same in every call.

    Variable dimensions other than the batch have size 1, strings are empty.
    """
    inputs: dict[str, NDArray[Any]] = {}
    for spec in signature.inputs:
        shape = [
            (rows if signature.batched and axis == 0 else 1) if size == ANY else size
            for axis, size in enumerate(spec.shape)
        ]
        if spec.datatype == "BYTES":
            inputs[spec.name] = np.full(shape, b"", spec.dtype)
            continue
        low, high = spec.usual_range
        # The multiples of the golden ratio spread evenly; numpy.random would cost 3 MB of memory.
        fractions = (np.arange(1, prod(shape) + 1) * 0.6180339887498949) % 1
        values = low + fractions * (high - low)
        if spec.dtype.kind == "b":
            values = np.trunc(values)
        inputs[spec.name] = values.astype(spec.dtype).reshape(shape)
    return inputs


def warm_up(predictor: Predictor, folder: Path) -> None:
    """Compute a batch of every size: the first call with each size is slow.

    Raises:
        ModelFolderInvalid: The outputs differ from model.json, or a classifier's are no
            probabilities.
    """
    signature, view = predictor.info.signature, predictor.info.classifier
    for rows in range(1, MAX_BATCH + 1 if signature.batched else 2):
        inputs = example(signature, rows)
        if view is not None and view.features == held_out().images.shape[1]:
            inputs = view.inputs(held_out().images[:rows])
        try:
            outputs = predictor.predict(inputs)
        except ServingError as error:  # a Python class may refuse the example
            reason = " ".join(getattr(error, "__notes__", [])) or str(error)
            raise ModelFolderInvalid(
                f"the model in {folder} fails its warm-up: {reason}"
            ) from error
        for spec in signature.outputs:
            array = outputs.get(spec.name)
            if array is None or not fits(array.shape, spec.shape):
                has = "missing" if array is None else f"of shape {array.shape}"
                raise ModelFolderInvalid(
                    f"the model in {folder} fails its warm-up: output {spec.name} is {has}, "
                    f"expected {list(spec.shape)}"
                )
            if array.dtype != spec.dtype:
                raise ModelFolderInvalid(
                    f"the model in {folder} fails its warm-up: output {spec.name} has datatype "
                    f"{array.dtype}, expected {spec.datatype}"
                )
            if signature.batched and len(array) != rows:
                raise ModelFolderInvalid(
                    f"the model in {folder} fails its warm-up: output {spec.name} has "
                    f"{len(array)} rows, expected {rows}"
                )
        if view is not None:
            _check_scores(view.scores(outputs), predictor.info, folder)


def _check_scores(scores: NDArray[np.float32], model: ModelInfo, folder: Path) -> None:
    """Check that a classifier's scores are probabilities.

    Raises:
        ModelFolderInvalid: They are not; says what model.json must declare.
    """
    problem = f"the model in {folder} fails its warm-up: its scores"
    if not np.isfinite(scores).all():
        raise ModelFolderInvalid(f"{problem} are not finite")
    low, high = float(scores.min()), float(scores.max())
    if low < -_SCORE_TOLERANCE or high > 1 + _SCORE_TOLERANCE:
        raise ModelFolderInvalid(
            f"{problem} are {low:.3g} to {high:.3g}, expected probabilities; "
            f'write "scores": "logits" into model.json if they are logits, or remove "classes"'
        )
    sums = scores.sum(axis=1)
    if model.scores is None and np.abs(sums - 1).max() > SUM_TOLERANCE:
        raise ModelFolderInvalid(
            f"{problem} sum to {sums[0]:.3g}, expected 1; write into model.json "
            f'"scores": "logits" for logits, or "scores": "probabilities" for classes that do not '
            f"exclude each other"
        )
