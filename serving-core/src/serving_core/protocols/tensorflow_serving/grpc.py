"""PredictionService/Predict and GetModelMetadata of TensorFlow Serving."""

from math import prod
from typing import Any

import numpy as np
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from serving_core.batching import Computed
from serving_core.errors import InvalidInput
from serving_core.exchange import InferenceRequest, Served
from serving_core.protocols.grpc import GrpcReply, refuse
from serving_core.protocols.open_inference.common import (
    check_model,
    from_binary,
    model_name,
    output_of,
    reshaped,
    strings_of,
    to_binary,
)
from serving_core.protocols.tensorflow_serving.rest import SIGNATURE, check_signature, dtype_name
from serving_core.tensors import TensorSpec
from tensorflow_serving_pb2 import (
    DataType,
    GetModelMetadataRequest,
    GetModelMetadataResponse,
    ModelSpec,
    PredictRequest,
    PredictResponse,
    SignatureDef,
    SignatureDefMap,
    TensorInfo,
    TensorProto,
    TensorShapeProto,
)

__all__ = ["decode", "encode", "refuse"]

SERVICE = "tensorflow.serving.PredictionService"
_METADATA = "type.googleapis.com/tensorflow.serving.SignatureDefMap"
_FIELDS = {
    "BOOL": "bool_val",
    "INT8": "int_val",
    "INT16": "int_val",
    "INT32": "int_val",
    "INT64": "int64_val",
    "UINT8": "int_val",
    "UINT16": "int_val",
    "UINT32": "uint32_val",
    "UINT64": "uint64_val",
    "FP16": "half_val",
    "FP32": "float_val",
    "FP64": "double_val",
    "BYTES": "string_val",
}


def decode(message: bytes, served: Served) -> InferenceRequest:
    """Decode a PredictRequest.

    Raises:
        InvalidInput: Invalid protobuf, or a tensor that differs from the model's.
        ModelNotFound: Another model or version.
    """
    try:
        request = PredictRequest.FromString(message)
    except DecodeError:
        raise InvalidInput(
            "the request is no tensorflow.serving.PredictRequest: broken protobuf"
        ) from None
    _check_spec(request.model_spec, served)
    model = served.model
    inputs = {
        name: _array(tensor, model.signature.input(name)) for name, tensor in request.inputs.items()
    }
    rows = model.signature.check(inputs)
    outputs = [output_of(model, name) for name in request.output_filter]
    return InferenceRequest(inputs, rows, "", outputs or model.signature.output_names)


def _check_spec(spec: ModelSpec, served: Served) -> None:
    if spec.version_label:
        raise InvalidInput(
            f"model_spec.version_label is {spec.version_label[:64]!r}, expected a version"
        )
    check_model(spec.name, str(spec.version.value) if spec.HasField("version") else "", served)
    check_signature(spec.signature_name)


def _array(tensor: TensorProto, spec: TensorSpec) -> NDArray[Any]:
    """The tensor as an array.

    A single value stands for all elements, as TensorFlow abbreviates tensors.
    """
    expected = dtype_name(spec.datatype)
    if tensor.dtype != DataType.Value(expected):
        known = tensor.dtype in DataType.values()
        actual = DataType.Name(tensor.dtype) if known else tensor.dtype
        raise InvalidInput(f"input {spec.name!r} has dtype {actual}, expected {expected}")
    shape = [dim.size for dim in tensor.tensor_shape.dim]
    if tensor.tensor_shape.unknown_rank or any(size < 0 for size in shape) or len(shape) > 32:
        raise InvalidInput(f"input {spec.name!r} has shape {shape[:32]}, expected sizes from 0")
    count = prod(shape)
    if tensor.tensor_content and spec.datatype != "BYTES":
        array = from_binary(tensor.tensor_content, spec.dtype, spec.name)
    else:
        array = _values(tensor, spec)
        if array.size == 1 and 1 < count * array.itemsize <= _MAX_REPEATED_BYTES:
            array = np.repeat(array, count)
    if array.size != count:
        raise InvalidInput(
            f"input {spec.name!r} has {array.size} elements, expected {count} for its shape {shape}"
        )
    return reshaped(array, shape, spec.name)


# A small message must not cost the inference of a large one.
_MAX_REPEATED_BYTES = 1 << 16


def _values(tensor: TensorProto, spec: TensorSpec) -> NDArray[Any]:
    field = _FIELDS[spec.datatype]
    values = list(getattr(tensor, field))
    if spec.datatype == "BYTES":
        strings = np.empty(len(values), np.object_)
        strings[:] = values
        return strings
    try:
        if spec.datatype == "FP16":
            return np.array(values, np.uint16).view(np.float16)
        return np.array(values, spec.dtype)
    except OverflowError:
        raise InvalidInput(
            f"{field} of input {spec.name!r} has a value beyond the range of {spec.datatype}"
        ) from None


def encode(
    message: bytes, request: InferenceRequest, computed: Computed, served: Served
) -> GrpcReply:
    """Encode a PredictResponse; numbers are in tensor_content."""
    response = PredictResponse(model_spec=_spec(served))
    for spec in served.model.signature.outputs:
        if spec.name not in request.options:
            continue
        array = computed.outputs[spec.name]
        tensor = response.outputs[spec.name]
        tensor.dtype = DataType.Value(dtype_name(spec.datatype))
        for size in array.shape:
            tensor.tensor_shape.dim.add(size=size)
        if spec.datatype == "BYTES":
            tensor.string_val.extend(strings_of(array))
        elif spec.datatype == "FP32":
            # Not every client reads tensor_content of the most common datatype.
            tensor.float_val.extend(array.ravel().tolist())
        else:
            tensor.tensor_content = to_binary(array)
    return GrpcReply(response.SerializeToString())


def _spec(served: Served) -> ModelSpec:
    spec = ModelSpec(name=model_name(served), signature_name=SIGNATURE)
    if served.model.version.isdecimal():
        spec.version.value = int(served.model.version)
    return spec


def model_metadata(message: bytes, served: Served) -> bytes:
    """Reply to a GetModelMetadataRequest.

    Raises:
        InvalidInput: Invalid protobuf, or another field of metadata.
        ModelNotFound: Another model or version.
    """
    try:
        request = GetModelMetadataRequest.FromString(message)
    except DecodeError:
        raise InvalidInput(
            "the request is no tensorflow.serving.GetModelMetadataRequest: broken protobuf"
        ) from None
    _check_spec(request.model_spec, served)
    if list(request.metadata_field) != ["signature_def"]:
        raise InvalidInput(
            f"metadata_field is {list(request.metadata_field)[:4]}, expected ['signature_def']"
        )
    signature = served.model.signature
    signatures = SignatureDefMap(
        signature_def={
            SIGNATURE: SignatureDef(
                inputs={spec.name: _tensor_info(spec) for spec in signature.inputs},
                outputs={spec.name: _tensor_info(spec) for spec in signature.outputs},
                method_name="tensorflow/serving/predict",
            )
        }
    )
    packed = AnyMessage(type_url=_METADATA, value=signatures.SerializeToString())
    response = GetModelMetadataResponse(
        model_spec=_spec(served), metadata={"signature_def": packed}
    )
    return response.SerializeToString()


def _tensor_info(spec: TensorSpec) -> TensorInfo:
    return TensorInfo(
        name=spec.name,
        dtype=DataType.Value(dtype_name(spec.datatype)),
        tensor_shape=TensorShapeProto(dim=[TensorShapeProto.Dim(size=size) for size in spec.shape]),
    )
