"""Names, datatypes and shapes of a model's inputs and outputs."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving_core.errors import InvalidInput

Tensors = Mapping[str, NDArray[Any]]
"""Arrays by the name of the input or output."""

# Names of the Open Inference Protocol. BYTES elements are Python bytes objects.
DATATYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FP16": np.dtype(np.float16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
    "BYTES": np.dtype(np.object_),
}
_NAMES = {dtype: name for name, dtype in DATATYPES.items()}
ANY = -1  # a dimension of any size


def datatype_of(dtype: np.dtype[Any]) -> str:
    """The Open Inference name of a numpy dtype; BYTES for strings.

    Raises:
        KeyError: The protocol has no such datatype.
    """
    return "BYTES" if dtype.kind in "SU" else _NAMES[dtype]


@dataclass(frozen=True)
class TensorSpec:
    """An input or output.

    Attributes:
        name: The name in requests and responses.
        datatype: A key of DATATYPES.
        shape: Sizes of the dimensions, ANY for a variable one. The first one of a batched model's
            tensor is the batch, and ANY.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        """The numpy dtype."""
        return DATATYPES[self.datatype]


@dataclass(frozen=True)
class Signature:
    """The inputs and outputs of a model.

    Attributes:
        inputs: At least one.
        outputs: At least one.
        batched: Whether the first dimension of every tensor is the batch. Requests of a model that
            is not batched are computed one by one.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batched: bool = True

    @cached_property
    def _by_name(self) -> dict[str, TensorSpec]:
        return {spec.name: spec for spec in self.inputs}

    @cached_property
    def output_names(self) -> tuple[str, ...]:
        """Names of the outputs, in order."""
        return tuple(spec.name for spec in self.outputs)

    @cached_property
    def has_variable_items(self) -> bool:
        """Whether a dimension other than the batch is variable: not all requests can be joined."""
        return any(ANY in spec.shape[1:] for spec in self.inputs)

    def input(self, name: str) -> TensorSpec:
        """The input of that name.

        Raises:
            InvalidInput: The model has none; the message names those it has.
        """
        spec = self._by_name.get(name)
        if spec is None:
            raise InvalidInput(f"input name is {name[:64]!r}, expected one of: {self._names}")
        return spec

    @property
    def _names(self) -> str:
        return ", ".join(self._by_name)

    def check(self, inputs: Tensors) -> int:
        """Check that a request has every input once, in its datatype and shape.

        Returns:
            The number of rows: the size of the batch dimension, 1 if the model is not batched.

        Raises:
            InvalidInput: Names the input and what was expected.
        """
        if len(inputs) != len(self.inputs):
            for name in inputs:
                self.input(name)
            missing = next(name for name in self._by_name if name not in inputs)
            raise InvalidInput(f"input {missing!r} is missing, expected: {self._names}")
        rows = 0
        for name, array in inputs.items():
            spec = self.input(name)
            if array.dtype != spec.dtype:
                raise InvalidInput(
                    f"input {name!r} has datatype {_datatype(array)}, expected {spec.datatype}"
                )
            if not fits(array.shape, spec.shape):
                raise InvalidInput(
                    f"input {name!r} has shape {list(array.shape)}, expected {list(spec.shape)}"
                )
            if self.batched:
                if rows and array.shape[0] != rows:
                    raise InvalidInput(
                        f"input {name!r} has {array.shape[0]} rows, expected {rows} "
                        f"as the input before it"
                    )
                rows = array.shape[0]
                if rows < 1:
                    raise InvalidInput(f"input {name!r} has 0 rows, expected at least 1")
        return rows or 1


def _datatype(array: NDArray[Any]) -> str:
    return _NAMES.get(array.dtype, str(array.dtype))


def fits(shape: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    """Whether an array of `shape` has the `expected` sizes."""
    return len(shape) == len(expected) and all(
        size == wanted or wanted == ANY for size, wanted in zip(shape, expected, strict=True)
    )
