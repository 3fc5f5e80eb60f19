"""What REST and gRPC share: which models the API can serve, and the prediction's id."""

import secrets
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving_core.errors import InvalidInput
from serving_core.predictor import ModelInfo
from serving_core.tensors import Tensors, TensorSpec

MAX_PUID = 256


def only_tensors(model: ModelInfo) -> tuple[TensorSpec, TensorSpec]:
    """The only input and output of a model of numbers.

    Raises:
        InvalidInput: The model has several, or one of strings.
    """
    signature = model.signature
    if len(signature.inputs) == len(signature.outputs) == 1:
        (source,), (result,) = signature.inputs, signature.outputs
        if "BYTES" not in (source.datatype, result.datatype):
            return source, result
    raise InvalidInput(
        f"model {model.name} has several tensors or strings, which this API cannot hold; "
        f"use the Open Inference Protocol"
    )


def inputs_of(values: NDArray[Any], spec: TensorSpec, field: str) -> Tensors:
    """The model's inputs; a number of another datatype is converted if nothing is lost.

    Raises:
        InvalidInput: The datatype cannot hold a value.
    """
    if values.dtype == spec.dtype:
        return {spec.name: values}
    with np.errstate(all="ignore"):
        converted = values.astype(spec.dtype)
    is_float = spec.dtype.kind == "f"
    same = np.isfinite(converted) if is_float else converted == values
    if not same.all():
        index = int(np.flatnonzero(~same)[0])
        value = values.ravel()[index]
        raise InvalidInput(f"{field}[{index}] is {value}, which {spec.datatype} cannot hold")
    return {spec.name: converted}


def choose_puid(puid: str) -> str:
    """The caller's id, or a new one of 40 hex digits.

    Raises:
        InvalidInput: Longer than MAX_PUID.
    """
    if len(puid) > MAX_PUID:
        raise InvalidInput(f"meta.puid has {len(puid)} characters, the limit is {MAX_PUID}")
    return puid or secrets.token_hex(20)


def names(model: ModelInfo, output: NDArray[Any]) -> list[str]:
    """The names of the columns: the classes, otherwise t:0, t:1 and so on."""
    columns = output.shape[1] if output.ndim > 1 else output.size
    if len(model.classes) == columns:
        return list(model.classes)
    return [f"t:{number}" for number in range(columns)]
