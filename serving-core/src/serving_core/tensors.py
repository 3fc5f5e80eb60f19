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
# Half the time of min() and max(), which are Python around these.
_least, _most = np.minimum.reduce, np.maximum.reduce

# Of a range's width: a value that exceeds the range by less is rounded, as 1.0000001 of [0, 1].
_ROUNDING = 1e-6


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
        range: The lowest and the highest value that an input takes; None for any.
        rescale: The range of the values in requests, which are rescaled to `range`; None if they
            are not rescaled.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    range: tuple[float, float] | None = None
    rescale: tuple[float, float] | None = None

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        """The numpy dtype."""
        return DATATYPES[self.datatype]

    @property
    def request_range(self) -> tuple[float, float] | None:
        """The lowest and the highest value in requests; None for any."""
        return self.rescale or self.range

    @property
    def usual_range(self) -> tuple[float, float]:
        """The range of an input's values, or one that most models take; booleans are below 2.

        Without a range, floats are in [0, 1), bytes in 0..255, and other integers 0 or 1, which
        most models have as an index.
        """
        highest = {"f": 1, "b": 2}.get(self.dtype.kind, 256 if self.datatype == "UINT8" else 2)
        return self.range or (0, highest)

    @cached_property
    def _limits(self) -> tuple[float, float]:
        low, high = self.request_range or (-np.inf, np.inf)
        rounding = _ROUNDING * (high - low) if self.dtype.kind == "f" else 0
        return low - rounding, high + rounding

    def in_range(self, array: NDArray[Any]) -> NDArray[Any]:
        """The values, checked against the range and rescaled.

        Raises:
            InvalidInput: A value is outside the range; names the input, index, value and range.
        """
        low, high = self._limits
        # Comparisons with NaN are false.
        if array.size and not (_least(array, None) >= low and _most(array, None) <= high):
            flat = int(np.flatnonzero(~((array >= low) & (array <= high)))[0])
            index = ", ".join(str(int(place)) for place in np.unravel_index(flat, array.shape))
            low, high = self.request_range or (low, high)
            raise InvalidInput(
                f"input {self.name!r} has the value {array.flat[flat]} at [{index}], "
                f"expected {low:g} to {high:g}"
            )
        if self.rescale is None or self.range is None:
            return array
        (source, _), (target, _) = self.rescale, self.range
        factor = (self.range[1] - target) / (self.rescale[1] - source)
        rescaled: NDArray[Any] = (array - source) * factor + target
        if self.dtype.kind in "iu":
            rescaled = np.rint(rescaled)
        return rescaled.astype(self.dtype, copy=False)


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

    @cached_property
    def _ranged(self) -> tuple[TensorSpec, ...]:
        return tuple(spec for spec in self.inputs if spec.range is not None)

    def in_range(self, inputs: Tensors) -> Tensors:
        """The inputs of a request, checked against the model's ranges and rescaled to them.

        Raises:
            InvalidInput: See TensorSpec.in_range.
        """
        for spec in self._ranged:
            array = inputs[spec.name]
            checked = spec.in_range(array)
            if checked is not array:
                inputs = {**inputs, spec.name: checked}
        return inputs

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
