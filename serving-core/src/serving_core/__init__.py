"""Model loading, inference and dynamic batching.

`parse_instances` (instances.py) parses a request, the `MicroBatcher` (batching.py) queues it, and a
`Predictor` (litert_predictor.py or tensorflow_predictor.py) scores it. `load_predictor`
(loading.py) creates the predictor from a model folder (model_folder.py).
"""

from serving_core.batching import MicroBatcher, Scored, yield_core
from serving_core.errors import (
    DeadlinePassed,
    ErrorKind,
    InvalidInstances,
    ModelFolderInvalid,
    PredictorFailed,
    PredictorNotReady,
    QueueFull,
    ServingError,
)
from serving_core.instances import (
    MAX_INSTANCES,
    check_instance,
    check_instances,
    parse_instance,
    parse_instances,
)
from serving_core.loading import is_fast, load_predictor
from serving_core.model_folder import ModelFolder, read_model_folder
from serving_core.predictor import ModelInfo, Predictor

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
    "is_fast",
    "load_predictor",
    "parse_instance",
    "parse_instances",
    "read_model_folder",
    "yield_core",
]
