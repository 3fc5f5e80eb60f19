"""POST /api/v1.0/predictions."""

from http import HTTPStatus
from typing import Any

import orjson

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
from serving_core.protocols.open_inference.common import model_name
from serving_core.protocols.open_inference.rest import STATUS
from serving_core.protocols.seldon_core.common import choose_puid, inputs_of, names, only_tensors

PATH = "/api/v1.0/predictions"


def decode(message: HttpRequest, served: Served) -> InferenceRequest:
    """Decode a prediction request, `{"data": {"ndarray": …}}` or `{"data": {"tensor": …}}`.

    Raises:
        InvalidInput: Invalid JSON, or data that differs from the model's input.
    """
    check_identity(message)
    document = parse_object(message.body)
    source, _ = only_tensors(served.model)
    data = object_of(document.get("data"), "data")
    if ("ndarray" in data) == ("tensor" in data):
        raise InvalidInput("data has both or none of ndarray and tensor, expected one")
    booleans = may_hold_booleans(message.body)
    if "ndarray" in data:
        values = array_of(data["ndarray"], source.datatype, "data.ndarray", booleans)
    else:
        tensor = object_of(data["tensor"], "data.tensor")
        flat = array_of(tensor.get("values"), source.datatype, "data.tensor.values", booleans)
        values = _shaped(flat, tensor.get("shape"))
    meta = object_of(document.get("meta") or {}, "meta")
    puid = meta.get("puid", "")
    if type(puid) is not str:
        raise InvalidInput(f"meta.puid is {type_name(puid)}, expected a string")
    inputs = inputs_of(values, source, "data")
    rows = served.model.signature.check(inputs)
    return InferenceRequest(inputs, rows, choose_puid(puid), "ndarray" in data)


def _shaped(flat: Any, shape: object) -> Any:
    if type(shape) is not list or not all(type(size) is int and size >= 0 for size in shape):
        raise InvalidInput(f"data.tensor.shape is {str(shape)[:64]}, expected a list of sizes")
    try:
        return flat.reshape(shape)
    except ValueError:
        raise InvalidInput(
            f"data.tensor has {flat.size} values, expected as many as its shape {shape} has"
        ) from None


def encode(
    message: HttpRequest, request: InferenceRequest, computed: Computed, served: Served
) -> HttpResponse:
    """Encode a response in the form of the request."""
    _, result = only_tensors(served.model)
    output = computed.outputs[result.name]
    check_finite(output, result.name)
    data: dict[str, Any] = {"names": names(served.model, output)}
    if request.options:
        data["ndarray"] = output.tolist()
    else:
        data["tensor"] = {"shape": list(output.shape), "values": output.ravel().tolist()}
    meta = {"puid": request.id, "requestPath": {model_name(served): served.model.version}}
    return HttpResponse(orjson.dumps({"data": data, "meta": meta}), HTTPStatus.OK)


def refuse(message: HttpRequest, error: ServingError) -> HttpResponse:
    """Encode an error."""
    status = STATUS[error.kind]
    document = {
        "status": {
            "code": status.value,
            "info": str(error),
            "reason": error.kind.name,
            "status": "FAILURE",
        }
    }
    headers = (("Retry-After", "1"),) if error.kind is ErrorKind.OVERLOADED else ()
    return HttpResponse(orjson.dumps(document), status, JSON, headers)
