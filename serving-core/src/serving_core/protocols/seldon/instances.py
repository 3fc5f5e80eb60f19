"""Parse and check instances: a request's data becomes float32 rows."""

import struct
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from serving_core.errors import InvalidInput

# An image of 28 x 28 has two levels, a batch of one image three.
MAX_NESTING = 4
MAX_INSTANCES = 16  # of one request: the maximum batch size

_NUMBERS = frozenset({int, float})
_JSON_TYPES: dict[type, str] = {
    str: "a string",
    bool: "a boolean",
    type(None): "null",
    list: "a list",
    dict: "an object",
}


def parse_instance(
    data: object, features: int, may_hold_booleans: bool = True
) -> NDArray[np.float32]:
    """Parse one instance from decoded JSON.

    Args:
        data: A list of `features` numbers, the same nested (28 x 28, or a batch of one), or an
            object with the keys "x000" to "x783" of the original web demo.
        features: Width of the model's input.
        may_hold_booleans: False skips the type check of each value: only a boolean could pass
            for a number.

    Returns:
        Shape (features,), float32, finite.

    Raises:
        InvalidInput: Wrong type, wrong count, or a value that is not a finite float32.
    """
    if type(data) is list:
        numbers = _flatten(data)
        return _from_numbers(numbers, features, lambda index: f"data[{index}]", may_hold_booleans)
    if type(data) is dict:
        keys = _column_names(features)
        columns = _columns(data, keys)
        return _from_numbers(
            columns, features, lambda index: f"data.{keys[index]}", may_hold_booleans
        )
    raise InvalidInput(
        f"data is {_type_name(data)}, expected a list of {features} numbers "
        f"or an object with the keys {_key_range(features)}"
    )


def parse_instances(
    data: object, features: int, may_hold_booleans: bool = True
) -> NDArray[np.float32]:
    """Parse one or several instances for ClassifierView.inputs.

    28 lists of 28 numbers are one image of 784; several lists of 784, or of 28 lists of 28, are
    several instances.

    Args:
        data: As in parse_instance, or a list of 2 to MAX_INSTANCES such lists.
        features: Width of the model's input.
        may_hold_booleans: As in parse_instance.

    Returns:
        Shape (features,) of one instance, (instances, features) of several; float32, finite.

    Raises:
        InvalidInput: As parse_instance; or more instances than MAX_INSTANCES.
    """
    if type(data) is not list or len(data) < 2 or not _is_instance(data[0], features):
        return parse_instance(data, features, may_hold_booleans)
    if len(data) > MAX_INSTANCES:
        raise InvalidInput(f"data has {len(data)} instances, the limit is {MAX_INSTANCES}")
    rows = []
    for index, one in enumerate(data):
        try:
            rows.append(parse_instance(one, features, may_hold_booleans))
        except InvalidInput as error:
            raise InvalidInput(f"of data[{index}]: {error}") from None
    return np.stack(rows)


def _is_instance(data: object, features: int) -> bool:
    """Whether a list is a complete instance, flat or as an image."""
    if type(data) is not list or not data:
        return False
    first = data[0]
    width = len(first) if type(first) is list else 1
    return len(data) * width == features


def check_instances(
    values: NDArray[np.float32], features: int, field: str = "data"
) -> NDArray[np.float32]:
    """Check concatenated float32 instances.

    Args:
        values: One-dimensional.
        features: Width of the model's input.
        field: The field's name in errors.

    Returns:
        Shape (features,) of one instance, (instances, features) of several.

    Raises:
        InvalidInput: Not a whole number of instances, more than MAX_INSTANCES, or a value
            that is not finite.
    """
    instances, over = divmod(values.size, features)
    if instances < 2 or over:
        return check_instance(values, features, field)
    if instances > MAX_INSTANCES:
        raise InvalidInput(f"{field} has {instances} instances, the limit is {MAX_INSTANCES}")
    _check_finite(values, field)
    return values.reshape(instances, features)


