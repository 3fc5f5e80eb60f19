"""One model folder behind one Predictor, and the micro-batcher in front of it.

A prediction passes `parse_instance` (instances.py), waits in the `MicroBatcher` (batching.py) and
is scored by a `Predictor` (litert_predictor.py or tensorflow_predictor.py), which `load_predictor`
(loading.py) made from a model folder (model_folder.py).
"""

from model_runtime.batching import MicroBatcher, Scored
from model_runtime.errors import (
    DeadlinePassed,
    ErrorKind,
    InvalidInstances,
    ModelFolderInvalid,
    PredictorFailed,
    PredictorNotReady,
    QueueFull,
    ServingError,
)
from model_runtime.instances import check_instance, parse_instance
from model_runtime.loading import load_predictor
from model_runtime.model_folder import ModelFolder, read_model_folder
from model_runtime.predictor import ModelInfo, Predictor

__all__ = [
    "DeadlinePassed",
    "ErrorKind",
    "InvalidInstances",
    "MicroBatcher",
    "ModelFolder",
    "ModelFolderInvalid",
    "ModelInfo",
    "Predictor",
    "PredictorFailed",
    "PredictorNotReady",
    "QueueFull",
    "Scored",
    "ServingError",
    "check_instance",
    "load_predictor",
    "parse_instance",
    "read_model_folder",
]
