"""Numbers in JSON: nested lists to arrays of a datatype."""

import struct
from functools import lru_cache
from itertools import chain
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from serving_core.errors import InvalidInput
from serving_core.tensors import DATATYPES

MAX_DIMENSIONS = 8

_KINDS: dict[str, frozenset[type]] = {
    "b": frozenset({bool}),
    "i": frozenset({int}),
    "u": frozenset({int}),
    "f": frozenset({int, float}),
    "O": frozenset({str, bytes}),
}
_WANTED = {"b": "a boolean", "i": "an integer", "u": "an integer", "f": "a number", "O": "a string"}
_JSON_TYPES: dict[type, str] = {
    str: "a string",
    bool: "a boolean",
    int: "an integer",
    float: "a number with a fraction",
    type(None): "null",
    list: "a list",
    dict: "an object",
}


def type_name(value: object) -> str:
    """What a decoded JSON value is, for messages."""
    return _JSON_TYPES.get(type(value), "another type")


def parse_object(text: bytes) -> dict[str, Any]:
    """Decode a body that is a JSON object.

    Raises:
        InvalidInput: It is none; names the place of a syntax error.
    """
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        place = f"at line {error.lineno} column {error.colno}"
        raise InvalidInput(f"the body is no valid JSON: {error.msg} {place}") from None
    return object_of(document, "the body")


def object_of(value: object, place: str) -> dict[str, Any]:
    """A decoded JSON object.

    Raises:
        InvalidInput: Another type.
    """
    if type(value) is not dict:
        raise InvalidInput(f"{place} is {type_name(value)}, expected an object")
    return value


def may_hold_booleans(text: bytes) -> bool:
    """Whether a JSON text may hold a boolean, which `array_of` must then look for.

    Only a boolean could pass for a number, and the check of each value costs twice the conversion.
    """
    return b"true" in text or b"false" in text


def array_of(data: object, datatype: str, field: str, booleans: bool = True) -> NDArray[Any]:
    """Convert nested lists to an array.

    Args:
        data: Decoded JSON: a value, or lists nested up to MAX_DIMENSIONS deep.
        datatype: A key of DATATYPES.
        field: The data's name in errors.
        booleans: False if the data holds no boolean, see `may_hold_booleans`.

    Raises:
        InvalidInput: Ragged, nested too deep, or a value that the datatype cannot hold.
    """
    if type(data) is not list:
        return _convert([data], datatype, field, booleans).reshape(())
    shape = [len(data)]
    flat: list[Any] = data
    while flat and type(flat[0]) is list:
        if len(shape) == MAX_DIMENSIONS:
            raise InvalidInput(f"{field} is nested deeper than {MAX_DIMENSIONS} lists")
        widths = {len(row) if type(row) is list else -1 for row in flat}
        if len(widths) != 1:
            raise InvalidInput(f"{field} is ragged: its nested lists differ in length")
        shape.append(widths.pop())
        flat = list(chain.from_iterable(flat))
    return _convert(flat, datatype, field, booleans).reshape(shape)


def check_finite(array: NDArray[Any], name: str) -> None:
    """Check that JSON can hold an output.

    Raises:
        InvalidInput: It has a value that is not finite.
    """
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise InvalidInput(
            f"output {name!r} has a value that is not finite, which JSON cannot hold; "
            f"use binary tensors or gRPC"
        )


def _convert(flat: list[Any], datatype: str, field: str, booleans: bool) -> NDArray[Any]:
    dtype = DATATYPES[datatype]
    allowed = _KINDS[dtype.kind]
    if datatype == "FP32" and not booleans:
        try:
            return np.frombuffer(_floats(len(flat)).pack(*flat), np.float32)
        except (struct.error, OverflowError):  # what follows finds the value
            pass
    if not allowed.issuperset(map(type, flat)):
        index = next(i for i, value in enumerate(flat) if type(value) not in allowed)
        raise InvalidInput(
            f"{field}[{index}] is {type_name(flat[index])}, expected {_WANTED[dtype.kind]} "
            f"for {datatype}"
        )
    if dtype.kind == "O":
        texts = np.empty(len(flat), dtype)
        texts[:] = [text.encode() if type(text) is str else text for text in flat]
        return texts
    try:
        with np.errstate(over="raise"):
            return np.array(flat, dtype)
    except (OverflowError, FloatingPointError):
        index = next(i for i, value in enumerate(flat) if not _holds(value, dtype))
        raise InvalidInput(
            f"{field}[{index}] is {flat[index]!r:.40}, beyond the range of {datatype}"
        ) from None


def _holds(value: float, dtype: np.dtype[Any]) -> bool:
    try:
        with np.errstate(over="raise"):
            np.array([value], dtype)
    except (OverflowError, FloatingPointError):
        return False
    return True


@lru_cache(maxsize=64)
def _floats(count: int) -> struct.Struct:
    """Packs numbers as float32 in a third of an array's time; it accepts booleans too."""
    return struct.Struct(f"={count}f")
