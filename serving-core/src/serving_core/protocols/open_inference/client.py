"""The client's side: a model's signature from its metadata, and requests for a model."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import orjson

from open_inference_pb2 import ModelInferRequest, ModelMetadataResponse
from serving_core.protocols.open_inference.common import BATCHED, RANGE, strings_of, to_binary
from serving_core.tensors import ANY, DATATYPES, Signature, Tensors, TensorSpec, datatype_of


def signature_of(metadata: Mapping[str, Any] | ModelMetadataResponse) -> Signature:
    """The signature in a model's metadata, a JSON document or a gRPC message.

    A model is taken for batched if the first dimension of every tensor is variable, unless its
    metadata says that it is not.

    Raises:
        ValueError: The metadata has another form.
    """
    try:
        if isinstance(metadata, ModelMetadataResponse):
            inputs, outputs = map(_documents, (metadata.inputs, metadata.outputs))
        else:
            inputs, outputs = metadata["inputs"], metadata["outputs"]
        signature = Signature(tuple(map(_spec, inputs)), tuple(map(_spec, outputs)))
        batched = (inputs[0].get("parameters") or {}).get(BATCHED) is not False
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ValueError(f"the model's metadata is incomplete: {error!r}") from None
    tensors = (*signature.inputs, *signature.outputs)
    batched = batched and all(spec.shape[:1] == (ANY,) for spec in tensors)
    return replace(signature, batched=batched)


def _documents(tensors: Iterable[Any]) -> list[dict[str, Any]]:
    return [
        {
            "name": tensor.name,
            "datatype": tensor.datatype,
            "shape": tensor.shape,
            "parameters": {
                name: getattr(one, kind)
                for name, one in tensor.parameters.items()
                if (kind := one.WhichOneof("parameter_choice"))
            },
        }
        for tensor in tensors
    ]


def _spec(tensor: Mapping[str, Any]) -> TensorSpec:
    if tensor["datatype"] not in DATATYPES:
        raise ValueError(f"the datatype of {tensor['name']} is {tensor['datatype']!r}")
    limits = tensor.get("parameters") or {}
    low, high = (limits.get(name) for name in RANGE)
    return TensorSpec(
        str(tensor["name"]),
        tensor["datatype"],
        tuple(int(size) for size in tensor["shape"]),
        None if low is None or high is None else (float(low), float(high)),
    )


def json_request(inputs: Tensors) -> bytes:
    """The body of an inference request with JSON tensors.

    Raises:
        UnicodeDecodeError: A string is not UTF-8, which JSON cannot hold.
    """
    tensors = [
        {
            "name": name,
            "datatype": datatype_of(array.dtype),
            "shape": array.shape,
            "data": [text.decode() for text in strings_of(array)]
            if array.dtype.kind == "O"
            else np.ascontiguousarray(array).ravel(),
        }
        for name, array in inputs.items()
    ]
    return orjson.dumps({"inputs": tensors}, option=orjson.OPT_SERIALIZE_NUMPY)


def raw_request(model: str, inputs: Tensors) -> ModelInferRequest:
    """An inference request with raw contents."""
    request = ModelInferRequest(model_name=model)
    for name, array in inputs.items():
        request.inputs.add(name=name, datatype=datatype_of(array.dtype), shape=array.shape)
        request.raw_input_contents.append(to_binary(array))
    return request
