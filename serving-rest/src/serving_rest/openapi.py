"""The OpenAPI 3.1 document of the REST server, from the signature of its model."""

from typing import Any

from serving_core import Served, TensorSpec
from serving_core.protocols.open_inference.common import SERVER_VERSION, model_name
from serving_core.tensors import ANY

Schema = dict[str, Any]

_ERROR = {"error": {"type": "string"}}
_SELDON_ERROR = {
    "error_id": {"type": "integer"},
    "error_msg": {"type": "string"},
    "http_response": {"type": "integer"},
}
_STATUS = {
    "status": {
        "type": "object",
        "properties": {
            "code": {"type": "integer"},
            "info": {"type": "string"},
            "reason": {"type": "string"},
            "status": {"const": "FAILURE"},
        },
    }
}


def document(served: Served) -> Schema:
    """Describe the endpoints that a client of the gateway can call."""
    signature = served.model.signature
    name = _parameter("name", served.names.split(",") if served.names else [served.model.name])
    version = _parameter("version", [served.model.version])
    inputs = {spec.name: _tensor(spec) for spec in signature.inputs}
    outputs = {spec.name: _tensor(spec) for spec in signature.outputs}
    paths: dict[str, Schema] = {
        "/v2": _get("Server metadata", _V2_SERVER),
        "/v2/health/live": _get("Whether the server runs", _object(live={"type": "boolean"})),
        "/v2/health/ready": _get("Whether the model can compute", _object(ready=_BOOLEAN)),
        "/api/v1.0/predictions": _post(
            "Predict (Seldon Core)",
            _object(data=_object(ndarray=_any(inputs)), required=("data",)),
            _object(data=_object(names=_list(_STRING), ndarray=_any(outputs)), meta={}),
            _STATUS,
        ),
    }
    tensors = _list({"oneOf": [_v2_tensor(spec) for spec in signature.inputs]})
    results = _list({"oneOf": [_v2_tensor(spec) for spec in signature.outputs]})
    rows = _list(_row(inputs) if signature.batched else {})
    for prefix, parameters in (
        ("/models/{name}", [name]),
        ("/models/{name}/versions/{version}", [name, version]),
    ):
        paths[f"/v2{prefix}"] = _get("Model metadata", _V2_MODEL, parameters)
        paths[f"/v2{prefix}/ready"] = _get(
            "Whether the model can compute", _object(name=_STRING, ready=_BOOLEAN), parameters
        )
        paths[f"/v2{prefix}/infer"] = _post(
            "Infer (Open Inference Protocol)",
            _object(id=_STRING, inputs=tensors, required=("inputs",)),
            _object(id=_STRING, model_name=_STRING, model_version=_STRING, outputs=results),
            _ERROR,
            parameters,
        )
        paths[f"/v1{prefix}"] = _get(
            "Model status", _object(model_version_status=_list({"type": "object"})), parameters
        )
        paths[f"/v1{prefix}/metadata"] = _get(
            "Model metadata", _object(model_spec={}, metadata={}), parameters
        )
        paths[f"/v1{prefix}:predict"] = _post(
            "Predict (TensorFlow Serving)",
            {
                "oneOf": [
                    _object(instances=rows, required=("instances",)),
                    _object(inputs={}, required=("inputs",)),
                ]
            },
            _object(predictions={}, outputs={}),
            _ERROR,
            parameters,
        )
    if served.model.classifier is not None:
        paths["/predict"] = _post(
            "Predict (Seldon Server)",
            _object(data={}, meta=_object(puid=_STRING), required=("data",)),
            _object(meta=_object(puid=_STRING), predictions=_list({"type": "object"}), custom={}),
            _SELDON_ERROR,
        )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": f"Prediction services: {model_name(served)}",
            "version": SERVER_VERSION,
        },
        "paths": paths,
        "components": {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
        # A server without a gateway needs no token.
        "security": [{"token": []}, {}],
    }


_STRING: Schema = {"type": "string"}
_BOOLEAN: Schema = {"type": "boolean"}


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _object(required: tuple[str, ...] = (), **properties: Schema) -> Schema:
    schema: Schema = {"type": "object", "properties": properties}
    return schema | {"required": list(required)} if required else schema


_V2_TENSOR = _object(name=_STRING, datatype=_STRING, shape=_list({"type": "integer"}))
_V2_INPUT = _object(
    **_V2_TENSOR["properties"],
    parameters=_object(
        minimum={"type": "number"}, maximum={"type": "number"}, batched={"const": False}
    ),
)
_V2_SERVER = _object(name=_STRING, version=_STRING, extensions=_list(_STRING))
_V2_MODEL = _object(
    name=_STRING,
    versions=_list(_STRING),
    platform=_STRING,
    inputs=_list(_V2_INPUT),
    outputs=_list(_V2_TENSOR),
)


def _element(spec: TensorSpec) -> Schema:
    if spec.datatype == "BOOL":
        return _BOOLEAN
    if spec.datatype == "BYTES":
        return _STRING
    return {"type": "number" if spec.datatype.startswith("FP") else "integer"}


def _tensor(spec: TensorSpec) -> Schema:
    """Nested lists of the shape."""
    schema = _element(spec)
    for size in reversed(spec.shape):
        schema = _list(schema)
        if size != ANY:
            schema |= {"minItems": size, "maxItems": size}
    return schema


def _row(tensors: dict[str, Schema]) -> Schema:
    """An element of the batch: a value alone, or an object of several."""
    rows = {name: tensor["items"] for name, tensor in tensors.items()}
    return next(iter(rows.values())) if len(rows) == 1 else _object(tuple(rows), **rows)


def _any(tensors: dict[str, Schema]) -> Schema:
    return {"oneOf": list(tensors.values())} if len(tensors) > 1 else next(iter(tensors.values()))


def _v2_tensor(spec: TensorSpec) -> Schema:
    return _object(
        ("name", "datatype", "shape", "data"),
        name={"const": spec.name},
        datatype={"const": spec.datatype},
        shape=_list({"type": "integer", "minimum": 0}),
        data=_list({}),
    )


def _parameter(name: str, values: list[str]) -> Schema:
    return {
        "name": name,
        "in": "path",
        "required": True,
        "schema": {"type": "string", "enum": values},
    }


def _get(summary: str, schema: Schema, parameters: list[Schema] | None = None) -> Schema:
    return _path("get", summary, schema, _ERROR, parameters)


def _post(
    summary: str,
    body: Schema,
    schema: Schema,
    error: Schema,
    parameters: list[Schema] | None = None,
) -> Schema:
    path = _path("post", summary, schema, error, parameters)
    path["post"]["requestBody"] = {"required": True, "content": _json(body)}
    return path


def _path(
    method: str,
    summary: str,
    schema: Schema,
    error: Schema,
    parameters: list[Schema] | None,
) -> Schema:
    operation: Schema = {
        "summary": summary,
        "responses": {
            "200": {"description": "OK", "content": _json(schema)},
            "default": {"description": "Error", "content": _json(_object((*error,), **error))},
        },
    }
    return {method: operation, **({"parameters": parameters} if parameters else {})}


def _json(schema: Schema) -> Schema:
    return {"application/json": {"schema": schema}}
