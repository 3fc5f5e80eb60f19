"""One model folder behind one Predictor, and the micro-batcher in front of it.

A prediction passes `parse_instances` (instances.py), waits in the `MicroBatcher` (batching.py) and
is scored by a `Predictor` (litert_predictor.py or tensorflow_predictor.py), which `load_predictor`
(loading.py) made from a model folder (model_folder.py).
"""

from model_runtime.batching import MicroBatcher, Scored, give_way
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
from model_runtime.instances import (
    MAX_INSTANCES,
    check_instance,
    check_instances,
    parse_instance,
    parse_instances,
)
from model_runtime.loading import is_quick, load_predictor
from model_runtime.model_folder import ModelFolder, read_model_folder
from model_runtime.predictor import ModelInfo, Predictor

__all__ = [
    "MAX_INSTANCES",
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
    "check_instances",
    "give_way",
    "is_quick",
    "load_predictor",
    "parse_instance",
    "parse_instances",
    "read_model_folder",
]
