"""Models of many datatypes for the tests of protocols."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving_core import Computed, InferenceRequest, ModelInfo, Served, Signature, TensorSpec
from serving_core.tensors import DATATYPES

# Of each datatype: values that a tensor of shape (2, 3) holds, among them the limits.
VALUES: dict[str, list[Any]] = {
    "BOOL": [True, False, True, True, False, False],
    "FP16": [0.5, -2.0, 65504.0, 0.0, 1.5, -0.25],
    "FP32": [0.5, -2.0, 3e38, 0.0, 1e-45, 0.1],
    "FP64": [0.5, -2.0, 1e308, 0.0, 5e-324, 0.1],
    "BYTES": [b"", b"a", "é".encode(), b"0" * 300, b'{"b64": 1}', b"\n"],
}
for _name, _dtype in DATATYPES.items():
    if _dtype.kind in "iu":
        _limits = np.iinfo(_dtype)
        VALUES[_name] = [0, 1, int(_limits.min), int(_limits.max), 7, 100]


def tensor(datatype: str) -> NDArray[Any]:
    """The values of a datatype, shape (2, 3)."""
    array = np.empty(6, DATATYPES[datatype])
    array[:] = VALUES[datatype]
    return array.reshape(2, 3)


def echo(datatype: str) -> Served:
    """A model with one input and one output of a datatype."""
    spec = (-1, 3)
    signature = Signature((TensorSpec("x", datatype, spec),), (TensorSpec("y", datatype, spec),))
    return Served(ModelInfo("echo", "3", "fake", signature), "default")


MIXED = Served(
    ModelInfo(
        "mixed",
        "3",
        "fake",
        Signature(
            (
                TensorSpec("x", "FP32", (-1, 2)),
                TensorSpec("n", "INT64", (-1,)),
                TensorSpec("s", "BYTES", (-1, 1)),
            ),
            (TensorSpec("y", "FP32", (-1, 2)), TensorSpec("t", "BYTES", (-1,))),
        ),
    ),
    "default",
)


def computed(**outputs: NDArray[Any]) -> Computed:
    """What the batcher gives an encoder."""
    return Computed(outputs, 1e-5, 1e-3, len(next(iter(outputs.values()))))


def same(request: InferenceRequest, **inputs: NDArray[Any]) -> bool:
    """Whether a request has these inputs, in these datatypes and shapes."""
    return set(request.inputs) == set(inputs) and all(
        request.inputs[name].dtype == array.dtype
        and request.inputs[name].flags.aligned
        and np.array_equal(request.inputs[name], array)
        for name, array in inputs.items()
    )
