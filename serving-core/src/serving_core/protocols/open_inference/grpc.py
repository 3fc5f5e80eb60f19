"""ModelInfer of open_inference.proto, with typed or raw contents."""

from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from open_inference_pb2 import (
    InferTensorContents,
    ModelInferRequest,
    ModelInferResponse,
    ModelMetadataResponse,
)
from serving_core.batching import Computed
from serving_core.errors import InvalidInput
from serving_core.exchange import InferenceRequest, Served
from serving_core.protocols.grpc import GrpcReply, refuse
from serving_core.protocols.open_inference import common
from serving_core.protocols.open_inference.common import (
    Options,
    check_model,
    dtype_of,
    from_binary,
    model_name,
    output_of,
    shaped,
    strings_of,
    to_binary,
)

__all__ = ["decode", "encode", "model_metadata", "refuse"]

_FIELDS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
# Elements of these have a fixed width in protobuf: one packed run is the array itself. By datatype
# the tag of the run.
_FIXED = {
    "FP32": bytes([InferTensorContents.FP32_CONTENTS_FIELD_NUMBER << 3 | 2]),
    "FP64": bytes([InferTensorContents.FP64_CONTENTS_FIELD_NUMBER << 3 | 2]),
}
_REQUEST_TYPE = ModelInferRequest.DESCRIPTOR.full_name
_SHARED_MEMORY = "shared_memory_region"


def decode(message: bytes, served: Served) -> InferenceRequest:
    """Decode a ModelInferRequest.

    Raises:
        InvalidInput: Invalid protobuf, or a tensor that differs from the model's.
        ModelNotFound: Another model or version.
    """
    try:
        request = ModelInferRequest.FromString(message)
    except DecodeError:
        raise InvalidInput(f"the request is no {_REQUEST_TYPE}: broken protobuf") from None
    check_model(request.model_name, request.model_version, served)
    model, raw = served.model, request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise InvalidInput(
            f"raw_input_contents has {len(raw)} tensors, expected {len(request.inputs)}, "
            f"one for each input"
        )
    inputs: dict[str, NDArray[Any]] = {}
    for number, tensor in enumerate(request.inputs):
        name = tensor.name
        if name in inputs:
            raise InvalidInput(f"input {name!r} appears twice")
        dtype = dtype_of(model.signature, name, tensor.datatype)
        if tensor.parameters and _SHARED_MEMORY in tensor.parameters:
            raise InvalidInput(f"input {name!r} is in shared memory, expected it in the request")
        if raw:
            array = from_binary(raw[number], dtype, name)
        else:
            array = _from_contents(tensor.contents, tensor.datatype, dtype, name)
        inputs[name] = shaped(array, tensor.shape, name)
    rows = model.signature.check(inputs)
    names = [output_of(model, output.name) for output in request.outputs]
    outputs = dict.fromkeys(names or model.signature.output_names, bool(raw))
    return InferenceRequest(inputs, rows, request.id, Options(request.id, outputs))


def _from_contents(
    contents: InferTensorContents, datatype: str, dtype: np.dtype[Any], name: str
) -> NDArray[Any]:
    field = _FIELDS.get(datatype)
    if field is None:
        raise InvalidInput(f"input {name!r} has datatype {datatype}, expected raw_input_contents")
    others = [other.name for other, _ in contents.ListFields() if other.name != field]
    if others:
        raise InvalidInput(f"input {name!r} has {others[0]}, expected {field} for {datatype}")
    if datatype in _FIXED:
        # The field is alone in the message: its encoding is a tag, a length and the elements.
        contents.DiscardUnknownFields()
        encoded = contents.SerializeToString()
        elements = memoryview(encoded)[_head(encoded) :]
        return np.frombuffer(elements, dtype.newbyteorder("<")).astype(dtype)
    values = list(getattr(contents, field))
    if datatype == "BYTES":
        array = np.empty(len(values), np.object_)
        array[:] = values
        return array
    try:
        return np.array(values, dtype)
    except OverflowError:
        limits = np.iinfo(dtype)
        index = next(i for i, v in enumerate(values) if not limits.min <= v <= limits.max)
        raise InvalidInput(
            f"{field}[{index}] of input {name!r} is {values[index]}, beyond the range of {datatype}"
        ) from None


def _head(encoded: bytes) -> int:
    """Bytes of the tag and the length in front of a packed run; 0 of an empty message."""
    if not encoded:
        return 0
    at = 1
    while encoded[at] > 0x7F:
        at += 1
    return at + 1


def encode(
    message: bytes, request: InferenceRequest, computed: Computed, served: Served
) -> GrpcReply:
    """Encode a ModelInferResponse, raw if the request was."""
    response = ModelInferResponse(
        model_name=model_name(served), model_version=served.model.version, id=request.id
    )
    options: Options = request.options
    for spec in served.model.signature.outputs:
        raw = options.outputs.get(spec.name)
        if raw is None:
            continue
        array = computed.outputs[spec.name]
        tensor = response.outputs.add(name=spec.name, datatype=spec.datatype, shape=array.shape)
        if raw:
            response.raw_output_contents.append(to_binary(array))
            continue
        field = _FIELDS.get(spec.datatype)
        if field is None:
            raise InvalidInput(
                f"output {spec.name!r} has datatype {spec.datatype}, "
                f"which only raw contents can hold; send raw_input_contents"
            )
        if spec.datatype == "BYTES":
            tensor.contents.bytes_contents.extend(strings_of(array))
        elif spec.datatype in _FIXED:
            data = to_binary(array)
            tensor.contents.ParseFromString(_FIXED[spec.datatype] + _varint(len(data)) + data)
        else:
            getattr(tensor.contents, field).extend(array.ravel().tolist())
    return GrpcReply(response.SerializeToString())


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def model_metadata(served: Served) -> ModelMetadataResponse:
    """Name, versions, platform, inputs with their ranges and outputs of the model."""
    document = common.model_metadata(served)
    for tensor in (*document["inputs"], *document["outputs"]):
        if "parameters" in tensor:
            tensor["parameters"] = {
                name: {"bool_param" if value is False else "double_param": value}
                for name, value in tensor["parameters"].items()
            }
    return ModelMetadataResponse(**document)
