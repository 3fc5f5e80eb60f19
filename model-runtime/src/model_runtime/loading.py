"""From a folder to a predictor that has scored a real digit."""

import time
from pathlib import Path

import numpy as np

from model_runtime.digits import held_out
from model_runtime.errors import ModelFolderInvalid
from model_runtime.model_folder import TENSORFLOW, read_model_folder
from model_runtime.predictor import MAX_BATCH, Predictor

# An engine whose calls are shorter may keep a server's loop waiting: the scheduler does as much.
QUICK_S = 0.02


def load_predictor(folder: Path, engine: str | None = None, name: str | None = None) -> Predictor:
    """Load a model folder and warm it up.

    Call it in the process that serves, after any fork: neither TensorFlow nor LiteRT's
    threads survive one.

    Args:
        folder: See read_model_folder.
        engine: "litert" or "tensorflow"; by default LiteRT where its file is there.
        name: What answers call the model; by default the name in model.json.

    Raises:
        ModelFolderInvalid: The folder is unsound, or the model's first answer is.
    """
    model = read_model_folder(folder, engine, name)
    predictor: Predictor
    # Imported here: a process that never asks for an engine must not pay for it.
    if model.info.engine == TENSORFLOW:
        from model_runtime.tensorflow_predictor import TensorFlowPredictor

        predictor = TensorFlowPredictor(model)
    else:
        from model_runtime.litert_predictor import LiteRTPredictor

        predictor = LiteRTPredictor(model)
    _warm_up(predictor, folder)
    return predictor


def is_quick(predictor: Predictor) -> bool:
    """Whether its calls are so short that a server's loop can make them between two requests.

    Calls it three times with the largest batch; the shortest counts.
    """
    instances = np.zeros((MAX_BATCH, predictor.info.features), np.float32)
    durations = []
    for _ in range(3):
        began = time.perf_counter()
        predictor.predict(instances)
        durations.append(time.perf_counter() - began)
    return min(durations) < QUICK_S


def _warm_up(predictor: Predictor, folder: Path) -> None:
    """Score real digits in batches of every size: the first call of each is the slow one."""
    images = held_out().images
    if images.shape[1] != predictor.info.features:
        images = np.zeros((MAX_BATCH, predictor.info.features), np.float32)
    for size in range(1, MAX_BATCH + 1):
        scores = predictor.predict(images[:size])
        if scores.shape != (size, len(predictor.info.classes)) or not np.isfinite(scores).all():
            raise ModelFolderInvalid(
                f"the model in {folder} answers its warm-up with shape {scores.shape} "
                f"or values that are not finite"
            )
