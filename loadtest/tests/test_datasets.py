"""Rows of files and random ones suit the model, or the error names file, input and expectation."""

import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loadtest.datasets import RANDOM_ROWS, random_rows, read_rows
from loadtest.errors import SettingInvalid
from serving_core.tensors import DATATYPES, Signature, TensorSpec

ONE = Signature(
    (TensorSpec("x", "FP32", (-1, 2), range=(0, 255)),), (TensorSpec("y", "FP32", (-1, 3)),)
)
TWO = Signature(
    (TensorSpec("a", "UINT8", (-1, 2)), TensorSpec("text", "BYTES", (-1, -1))),
    (TensorSpec("y", "FP32", (-1, 3)),),
)
SINGLE = Signature(
    (TensorSpec("x", "FP64", (2, 2)),), (TensorSpec("y", "FP32", (3,)),), batched=False
)


def npz(folder: Path, **arrays: Any) -> Path:
    path = folder / "rows.npz"
    np.savez(path, **arrays)
    return path


def npy(folder: Path, array: Any) -> Path:
    path = folder / "rows.npy"
    np.save(path, array)
    return path


def jsonl(folder: Path, *lines: Any) -> Path:
    path = folder / "rows.jsonl"
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("\n".join(texts))
    return path


def row(label: Any = None, **inputs: Any) -> Mapping[str, Any]:
    return {"inputs": inputs} | ({} if label is None else {"label": label})


def test_an_array_is_converted_to_the_models_datatype(tmp_path: Path) -> None:
    rows = read_rows(npy(tmp_path, np.array([[0, 1], [254, 255]])), ONE)
    assert rows.labels is None
    assert np.asarray(rows.inputs["x"]).dtype == np.float32
    assert np.asarray(rows.inputs["x"]).tolist() == [[0, 1], [254, 255]]


def test_arrays_are_named_as_the_inputs_beside_the_labels(tmp_path: Path) -> None:
    text = np.array([["one", "zwö"], ["", "x"]])
    path = npz(tmp_path, a=np.array([[1, 2], [3, 4]]), text=text, labels=np.array([2, 0]))
    rows = read_rows(path, TWO)
    assert len(rows) == 2
    assert rows.labels == (2, 0)
    assert np.asarray(rows.inputs["a"]).dtype == np.uint8
    assert np.asarray(rows.inputs["text"]).tolist() == [[b"one", "zwö".encode()], [b"", b"x"]]


def test_labels_may_be_an_input(tmp_path: Path) -> None:
    labels = TensorSpec("labels", "INT64", (-1,))
    signature = Signature((labels,), (TensorSpec("y", "FP32", (-1,)),))
    rows = read_rows(npz(tmp_path, labels=np.array([2, 0])), signature)
    assert rows.labels is None
    assert np.asarray(rows.inputs["labels"]).tolist() == [2, 0]


def test_a_line_is_a_row_of_its_own_shape(tmp_path: Path) -> None:
    path = jsonl(tmp_path, row(1, a=[1, 2], text=["x"]), "", row(0, a=[3, 4], text=["y", "z"]))
    rows = read_rows(path, TWO)
    assert rows.labels == (1, 0)
    assert [text.tolist() for text in rows.inputs["text"]] == [[b"x"], [b"y", b"z"]]


def test_without_a_batch_a_row_is_a_whole_tensor(tmp_path: Path) -> None:
    array = np.arange(12).reshape(3, 2, 2)
    rows = read_rows(npy(tmp_path, array), SINGLE)
    assert len(rows) == 3
    np.testing.assert_array_equal(rows.inputs["x"], array.astype(float))
    rows = read_rows(jsonl(tmp_path, row(x=[[1, 2], [3, 4]])), SINGLE)
    assert rows.inputs["x"][0].tolist() == [[1, 2], [3, 4]]


