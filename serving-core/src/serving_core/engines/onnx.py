"""ONNX Runtime on one thread."""

import logging
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from serving_core.engines.offered import Offered, OfferedTensor
from serving_core.errors import InvalidInput, ModelFolderInvalid, PredictorFailed
from serving_core.model_folder import ModelFolder
from serving_core.predictor import ModelInfo
from serving_core.tensors import ANY, Tensors

log = logging.getLogger(__name__)

_DATATYPES = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}


class OnnxPredictor:
    """A session of ONNX Runtime."""

    def __init__(self, folder: ModelFolder) -> None:
        """Load the file.

        Raises:
            ModelFolderInvalid: ONNX Runtime cannot read it, or its tensors differ from model.json.
        """
        self.info: ModelInfo = folder.info
        self._session = session_of(folder)
        has = {
            "input": [tensor.name for tensor in self._session.get_inputs()],
            "output": [tensor.name for tensor in self._session.get_outputs()],
        }
        signature = self.info.signature
        self._outputs = list(signature.output_names)
        wanted = {"input": [spec.name for spec in signature.inputs], "output": self._outputs}
        for kind, names in wanted.items():
            missing = [name for name in names if name not in has[kind]]
            extra = [name for name in has[kind] if name not in names] if kind == "input" else []
            if missing or extra:
                raise ModelFolderInvalid(
                    f"{folder.model} has the {kind}s {', '.join(has[kind])}, "
                    f"expected {', '.join(names)} from model.json"
                )
        self._texts = [spec.name for spec in signature.inputs if spec.datatype == "BYTES"]

    def predict(self, inputs: Tensors) -> Tensors:
        """See Predictor.predict."""
        if self._texts:
            inputs = {**inputs, **{name: _decoded(inputs[name]) for name in self._texts}}
        try:
            outputs = self._session.run(self._outputs, inputs)
            return dict(zip(self._outputs, outputs, strict=True))
        except Exception as error:  # ONNX Runtime's exceptions have no base class of their own
            log.exception("ONNX Runtime failed on a batch")
            raise PredictorFailed("the model failed on this input") from error


def offered(folder: ModelFolder) -> dict[str, Offered]:
    """The inputs and outputs in the file.

    Raises:
        ModelFolderInvalid: See OnnxPredictor.
    """
    session = session_of(folder)
    return {
        "main": Offered(
            tuple(map(_offered_tensor, session.get_inputs())),
            tuple(map(_offered_tensor, session.get_outputs())),
        )
    }


def _offered_tensor(tensor: Any) -> OfferedTensor:
    # The name of a variable size is a text, an unknown one is None.
    shape = tuple(size if isinstance(size, int) and size > 0 else ANY for size in tensor.shape)
    # ONNX Runtime has an empty shape for an unknown number of dimensions too.
    return OfferedTensor(tensor.name, _DATATYPES.get(tensor.type, tensor.type), shape or None)


def session_of(folder: ModelFolder) -> Any:
    """An InferenceSession.

    Raises:
        ModelFolderInvalid: ONNX Runtime cannot read the file.
    """
    options = onnxruntime.SessionOptions()
    # One thread: each core has a process of its own.
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors
    try:
        return onnxruntime.InferenceSession(
            str(folder.model), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise ModelFolderInvalid(f"ONNX Runtime cannot load {folder.model}: {reason}") from error


def _decoded(texts: NDArray[Any]) -> NDArray[Any]:
    decoded = np.empty(texts.shape, np.object_)
    try:
        decoded.ravel()[:] = [text.decode() for text in texts.ravel()]
    except UnicodeDecodeError:
        raise InvalidInput("an input has a string that is not UTF-8") from None
    return decoded
