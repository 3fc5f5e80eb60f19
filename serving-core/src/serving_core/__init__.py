"""The core of the model servers: a model, its batcher, and the life of a request.

`load_predictor` (loading.py) loads a model folder (model_folder.py) into an engine (engines/), the
`MicroBatcher` (batching.py) queues requests for it, and an `Exchange` (exchange.py) takes one
request of any protocol (protocols/) from its arrival to its reply.
"""

from serving_core.batching import Computed, MicroBatcher, yield_core
from serving_core.errors import (
    DeadlinePassed,
    ErrorKind,
    InvalidInput,
    ModelFolderInvalid,
    ModelNotFound,
    PredictorFailed,
    PredictorNotReady,
    QueueFull,
    ServerFailed,
    ServingError,
)
from serving_core.exchange import DataPlane, Exchange, InferenceRequest, Served
from serving_core.loading import is_fast, load_predictor
from serving_core.model_folder import ModelFolder, read_model_folder
from serving_core.predictor import Classifier, ModelInfo, Predictor
from serving_core.tensors import Signature, Tensors, TensorSpec

__all__ = [
    "Classifier",
    "Computed",
    "DataPlane",
    "DeadlinePassed",
    "ErrorKind",
    "Exchange",
    "InferenceRequest",
    "InvalidInput",
    "MicroBatcher",
    "ModelFolder",
    "ModelFolderInvalid",
    "ModelInfo",
    "ModelNotFound",
    "Predictor",
    "PredictorFailed",
    "PredictorNotReady",
    "QueueFull",
    "Served",
    "ServerFailed",
    "ServingError",
    "Signature",
    "TensorSpec",
    "Tensors",
    "is_fast",
    "load_predictor",
    "read_model_folder",
    "yield_core",
]
