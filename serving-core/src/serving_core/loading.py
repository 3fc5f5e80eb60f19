"""Load a model folder into a warmed-up predictor."""

import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import numpy as np

from serving_core.digits import held_out
from serving_core.errors import ModelFolderInvalid, PredictorFailed
from serving_core.model_folder import (
    LITERT,
    ONNX,
    PYTHON,
    TENSORFLOW,
    ModelFolder,
    read_model_folder,
)
from serving_core.predictor import MAX_BATCH, Predictor
from serving_core.tensors import ANY, Signature, Tensors, fits

# An engine with shorter calls may block a server's event loop: the scheduler delays it as long.
FAST_CALL_S = 0.02

PREDICTORS = {
    LITERT: "serving_core.engines.litert:LiteRTPredictor",
    TENSORFLOW: "serving_core.engines.tensorflow:TensorFlowPredictor",
    ONNX: "serving_core.engines.onnx:OnnxPredictor",
    PYTHON: "serving_core.engines.python:PythonPredictor",
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
    predictor = _engine(model.info.engine)(model)
    _warm_up(predictor, folder)
    return predictor


def _engine(name: str) -> Callable[[ModelFolder], Predictor]:
    """The predictor's class, imported here: a process does not load another engine's library."""
    module, _, attribute = PREDICTORS[name].partition(":")
    kind: Callable[[ModelFolder], Predictor] = getattr(import_module(module), attribute)
    return kind


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
    """Inputs of zeros, or empty strings; variable dimensions other than the batch have size 1."""
    return {
        spec.name: np.full(
            [
                (rows if signature.batched and axis == 0 else 1) if size == ANY else size
                for axis, size in enumerate(spec.shape)
            ],
            b"" if spec.datatype == "BYTES" else 0,
            spec.dtype,
        )
        for spec in signature.inputs
    }


def _warm_up(predictor: Predictor, folder: Path) -> None:
    """Compute a batch of every size: the first call with each size is slow.

    Raises:
        ModelFolderInvalid: The outputs differ from model.json, or a classifier's are not finite.
    """
    signature, view = predictor.info.signature, predictor.info.classifier
    for rows in range(1, MAX_BATCH + 1 if signature.batched else 2):
        inputs = example(signature, rows)
        if view is not None and view.features == held_out().images.shape[1]:
            inputs = view.inputs(held_out().images[:rows])
        try:
            outputs = predictor.predict(inputs)
        except PredictorFailed as error:
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
        if view is not None and not np.isfinite(view.scores(outputs)).all():
            raise ModelFolderInvalid(
                f"the model in {folder} fails its warm-up: its scores are not finite"
            )
