"""POST /v1/models/{model}[/versions/{version}]:predict, in row or column format."""

import base64
import re
from http import HTTPStatus
from typing import Any, NamedTuple

import orjson
from numpy.typing import NDArray

from serving_core.batching import Computed
from serving_core.errors import InvalidInput
from serving_core.exchange import InferenceRequest, Served
from serving_core.predictor import ModelInfo
from serving_core.protocols.http import HttpRequest, HttpResponse, check_identity
from serving_core.protocols.json_tensors import (
    MAX_DIMENSIONS,
    array_of,
    check_finite,
    may_hold_booleans,
    parse_object,
    type_name,
)
from serving_core.protocols.open_inference.common import check_model, model_name, text_of
from serving_core.protocols.open_inference.rest import refuse
from serving_core.tensors import TensorSpec

__all__ = ["decode", "encode", "refuse"]

PREFIX, SUFFIX = "/v1/models/", ":predict"
SIGNATURE = "serving_default"

_PATH = re.compile(r"/v1/models/(?P<name>[^/:]+)(/versions/(?P<version>[^/:]+))?:predict")
_DTYPES = {
    "FP32": "DT_FLOAT",
    "FP64": "DT_DOUBLE",
    "FP16": "DT_HALF",
    "BYTES": "DT_STRING",
}


class Options(NamedTuple):
    """What the encoder needs of a request: whether it is in row format."""

    rows: bool


def decode(message: HttpRequest, served: Served) -> InferenceRequest:
    """Decode a predict request.

    Raises:
        InvalidInput: Invalid JSON, or a tensor that differs from the model's.
        ModelNotFound: Another model or version.
    """
    path = _PATH.fullmatch(message.path)
    if path is None:
        raise InvalidInput(f"path is {message.path[:64]!r}, expected {PREFIX}MODEL{SUFFIX}")
    check_model(text_of(path["name"]), text_of(path["version"] or ""), served)
    check_identity(message)
    request = parse_object(message.body)
    check_signature(request.get("signature_name", ""))
    model = served.model
    if ("instances" in request) == ("inputs" in request):
        raise InvalidInput("the body has both or none of instances and inputs, expected one")
    booleans = may_hold_booleans(message.body)
    if "instances" in request:
        columns = _columns(request["instances"], model)
        place = "instances"
    else:
        columns = request["inputs"]
        place = "inputs"
        if len(model.signature.inputs) == 1 and (type(columns) is not dict or "b64" in columns):
            columns = {model.signature.inputs[0].name: columns}
    if type(columns) is not dict:
        raise InvalidInput(f"{place} is {type_name(columns)}, expected an object")
    inputs: dict[str, NDArray[Any]] = {}
    for name, data in columns.items():
        spec = model.signature.input(name)
        inputs[name] = _array(data, spec, f"{place}.{name}", booleans)
    rows = model.signature.check(inputs)
    return InferenceRequest(inputs, rows, "", Options("instances" in request))


def check_signature(name: object) -> None:
    """Check that a request is for the default signature.

    Raises:
        InvalidInput: It names another one.
    """
    if name not in ("", SIGNATURE):
        raise InvalidInput(f"signature_name is {str(name)[:64]!r}, expected {SIGNATURE!r}")


def _columns(instances: object, model: ModelInfo) -> dict[str, list[Any]]:
    """The row format as columns: a list of values by input name."""
    if not model.signature.batched:
        raise InvalidInput(f"model {model.name} has no batch, expected inputs, not instances")
    if type(instances) is not list:
        raise InvalidInput(f"instances is {type_name(instances)}, expected a list of instances")
    if not instances:
        raise InvalidInput("instances is empty, expected at least one")
    names = [spec.name for spec in model.signature.inputs]
    first = instances[0]
    if len(names) == 1 and not (type(first) is dict and set(first) == set(names)):
        return {names[0]: instances}
    for number, instance in enumerate(instances):
        if type(instance) is not dict or set(instance) != set(names):
            raise InvalidInput(
                f"instances[{number}] is {type_name(instance)}, "
                f"expected an object with the inputs {', '.join(names)}"
            )
    return {name: [instance[name] for instance in instances] for name in names}