def check_instance(
    values: NDArray[np.float32], features: int, field: str = "data"
) -> NDArray[np.float32]:
    """Check one float32 instance.

    Args:
        values: One-dimensional.
        features: Width of the model's input.
        field: The field's name in errors.

    Returns:
        `values` itself.

    Raises:
        InvalidInput: Wrong count, or a value that is not finite.
    """
    if values.size != features:
        raise InvalidInput(f"{field} has {values.size} values, expected {features}")
    _check_finite(values, field)
    return values


def _check_finite(values: NDArray[np.float32], field: str) -> None:
    if not np.isfinite(values).all():
        index = int(np.flatnonzero(~np.isfinite(values))[0])
        raise InvalidInput(f"{field}[{index}] is {values[index]}, expected a finite float32")


def _from_numbers(
    numbers: list[object], features: int, name: Callable[[int], str], may_hold_booleans: bool
) -> NDArray[np.float32]:
    if len(numbers) != features:
        raise InvalidInput(f"data has {len(numbers)} values, expected {features}")
    if not may_hold_booleans:
        # JSON has no number that is not finite, and what is too large for a float32 overflows.
        with suppress(struct.error, OverflowError):  # _from_anything finds the value
            return np.frombuffer(_floats(features).pack(*numbers), np.float32)
    return _from_anything(numbers, name)


@lru_cache(maxsize=8)
def _floats(features: int) -> struct.Struct:
    """Packs numbers as float32 in a third of an array's time; it accepts booleans too."""
    return struct.Struct(f"={features}f")


def _from_anything(numbers: list[object], name: Callable[[int], str]) -> NDArray[np.float32]:
    if not _NUMBERS.issuperset(map(type, numbers)):
        index = next(i for i, value in enumerate(numbers) if type(value) not in _NUMBERS)
        raise InvalidInput(f"{name(index)} is {_type_name(numbers[index])}, expected a number")
    try:
        with np.errstate(over="ignore"):
            row = np.array(numbers, dtype=np.float32)
    except OverflowError:  # an integer beyond float64
        row = np.array([_as_float(value) for value in numbers], dtype=np.float32)
    finite = np.isfinite(row)
    if not finite.all():
        index = int(np.flatnonzero(~finite)[0])
        raise InvalidInput(f"{name(index)} is not finite in float32 (limit 3.4e38)")
    return row


def _as_float(value: object) -> float:
    try:
        return float(value)  # type: ignore[arg-type]  # int or float: checked by the caller
    except OverflowError:
        return float("inf")


def _flatten(data: list[object]) -> list[object]:
    for _ in range(MAX_NESTING):
        if not data or type(data[0]) is not list:
            return data
        widths = {len(row) if type(row) is list else -1 for row in data}
        if len(widths) != 1:
            raise InvalidInput("data is ragged: its nested lists differ in length")
        data = list(chain.from_iterable(data))  # type: ignore[arg-type]  # all lists, checked above
    if data and type(data[0]) is list:
        raise InvalidInput(f"data is nested deeper than {MAX_NESTING} lists")
    return data


def _columns(data: dict[str, object], keys: tuple[str, ...]) -> list[object]:
    if len(data) == len(keys):
        try:
            return [data[key] for key in keys]
        except KeyError:
            pass
    missing = next((key for key in keys if key not in data), None)
    if missing is not None:
        raise InvalidInput(f"data.{missing} is missing, expected the keys {_key_range(len(keys))}")
    unknown = str(next(key for key in data if key not in set(keys)))[:32]
    raise InvalidInput(f"data has the unknown key {unknown!r}, expected {_key_range(len(keys))}")


@lru_cache(maxsize=8)
def _column_names(features: int) -> tuple[str, ...]:
    width = len(str(features - 1))
    return tuple(f"x{index:0{width}d}" for index in range(features))


def _key_range(features: int) -> str:
    names = _column_names(features)
    return f"{names[0]} to {names[-1]}"


def _type_name(value: object) -> str:
    return _JSON_TYPES.get(type(value), "a number" if type(value) in _NUMBERS else "another type")
