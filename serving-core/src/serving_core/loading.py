"""Load a model folder into a warmed-up predictor."""

import time
from pathlib import Path

import numpy as np

from serving_core.digits import held_out
from serving_core.errors import ModelFolderInvalid
from serving_core.model_folder import TENSORFLOW, read_model_folder
from serving_core.predictor import MAX_BATCH, Predictor

# An engine with shorter calls may block a server's event loop: the scheduler delays it as long.
FAST_CALL_S = 0.02


def load_predictor(folder: Path, engine: str | None = None, name: str | None = None) -> Predictor:
    """Load a model folder and warm up the model.

    Call it in the serving process, after any fork: the threads of TensorFlow and LiteRT do not
    survive one.

    Args:
        folder: See read_model_folder.
        engine: "litert" or "tensorflow"; by default LiteRT if the folder has its file.
        name: The model's name in responses; by default the name in model.json.

    Raises:
        ModelFolderInvalid: The folder is invalid, or the model fails its warm-up.
    """
    model = read_model_folder(folder, engine, name)
    predictor: Predictor
    # Imported here, so that a process without an engine does not load its library.
    if model.info.engine == TENSORFLOW:
        from serving_core.tensorflow_predictor import TensorFlowPredictor

        predictor = TensorFlowPredictor(model)
    else:
        from serving_core.litert_predictor import LiteRTPredictor

        predictor = LiteRTPredictor(model)
    _warm_up(predictor, folder)
    return predictor


def is_fast(predictor: Predictor) -> bool:
    """Whether the engine is fast enough to run in a server's event loop.

    Measures the shortest of three calls with the maximum batch size.
    """
    instances = np.zeros((MAX_BATCH, predictor.info.features), np.float32)
    durations = []
    for _ in range(3):
        began = time.perf_counter()
        predictor.predict(instances)
        durations.append(time.perf_counter() - began)
    return min(durations) < FAST_CALL_S


def _warm_up(predictor: Predictor, folder: Path) -> None:
    """Score digits with every batch size: the first call with each size is slow."""
    images = held_out().images
    if images.shape[1] != predictor.info.features:
        images = np.zeros((MAX_BATCH, predictor.info.features), np.float32)
    for size in range(1, MAX_BATCH + 1):
        scores = predictor.predict(images[:size])
        if scores.shape != (size, len(predictor.info.classes)) or not np.isfinite(scores).all():
            raise ModelFolderInvalid(
                f"the model in {folder} fails its warm-up: its scores have shape {scores.shape} "
                f"or are not finite"
            )
