"""What REST and gRPC share: names, metadata and binary tensors."""

import struct
from collections.abc import Sequence
from importlib.metadata import version
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from serving_core.errors import InvalidInput, ModelNotFound
from serving_core.exchange import Served
from serving_core.predictor import ModelInfo
from serving_core.tensors import Signature, TensorSpec

SERVER_NAME = "prediction-services"
SERVER_VERSION = version("prediction-services-serving-core")
EXTENSIONS = ("binary_tensor_data",)
PLATFORMS = {
    "litert": "litert_tflite",
    "tensorflow": "tensorflow_savedmodel",
    "onnx": "onnxruntime_onnx",
}

RANGE = ("minimum", "maximum")  # parameters of an input in the model's metadata
BATCHED = "batched"

_LENGTH = struct.Struct("<I")


class Options(NamedTuple):
    """What the encoder needs of a request.

    Attributes:
        id: The caller's id; empty without one.
        outputs: The requested outputs, and whether each is binary.
    """

    id: str
    outputs: dict[str, bool]


def check_model(name: str, model_version: str, served: Served) -> None:
    """Check that a request is for the served model.

    At a gateway, a client's models are the names of its variations: any one may serve the request.

    Raises:
        ModelNotFound: The request names another model or version.
    """
    model = served.model
    names = served.names.split(",") if served.names else [model.name]
    if name not in names:
        expected = ", ".join(names)
        raise ModelNotFound(f"model name is {name[:64]!r}, expected one of: {expected:.300}")
    if model_version not in ("", model.version):
        raise ModelNotFound(
            f"version of model {name[:64]} is {model_version[:64]!r}, expected {model.version!r}"
        )


def model_name(served: Served) -> str:
    """The model's name in responses: behind a gateway, the variation that served the request."""
    return served.variation if served.names else served.model.name


def server_metadata() -> dict[str, Any]:
    """Name, version and extensions of the server."""
    return {"name": SERVER_NAME, "version": SERVER_VERSION, "extensions": list(EXTENSIONS)}


def model_metadata(served: Served) -> dict[str, Any]:
    """Name, versions, platform, inputs with their ranges and outputs of the model."""
    model = served.model
    return {
        "name": model_name(served),
        "versions": [model.version],
        "platform": PLATFORMS.get(model.engine, model.engine),
        **signature_document(model.signature),
    }


def signature_document(signature: Signature) -> dict[str, list[dict[str, Any]]]:
    """The inputs and outputs in a model's metadata.

    The protocol has no word on the batch: the first input of a model without one says so.
    """
    inputs = _tensors(signature.inputs)
    if not signature.batched:
        inputs[0].setdefault("parameters", {})[BATCHED] = False
    return {"inputs": inputs, "outputs": _tensors(signature.outputs)}


def _tensors(specs: Sequence[TensorSpec]) -> list[dict[str, Any]]:
    tensors: list[dict[str, Any]] = []
    for spec in specs:
        tensor: dict[str, Any] = {
            "name": spec.name,
            "datatype": spec.datatype,
            "shape": list(spec.shape),
        }
        if spec.request_range is not None:
            # MLServer's extension of the protocol; a client that does not know it skips it.
            tensor["parameters"] = dict(zip(RANGE, spec.request_range, strict=True))
        tensors.append(tensor)
    return tensors


def output_of(model: ModelInfo, name: object) -> str:
    """The name of a requested output.

    Raises:
        InvalidInput: The model has none of that name.
    """
    names = model.signature.output_names
    if name not in names:
        has = ", ".join(names)
        raise InvalidInput(f"output name is {str(name)[:64]!r}, expected one of: {has}")
    return str(name)


def dtype_of(signature: Signature, name: str, datatype: str) -> np.dtype[Any]:
    """The dtype of an input, which must have the model's datatype.

    Raises:
        InvalidInput: Unknown input, or another datatype.
    """
    spec = signature.input(name)
    if datatype != spec.datatype:
        raise InvalidInput(
            f"input {name!r} has datatype {str(datatype)[:32]!r}, expected {spec.datatype!r}"
        )
    return spec.dtype


def shaped(array: NDArray[Any], shape: Sequence[int], name: str) -> NDArray[Any]:
    """An array in the stated shape.

    Raises:
        InvalidInput: A negative size, or another number of elements.
    """
    if any(size < 0 for size in shape) or len(shape) > 32:
        raise InvalidInput(f"input {name!r} has shape {list(shape)[:32]}, expected sizes from 0")
    if prod(shape) != array.size:
        raise InvalidInput(
            f"input {name!r} has {array.size} elements, expected {prod(shape)} "
            f"for its shape {list(shape)}"
        )
    return reshaped(array, shape, name)


def reshaped(array: NDArray[Any], shape: Sequence[int], name: str) -> NDArray[Any]:
    """An array in a shape with as many elements.

    Raises:
        InvalidInput: numpy has no such shape: a size is too large.
    """
    try:
        return array.reshape(shape)
    except (ValueError, OverflowError):
        raise InvalidInput(
            f"input {name!r} has shape {list(shape)}, which has a size that is too large"
        ) from None


def text_of(part: str) -> str:
    """A part of a path, whose escapes are decoded to bytes as latin-1."""
    return part.encode("latin-1").decode("utf-8", "replace")


def from_binary(data: bytes | memoryview, dtype: np.dtype[Any], name: str) -> NDArray[Any]:
    """Decode the elements of a tensor: little-endian, strings with their length before them.

    Raises:
        InvalidInput: Not a whole number of elements.
    """
    if dtype.kind == "O":
        return _strings(bytes(data), name)
    if len(data) % dtype.itemsize:
        raise InvalidInput(
            f"input {name!r} has {len(data)} bytes, expected a multiple of {dtype.itemsize}"
        )
    if dtype.kind == "b" and not set(data) <= {0, 1}:
        raise InvalidInput(f"input {name!r} has a byte other than 0 and 1, expected booleans")
    # Copied: the engine needs aligned memory, which a part of a message may not have.
    return np.frombuffer(data, dtype.newbyteorder("<")).astype(dtype)


def _strings(data: bytes, name: str) -> NDArray[Any]:
    strings: list[bytes] = []
    at = 0
    while at < len(data):
        start = at + _LENGTH.size
        if start > len(data):
            raise InvalidInput(f"input {name!r} ends within the length of a string")
        (length,) = _LENGTH.unpack_from(data, at)
        at = start + length
        if at > len(data):
            raise InvalidInput(f"input {name!r} ends within a string of {length} bytes")
        strings.append(data[start:at])
    array = np.empty(len(strings), np.object_)
    array[:] = strings
    return array


def to_binary(array: NDArray[Any]) -> bytes:
    """Encode the elements of a tensor, as `from_binary` decodes them."""
    if array.dtype.kind == "O":
        return b"".join(_LENGTH.pack(len(text)) + text for text in map(_as_bytes, array.ravel()))
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def strings_of(array: NDArray[Any]) -> list[bytes]:
    """The elements of a tensor of strings."""
    return [_as_bytes(text) for text in array.ravel()]


def _as_bytes(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else bytes(text)