GOOD = {"a": np.ones((2, 2), int), "text": np.array([["x"], ["y"]])}
WRONG: dict[str, tuple[Callable[[Path], Path], Signature, str]] = {
    "no file": (
        lambda at: at / "rows.npy",
        ONE,
        r"--payload .*rows.npy is not readable: .*No such",
    ),
    "another format": (
        lambda at: npz(at, x=np.ones((1, 2))).rename(at / "rows.npy"),
        ONE,
        "rows.npy is not readable",
    ),
    "no zip": (
        lambda at: npy(at, np.ones((1, 2))).rename(at / "rows.npz"),
        ONE,
        "rows.npz is not readable: File is not a zip file",
    ),
    "pickled": (
        lambda at: npy(at, np.array([{}, {}], object)),
        ONE,
        "rows.npy is not readable: Object arrays cannot be loaded",
    ),
    "one array for two inputs": (
        lambda at: npy(at, np.ones((1, 2))),
        TWO,
        "rows.npy is one array, expected a .npz with an array for each input: a, text",
    ),
    "a missing input": (
        lambda at: npz(at, a=GOOD["a"]),
        TWO,
        "rows.npz: rows.npz lacks input 'text', expected: a, text",
    ),
    "another input": (lambda at: npz(at, **GOOD, z=1), TWO, "has 'z', expected: a, text"),
    "a wrong shape": (
        lambda at: npy(at, np.ones((5, 3))),
        ONE,
        r"array 'x' of rows.npy has shape \[5, 3\], expected \[rows, 2\]",
    ),
    "a wrong shape of any size": (
        lambda at: npz(at, a=GOOD["a"], text=np.array(["x", "y"])),
        TWO,
        r"array 'text' of rows.npz has shape \[2\], expected \[rows, any\]",
    ),
    "no rows": (lambda at: npy(at, np.ones((0, 2))), ONE, "the rows of rows.npy are x 0, expected"),
    "unequal rows": (
        lambda at: npz(at, a=np.ones((3, 2), int), text=GOOD["text"]),
        TWO,
        "the rows of rows.npz are a 3, text 2, expected as many of each",
    ),
    "unequal labels": (
        lambda at: npz(at, **GOOD, labels=np.array([1])),
        TWO,
        "the rows of rows.npz are a 2, text 2, labels 1, expected",
    ),
    "labels of another kind": (
        lambda at: npz(at, **GOOD, labels=np.array([0.5, 1])),
        TWO,
        r"labels of rows.npz has datatype float64 and shape \[2\], expected integers",
    ),
    "strings for numbers": (
        lambda at: npy(at, np.array([["1", "2"]])),
        ONE,
        "array 'x' of rows.npy has datatype <U1, expected numbers that FP32 holds",
    ),
    "fractions for integers": (
        lambda at: npz(at, a=np.ones((2, 2)), text=GOOD["text"]),
        TWO,
        "array 'a' of rows.npz has datatype float64, expected numbers that UINT8 holds",
    ),
    "numbers for strings": (
        lambda at: npz(at, a=GOOD["a"], text=np.ones((2, 1))),
        TWO,
        "array 'text' of rows.npz has datatype float64, expected strings",
    ),
    "too large": (
        lambda at: npz(at, a=np.array([[1, 256]]), text=np.array([["x"]])),
        TWO,
        "array 'a' of rows.npz has values beyond the range of UINT8",
    ),
    "outside the declared range": (
        lambda at: npy(at, np.array([[0, 1], [256, 1]])),
        ONE,
        r"rows.npy: input 'x' has the value 256.0 at \[1, 0\], expected 0 to 255",
    ),
    "not finite": (
        lambda at: npy(at, np.full((1, 2, 2), np.nan)),
        SINGLE,
        "rows.npy: input 'x' has a value that is not finite",
    ),
    "no JSON": (
        lambda at: jsonl(at, row(x=[1, 2]), "{"),
        ONE,
        "rows.jsonl: line 2 is no valid JSON",
    ),
    "no object": (lambda at: jsonl(at, [1]), ONE, r"line 1 is .*, expected {\"inputs\": {NAME"),
    "a line without an input": (
        lambda at: jsonl(at, row(a=[1, 2])),
        TWO,
        "rows.jsonl: line 1 lacks input 'text'",
    ),
    "a line with another datatype": (
        lambda at: jsonl(at, row(x=[1, 2]), row(x=[1, "2"])),
        ONE,
        r"rows.jsonl: line 2, x\[1\] is a string, expected a number for FP32",
    ),
    "a line with another shape": (
        lambda at: jsonl(at, row(x=[1, 2, 3])),
        ONE,
        r"rows.jsonl: line 1, x has shape \[3\], expected \[2\]",
    ),
    "a line outside the range": (
        lambda at: jsonl(at, row(x=[1, 2]), row(x=[-1, 2])),
        ONE,
        r"input 'x' has the value -1.0 at \[0\], expected 0 to 255",
    ),
    "a label of another kind": (
        lambda at: jsonl(at, row("cat", x=[1, 2])),
        ONE,
        "rows.jsonl: line 1, label is 'cat', expected an integer",
    ),
    "a line without its label": (
        lambda at: jsonl(at, row(1, x=[1, 2]), row(x=[1, 2])),
        ONE,
        "the rows of rows.jsonl are x 2, labels 1, expected",
    ),
    "no lines": (lambda at: jsonl(at), ONE, "the rows of rows.jsonl are x 0, expected"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_file_that_does_not_suit_the_model_is_named(case: str, tmp_path: Path) -> None:
    write, signature, sentence = WRONG[case]
    with pytest.raises(SettingInvalid, match=sentence):
        read_rows(write(tmp_path), signature)


def test_a_member_that_is_no_array_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x", "text")
    with pytest.raises(SettingInvalid, match=r"'x' of rows.npz is no array"):
        read_rows(path, ONE)


def test_an_array_beyond_memory_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.npy"
    with path.open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (1 << 50, 2)}
        np.lib.format.write_array_header_1_0(file, header)
    with pytest.raises(SettingInvalid, match=r"rows.npy is not readable"):
        read_rows(path, ONE)


@pytest.mark.parametrize("datatype", DATATYPES)
def test_random_values_are_within_the_range_and_of_the_seed(datatype: str) -> None:
    limits = None if datatype in ("BOOL", "BYTES") else (3.0, 7.0)
    spec = TensorSpec("x", datatype, (-1, 4, -1), range=limits)
    signature = Signature((spec,), (TensorSpec("y", "FP32", (-1,)),))
    first, again, other = (random_rows(signature, 5, seed, 2) for seed in (1, 1, 2))
    array = np.asarray(first.inputs["x"])
    assert (array.dtype, array.shape) == (spec.dtype, (RANDOM_ROWS, 4, 5))
    np.testing.assert_array_equal(array, again.inputs["x"])
    assert not np.array_equal(array, other.inputs["x"])
    assert len({repr(value) for value in array.ravel()[:100].tolist()}) > 1
    if limits:
        assert spec.in_range(array) is array
    if spec.dtype.kind == "f":
        assert np.allclose(
            array, np.round(array.astype(float), 2), atol=1e-2 if datatype == "FP16" else 1e-6
        )


def test_rounding_stays_within_the_range() -> None:
    spec = TensorSpec("x", "FP32", (-1, 4), range=(0.006, 0.007))
    signature = Signature((spec,), (TensorSpec("y", "FP32", (-1,)),))
    assert spec.in_range(np.asarray(random_rows(signature, 1, 1, 2).inputs["x"])).min() > 0
