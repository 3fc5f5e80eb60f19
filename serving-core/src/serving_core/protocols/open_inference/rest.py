"""POST /v2/models/{model}[/versions/{version}]/infer, with JSON or binary tensors."""

import re
from http import HTTPStatus
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from serving_core.batching import Computed
from serving_core.errors import ErrorKind, InvalidInput, ServingError
from serving_core.exchange import InferenceRequest, Served
from serving_core.protocols.http import JSON, HttpRequest, HttpResponse, check_identity
from serving_core.protocols.json_tensors import (
    array_of,
    check_finite,
    may_hold_booleans,
    object_of,
    parse_object,
    type_name,
)
from serving_core.protocols.open_inference.common import (
    Options,
    check_model,
    dtype_of,
    from_binary,
    model_name,
    output_of,
    shaped,
    strings_of,
    text_of,
    to_binary,
)

PREFIX, SUFFIX = "/v2/models/", "/infer"
METHODS = ("POST",)
HEADER_LENGTH = "Inference-Header-Content-Length"
BINARY = "application/octet-stream"

STATUS = {
    ErrorKind.INVALID_ARGUMENT: HTTPStatus.BAD_REQUEST,
    ErrorKind.NOT_FOUND: HTTPStatus.NOT_FOUND,
    ErrorKind.NOT_READY: HTTPStatus.SERVICE_UNAVAILABLE,
    ErrorKind.OVERLOADED: HTTPStatus.TOO_MANY_REQUESTS,
    ErrorKind.DEADLINE_EXCEEDED: HTTPStatus.GATEWAY_TIMEOUT,
    ErrorKind.INTERNAL: HTTPStatus.INTERNAL_SERVER_ERROR,
}

_PATH = re.compile(r"/v2/models/(?P<name>[^/]+)(/versions/(?P<version>[^/]+))?/infer")


def decode(message: HttpRequest, served: Served) -> InferenceRequest:
    """Decode an inference request.

    Raises:
        InvalidInput: Invalid JSON, or a tensor that differs from the model's.
        ModelNotFound: Another model or version.
    """
    path = _PATH.fullmatch(message.path)
    if path is None:
        raise InvalidInput(f"path is {message.path[:64]!r}, expected {PREFIX}MODEL{SUFFIX}")
    check_model(text_of(path["name"]), text_of(path["version"] or ""), served)
    check_identity(message)
    text, binary = _split(message)
    request = parse_object(text)
    model = served.model
    identifier = _string(request.get("id", ""), "id")
    inputs: dict[str, NDArray[Any]] = {}
    booleans = may_hold_booleans(text)
    at = 0
    for number, item in enumerate(_list(request.get("inputs"), "inputs")):
        place = f"inputs[{number}]"
        tensor = object_of(item, place)
        name = _string(tensor.get("name"), f"{place}.name")
        if name in inputs:
            raise InvalidInput(f"input {name!r} appears twice")
        datatype = _string(tensor.get("datatype"), f"{place}.datatype")
        dtype = dtype_of(model.signature, name, datatype)
        shape = _shape(tensor.get("shape"), f"{place}.shape")
        size = _parameters(tensor, place).get("binary_data_size")
        if size is not None:
            if type(size) is not int or size < 0 or at + size > len(binary):
                raise InvalidInput(
                    f"{place}.parameters.binary_data_size is {size!r:.40}, expected at most the "
                    f"{len(binary) - at} bytes behind the JSON"
                )
            array = from_binary(binary[at : at + size], dtype, name)
            at += size
        else:
            if "data" not in tensor:
                raise InvalidInput(f"{place}.data is missing, expected a list")
            array = array_of(tensor["data"], datatype, f"{place}.data", booleans)
        inputs[name] = shaped(array, shape, name)
    if at != len(binary):
        raise InvalidInput(f"{len(binary) - at} bytes behind the JSON belong to no input")
    rows = model.signature.check(inputs)
    options = Options(identifier, _requested(request, served))
    return InferenceRequest(inputs, rows, identifier, options)


