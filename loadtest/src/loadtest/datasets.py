"""Rows for any model: random values of its signature, or those of a file."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import orjson
from numpy.typing import NDArray

from loadtest.errors import SettingInvalid
from serving_core.errors import InvalidInput
from serving_core.protocols.json_tensors import array_of
from serving_core.tensors import ANY, Signature, TensorSpec, fits

RANDOM_ROWS = 200  # as many as held-out digits; defeats caches
LABELS = "labels"
LABEL = "label"
Column: TypeAlias = "Sequence[NDArray[Any]] | NDArray[Any]"

# By the kind of an input's dtype, the kinds of arrays that are converted to it.
_CONVERTED = {"b": "b", "i": "iu", "u": "iu", "f": "iuf", "O": "SUO"}
_LETTERS = np.frombuffer(b"abcdefghijklmnopqrstuvwxyz", "S1")
_TEXT_LENGTH = 8


@dataclass(frozen=True)
class Rows:
    """Inputs of a model, row by row.

    Attributes:
        inputs: By input, its rows; a row of a batched model has no batch dimension.
        labels: The class of each row; None if unknown.
    """

    inputs: Mapping[str, Column]
    labels: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))


def random_rows(signature: Signature, size: int, seed: int, decimals: int | None) -> Rows:
    """Random values within the model's ranges.

    Args:
        signature: The model's.
        size: The size of a variable dimension, other than the batch.
        seed: Of the values.
        decimals: Decimal places of floats; None for all.
    """
    rng = np.random.default_rng(seed)
    inputs: dict[str, NDArray[Any]] = {}
    for spec in signature.inputs:
        shape = (RANDOM_ROWS, *(size if one == ANY else one for one in _of_row(spec, signature)))
        if spec.datatype == "BYTES":
            letters = rng.choice(_LETTERS, (*shape, _TEXT_LENGTH))
            inputs[spec.name] = letters.view(f"S{_TEXT_LENGTH}")[..., 0].astype(spec.dtype)
            continue
        low, high = spec.usual_range
        values = low + rng.random(shape) * (high - low)
        if spec.dtype.kind != "f":
            values = np.trunc(values)  # for booleans; the conversion to an integer does it too
        elif decimals is not None:
            values = np.clip(np.round(values, decimals), low, high)
        inputs[spec.name] = values.astype(spec.dtype)
    return Rows(inputs)


def read_rows(path: Path, signature: Signature) -> Rows:
    """The rows of a .npy, .npz or .jsonl file, in the model's datatypes.

    Raises:
        SettingInvalid: The file is not readable or does not suit the model; names the input.
    """
    try:
        rows = READERS[path.suffix](path, signature)
    except InvalidInput as error:
        raise SettingInvalid(f"{path.name}: {error}") from None
    except (OSError, ValueError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise SettingInvalid(f"--payload {path} is not readable: {reason}") from None
    counts = {name: len(column) for name, column in rows.inputs.items()}
    if rows.labels is not None:
        counts[LABELS] = len(rows.labels)
    if len(set(counts.values())) > 1 or not len(rows):
        found = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise SettingInvalid(f"the rows of {path.name} are {found}, expected as many of each")
    return rows


def _npy(path: Path, signature: Signature) -> Rows:
    if len(signature.inputs) != 1:
        raise SettingInvalid(
            f"{path.name} is one array, expected a .npz with an array for each input: "
            f"{_names(signature)}"
        )
    (spec,) = signature.inputs
    with path.open("rb") as file:
        array = np.lib.format.read_array(file, allow_pickle=False)
    return Rows({spec.name: _column(array, spec, signature, path)})


def _npz(path: Path, signature: Signature) -> Rows:
    with path.open("rb") as stream, np.lib.npyio.NpzFile(stream, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    other = next((name for name, one in arrays.items() if not isinstance(one, np.ndarray)), None)
    if other is not None:
        raise SettingInvalid(f"{other!r} of {path.name} is no array, expected arrays alone")
    is_input = any(spec.name == LABELS for spec in signature.inputs)
    labels = None if is_input else arrays.pop(LABELS, None)
    _check_names(arrays, signature, path.name)
    columns = {
        spec.name: _column(arrays[spec.name], spec, signature, path) for spec in signature.inputs
    }
    if labels is None:
        return Rows(columns)
    if labels.dtype.kind not in "iu" or labels.ndim != 1:
        raise SettingInvalid(
            f"{LABELS} of {path.name} has datatype {labels.dtype} and shape "
            f"{list(labels.shape)}, expected integers, shape [rows]"
        )
    return Rows(columns, tuple(labels.tolist()))


def _column(
    array: NDArray[Any], spec: TensorSpec, signature: Signature, path: Path
) -> NDArray[Any]:
    """The rows of one input, converted and checked."""
    shape = _of_row(spec, signature)
    if array.dtype.kind not in _CONVERTED[spec.dtype.kind]:
        raise SettingInvalid(
            f"array {spec.name!r} of {path.name} has datatype {array.dtype}, expected numbers "
            f"that {spec.datatype} holds"
            if spec.dtype.kind != "O"
            else f"array {spec.name!r} of {path.name} has datatype {array.dtype}, expected strings"
        )
    if not array.ndim or not fits(array.shape[1:], shape):
        raise SettingInvalid(
            f"array {spec.name!r} of {path.name} has shape {_shape(array.shape)}, expected "
            f"{_shape(('rows', *shape))}"
        )
    if spec.dtype.kind == "O":
        texts = np.empty(array.shape, spec.dtype)
        texts[...] = np.char.encode(array, "utf-8") if array.dtype.kind == "U" else array
        return texts
    with np.errstate(over="ignore"):
        converted = array.astype(spec.dtype)
    if spec.dtype.kind in "iu" and not np.array_equal(converted, array):
        raise SettingInvalid(
            f"array {spec.name!r} of {path.name} has values beyond the range of {spec.datatype}"
        )
    return _in_range(converted, spec)


def _jsonl(path: Path, signature: Signature) -> Rows:
    columns: dict[str, list[NDArray[Any]]] = {spec.name: [] for spec in signature.inputs}
    labels = []
    number = 0
    for number, line in _lines(path):
        place = f"line {number}"
        try:
            document = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise InvalidInput(f"{place} is no valid JSON: {error.msg}") from None
        if not isinstance(document, dict) or not isinstance(document.get("inputs"), dict):
            raise InvalidInput(f'{place} is {line[:40]!r}, expected {{"inputs": {{NAME: VALUE}}}}')
        values = document["inputs"]
        _check_names(values, signature, place)
        for spec in signature.inputs:
            array = array_of(values[spec.name], spec.datatype, f"{place}, {spec.name}")
            shape = _of_row(spec, signature)
            if not fits(array.shape, shape):
                raise InvalidInput(
                    f"{place}, {spec.name} has shape {_shape(array.shape)}, "
                    f"expected {_shape(shape)}"
                )
            columns[spec.name].append(_in_range(array, spec))
        if LABEL in document:
            if type(document[LABEL]) is not int:
                raise InvalidInput(f"{place}, {LABEL} is {document[LABEL]!r}, expected an integer")
            labels.append(document[LABEL])
    return Rows(columns, tuple(labels) if labels else None)


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines that are not empty, numbered from 1."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield number, line


READERS: dict[str, Callable[[Path, Signature], Rows]] = {
    ".npy": _npy,
    ".npz": _npz,
    ".jsonl": _jsonl,
}


def _in_range(array: NDArray[Any], spec: TensorSpec) -> NDArray[Any]:
    if spec.range is not None:
        return spec.in_range(array)
    if spec.dtype.kind == "f" and not np.isfinite(array).all():
        raise InvalidInput(f"input {spec.name!r} has a value that is not finite, expected numbers")
    return array


def _of_row(spec: TensorSpec, signature: Signature) -> tuple[int, ...]:
    return spec.shape[1:] if signature.batched else spec.shape


def _check_names(found: Mapping[str, Any], signature: Signature, place: str) -> None:
    expected = [spec.name for spec in signature.inputs]
    for name in expected:
        if name not in found:
            raise InvalidInput(f"{place} lacks input {name!r}, expected: {_names(signature)}")
    for name in found:
        if name not in expected:
            raise InvalidInput(f"{place} has {name[:64]!r}, expected: {_names(signature)}")


def _names(signature: Signature) -> str:
    return ", ".join(spec.name for spec in signature.inputs)


def _shape(sizes: Sequence[int | str]) -> str:
    return f"[{', '.join('any' if size == ANY else str(size) for size in sizes)}]"