def _array(data: object, spec: TensorSpec, field: str, booleans: bool) -> NDArray[Any]:
    if spec.datatype == "BYTES":
        data = _decoded(data, field)
    return array_of(data, spec.datatype, field, booleans)


def _decoded(data: object, field: str, depth: int = 0) -> object:
    """Replace each {"b64": …} by its bytes."""
    if type(data) is list:
        if depth == MAX_DIMENSIONS:
            raise InvalidInput(f"{field} is nested deeper than {MAX_DIMENSIONS} lists")
        return [_decoded(item, field, depth + 1) for item in data]
    if type(data) is dict:
        encoded = data.get("b64")
        if type(encoded) is not str or len(data) != 1:
            raise InvalidInput(f'{field} has an object, expected {{"b64": "…"}}')
        try:
            return base64.b64decode(encoded, validate=True)
        except ValueError:  # binascii.Error, or characters beyond ASCII
            raise InvalidInput(f"{field} has a b64 that is no base64") from None
    return data


def encode(
    message: HttpRequest, request: InferenceRequest, computed: Computed, served: Served
) -> HttpResponse:
    """Encode a predict response in the format of the request."""
    options: Options = request.options
    columns = {
        spec.name: _to_json(computed.outputs[spec.name], spec)
        for spec in served.model.signature.outputs
    }
    only = next(iter(columns.values())) if len(columns) == 1 else None
    document: dict[str, object]
    if options.rows:
        rows = (
            only
            if only is not None
            else [
                dict(zip(columns, values, strict=True))
                for values in zip(*columns.values(), strict=True)
            ]
        )
        document = {"predictions": rows}
    else:
        document = {"outputs": columns if only is None else only}
    return HttpResponse(orjson.dumps(document), HTTPStatus.OK)


def _to_json(array: NDArray[Any], spec: TensorSpec) -> list[Any]:
    if spec.datatype == "BYTES":
        texts: list[Any] = _strings(array.tolist())
        return texts
    check_finite(array, spec.name)
    result: list[Any] = array.tolist()
    return result


def _strings(value: Any) -> Any:
    if isinstance(value, list):
        return [_strings(item) for item in value]
    text = value.encode() if isinstance(value, str) else bytes(value)
    try:
        return text.decode()
    except UnicodeDecodeError:
        return {"b64": base64.b64encode(text).decode()}


def model_status(served: Served, ready: bool) -> dict[str, Any]:
    """The document of GET /v1/models/{model}."""
    return {
        "model_version_status": [
            {
                "version": served.model.version,
                "state": "AVAILABLE" if ready else "LOADING",
                "status": {"error_code": "OK", "error_message": ""},
            }
        ]
    }


def model_metadata(served: Served) -> dict[str, Any]:
    """The document of GET /v1/models/{model}/metadata."""
    signature = served.model.signature
    return {
        "model_spec": {
            "name": model_name(served),
            "signature_name": "",
            "version": served.model.version,
        },
        "metadata": {
            "signature_def": {
                "signature_def": {
                    SIGNATURE: {
                        "inputs": {spec.name: _tensor_info(spec) for spec in signature.inputs},
                        "outputs": {spec.name: _tensor_info(spec) for spec in signature.outputs},
                        "method_name": "tensorflow/serving/predict",
                    }
                }
            }
        },
    }


def dtype_name(datatype: str) -> str:
    """TensorFlow's name of a datatype."""
    return _DTYPES.get(datatype, f"DT_{datatype}")


def _tensor_info(spec: TensorSpec) -> dict[str, Any]:
    return {
        "name": spec.name,
        "dtype": dtype_name(spec.datatype),
        "tensor_shape": {
            "dim": [{"size": str(size), "name": ""} for size in spec.shape],
            "unknown_rank": False,
        },
    }