def _split(message: HttpRequest) -> tuple[bytes, memoryview]:
    """The JSON, and the binary tensors behind it."""
    text = message.header_length
    if not text:
        return message.body, memoryview(b"")
    digits = text.isascii() and text.isdigit() and len(text) < 20
    if not digits or int(text) > len(message.body):
        raise InvalidInput(
            f"{HEADER_LENGTH} is {text[:32]!r}, expected at most the {len(message.body)} bytes "
            f"of the body"
        )
    length = int(text)
    return message.body[:length], memoryview(message.body)[length:]


def _requested(request: dict[str, Any], served: Served) -> dict[str, bool]:
    """The requested outputs, and whether each is binary."""
    all_binary = _parameters(request, "the body").get("binary_data_output") is True
    outputs: dict[str, bool] = {}
    for number, item in enumerate(_list(request.get("outputs", []), "outputs")):
        place = f"outputs[{number}]"
        output = object_of(item, place)
        name = output_of(served.model, output.get("name"))
        outputs[name] = _parameters(output, place).get("binary_data", all_binary) is True
    return outputs or dict.fromkeys(served.model.signature.output_names, all_binary)


def _parameters(document: dict[str, Any], place: str) -> dict[str, Any]:
    parameters = document.get("parameters")
    if not parameters:
        return {}
    checked = object_of(parameters, f"{place}.parameters")
    if "shared_memory_region" in checked:
        raise InvalidInput(f"{place} is in shared memory, expected it in the request")
    return checked


def _list(value: object, place: str) -> list[Any]:
    if type(value) is not list:
        raise InvalidInput(f"{place} is {type_name(value)}, expected a list")
    return value


def _string(value: object, place: str) -> str:
    if type(value) is not str:
        raise InvalidInput(f"{place} is {type_name(value)}, expected a string")
    return value


def _shape(value: object, place: str) -> list[int]:
    shape = _list(value, place)
    if not all(type(size) is int for size in shape):
        raise InvalidInput(f"{place} is {str(shape)[:64]}, expected a list of integers")
    return shape


def encode(
    message: HttpRequest, request: InferenceRequest, computed: Computed, served: Served
) -> HttpResponse:
    """Encode an inference response; binary tensors come behind the JSON."""
    options: Options = request.options
    outputs: list[dict[str, Any]] = []
    binary: list[bytes] = []
    for spec in served.model.signature.outputs:
        as_binary = options.outputs.get(spec.name)
        if as_binary is None:
            continue
        array = computed.outputs[spec.name]
        output: dict[str, Any] = {
            "name": spec.name,
            "datatype": spec.datatype,
            "shape": list(array.shape),
        }
        if as_binary:
            binary.append(to_binary(array))
            output["parameters"] = {"binary_data_size": len(binary[-1])}
        else:
            output["data"] = _to_json(array, spec.name)
        outputs.append(output)
    document: dict[str, Any] = {
        "model_name": model_name(served),
        "model_version": served.model.version,
        "outputs": outputs,
    }
    if options.id:
        document["id"] = options.id
    body = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    if not binary:
        return HttpResponse(body, HTTPStatus.OK)
    headers = ((HEADER_LENGTH, str(len(body))),)
    return HttpResponse(body + b"".join(binary), HTTPStatus.OK, BINARY, headers)


def _to_json(array: NDArray[Any], name: str) -> object:
    """The elements in row-major order."""
    if array.dtype.kind == "O":
        try:
            return [text.decode() for text in strings_of(array)]
        except UnicodeDecodeError:
            raise InvalidInput(
                f"output {name!r} has a string that is not UTF-8; request it as binary data"
            ) from None
    check_finite(array, name)
    return np.ascontiguousarray(array).ravel()


def refuse(message: HttpRequest, error: ServingError) -> HttpResponse:
    """Encode an error."""
    headers = (("Retry-After", "1"),) if error.kind is ErrorKind.OVERLOADED else ()
    return HttpResponse(orjson.dumps({"error": str(error)}), STATUS[error.kind], JSON, headers)
