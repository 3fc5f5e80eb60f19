import numpy as np
import pytest

from serving_core import InvalidInput
from serving_core.digits import held_out
from serving_core.protocols.seldon.instances import (
    check_instance,
    check_instances,
    parse_instance,
    parse_instances,
)

DIGIT = held_out().images[0]
FLAT = DIGIT.tolist()
COLUMNS = {f"x{index:03d}": value for index, value in enumerate(FLAT)}


@pytest.mark.parametrize(
    "data",
    [
        FLAT,
        DIGIT.reshape(28, 28).tolist(),
        [FLAT],
        [DIGIT.reshape(28, 28).tolist()],
        COLUMNS,
        dict(reversed(COLUMNS.items())),
    ],
    ids=["list", "28x28", "batch of one", "batch of one 28x28", "object", "object reversed"],
)
def test_every_spelling_of_a_digit_is_the_same_row(data: object) -> None:
    row = parse_instance(data, 784)
    assert row.dtype == np.float32
    assert row.shape == (784,)
    assert np.array_equal(row, DIGIT)


def test_integers_are_numbers() -> None:
    assert parse_instance([0, 1, 2.5], 3).tolist() == [0.0, 1.0, 2.5]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (FLAT[:-1], "data has 783 values, expected 784"),
        ([*FLAT, 0.0], "data has 785 values, expected 784"),
        ([], "data has 0 values, expected 784"),
        ([*FLAT[:17], "0.5", *FLAT[18:]], r"data\[17\] is a string, expected a number"),
        ([*FLAT[:17], None, *FLAT[18:]], r"data\[17\] is null, expected a number"),
        ([*FLAT[:17], True, *FLAT[18:]], r"data\[17\] is a boolean, expected a number"),
        ([*FLAT[:17], [0.5], *FLAT[18:]], r"data\[17\] is a list, expected a number"),
        ([*FLAT[:17], float("nan"), *FLAT[18:]], r"data\[17\] is not finite"),
        ([*FLAT[:17], 1e39, *FLAT[18:]], r"data\[17\] is not finite in float32"),
        ([*FLAT[:17], 10**400, *FLAT[18:]], r"data\[17\] is not finite in float32"),
        ("/etc/passwd", "data is a string, expected a list of 784 numbers"),
        (None, "data is null, expected a list"),
        (7, "data is a number, expected a list"),
        ([FLAT, FLAT], "data has 1568 values, expected 784"),
        ([FLAT[:400], FLAT[400:]], "data is ragged"),
        ([[[[[[0.5]]]]]], "data is nested deeper than 4 lists"),
        ({**COLUMNS, "x784": 0.0}, "data has the unknown key 'x784', expected x000 to x783"),
        ({"x000": 0.5}, "data.x001 is missing, expected the keys x000 to x783"),
        ({**COLUMNS, "x042": "a"}, "data.x042 is a string, expected a number"),
    ],
)
def test_wrong_data_is_named(data: object, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        parse_instance(data, 784)


def test_an_array_with_the_wrong_count_names_the_field() -> None:
    with pytest.raises(InvalidInput, match=r"data\.values has 783 values, expected 784"):
        check_instance(DIGIT[:-1], 784, "data.values")


def test_an_array_with_nan_names_the_position() -> None:
    row = DIGIT.copy()
    row[5] = np.nan
    with pytest.raises(InvalidInput, match=r"data\.values\[5\] is nan"):
        check_instance(row, 784, "data.values")


IMAGE = DIGIT.reshape(28, 28).tolist()


@pytest.mark.parametrize("data", [FLAT, IMAGE, [FLAT], [IMAGE], COLUMNS])
def test_one_instance_is_one_row_however_it_is_nested(data: object) -> None:
    assert np.array_equal(parse_instances(data, 784), DIGIT)


@pytest.mark.parametrize("data", [[FLAT, FLAT], [IMAGE, FLAT], [FLAT, COLUMNS], [IMAGE] * 16])
def test_several_instances_are_as_many_rows(data: list[object]) -> None:
    rows = parse_instances(data, 784)
    assert rows.dtype == np.float32
    assert np.array_equal(rows, np.stack([DIGIT] * len(data)))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([FLAT] * 17, "data has 17 instances, the limit is 16"),
        ([FLAT, FLAT[:-1]], "of data[1]: data has 783 values, expected 784"),
        ([FLAT, None], "of data[1]: data is null, expected a list of 784 numbers"),
        ([FLAT, [*FLAT[:-1], "7"]], "of data[1]: data[783] is a string, expected a number"),
        ([FLAT[:-1], FLAT[:-1]], "data has 1566 values, expected 784"),
        (FLAT * 2, "data has 1568 values, expected 784"),
    ],
)
def test_what_is_no_list_of_instances_is_named(data: list[object], message: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        parse_instances(data, 784)
    assert str(refused.value).startswith(message)


@pytest.mark.parametrize("count", [1, 2, 16])
def test_instances_one_after_the_other(count: int) -> None:
    rows = check_instances(np.tile(DIGIT, count), 784)
    assert rows.shape == ((784,) if count == 1 else (count, 784))
    assert np.array_equal(rows.ravel(), np.tile(DIGIT, count))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.tile(DIGIT, 17), "v has 17 instances, the limit is 16"),
        (np.tile(DIGIT, 2)[:-1], "v has 1567 values, expected 784"),
        (np.append(np.tile(DIGIT, 2)[:-1], np.float32("nan")), "v[1567] is nan, expected a finit"),
        (DIGIT[:0], "v has 0 values, expected 784"),
    ],
)
def test_what_is_no_whole_number_of_instances_is_named(
    values: np.ndarray[tuple[int], np.dtype[np.float32]], message: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        check_instances(values, 784, "v")
    assert str(refused.value).startswith(message)
