"""One grammar, one sentence and one table for the settings of every package."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import env_settings as env


class Invalid(Exception):
    pass


def pair(text: str) -> tuple[int, int]:
    low, _, high = text.partition("-")
    return int(low), int(high)


@dataclass(frozen=True, kw_only=True)
class Example:
    folder: Path = env.path("FOLDER", env.REQUIRED, "the path of a folder")  # noqa: RUF009
    count: int = env.integer("X_COUNT", 7, 1, 2_000_000, "a count", unit="bytes")
    wait_s: float = env.seconds("X_WAIT_S", 2.0, 0.5, 60, "a wait")
    rate: float | None = env.decimal("X_RATE", None, 0, 1, "a share", option="--rate")
    loop: str = env.choice("X_LOOP", "open", ("open", "closed"), "a loop", option="--loop")
    ports: tuple[int, int] = env.parsed(
        "X_PORTS", env.REQUIRED, pair, "ports", expected="FIRST-LAST", words="few"
    )
    name: str = env.matching("X_NAME", "n", "[a-z]+", "a name", expected="letters")
    flag: bool = env.flag("X_FLAG", False, "a flag")
    cores: int = env.integer("X_CORES", lambda: 4, 1, 9, "cores", words="the machine's")
    only: str = env.text("", "o", "an option alone", option="--only")
    url: str = env.text("X_URL", "", "with a password", words="no URL", secret=True)
    other: str | None = None


@dataclass(frozen=True)
class Part:
    pods: int = env.integer("X_…_PODS", 1, 1, 9, "pods")


def values(**environ: str) -> dict[str, Any]:
    return env.read(Example, {"FOLDER": "f", **environ}, Invalid)


def test_only_variables_that_are_set_have_a_value() -> None:
    assert values(X_COUNT="", X_OTHER="1", COUNT="2") == {"folder": Path("f")}
    assert Example(**values(), ports=(1, 2)).cores == 4


def test_each_type_is_parsed() -> None:
    assert values(
        X_COUNT="2000000", X_WAIT_S="0.50", X_RATE="1", X_LOOP="closed", X_PORTS="1-2",
        X_NAME="abc", X_FLAG="True", X_CORES="9",
    ) == {
        "folder": Path("f"), "count": 2_000_000, "wait_s": 0.5, "rate": 1.0, "loop": "closed",
        "ports": (1, 2), "name": "abc", "flag": True, "cores": 9,
    }  # fmt: skip


def test_a_required_variable_is_named() -> None:
    for environ in ({}, {"FOLDER": ""}):
        with pytest.raises(Invalid, match=r"^FOLDER is not set, expected the path of a folder$"):
            env.read(Example, environ, Invalid)


@pytest.mark.parametrize(
    "text",
    [
        *("1_000", " 7", "7 ", "+7", "-7", "07", "7.0", "7e0", "0x7", "\u0667", "²", "7\n"),
        *("0", "2000001", "9" * 5000),
    ],
)
def test_an_integer_has_one_grammar(text: str) -> None:
    with pytest.raises(Invalid) as caught:
        values(X_COUNT=text)
    assert str(caught.value) == (
        f"X_COUNT is {text!r}, expected an integer from 1 to 2000000, in bytes"
    )


@pytest.mark.parametrize(
    "text",
    [
        *("1_0.0", " 7", "+7", "-7", "07", "7.", ".7", "7e0", "\u0667", "nan", "inf", "1.2.3"),
        *("7\n", "0.49", "60.01", "9" * 5000),
    ],
)
def test_a_number_has_one_grammar(text: str) -> None:
    with pytest.raises(Invalid) as caught:
        values(X_WAIT_S=text)
    assert str(caught.value) == f"X_WAIT_S is {text!r}, expected seconds from 0.5 to 60"


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("X_RATE", "1.1", "a number from 0 to 1"),
        ("X_LOOP", "Open", "open or closed"),
        ("X_PORTS", "1", "FIRST-LAST"),
        ("X_NAME", "A", "letters"),
        ("X_FLAG", "yes", "true or false"),
    ],
)
def test_other_forms_are_refused_in_words(name: str, text: str, expected: str) -> None:
    with pytest.raises(Invalid) as caught:
        values(**{name: text})
    assert str(caught.value) == f"{name} is {text!r}, expected {expected}"


def test_values_of_options_are_checked_under_their_name() -> None:
    env.check(Example(folder=Path("f"), ports=(1, 2)), Invalid)
    for wrong, sentence in (
        ({"rate": 2.0}, "--rate is '2', expected a number from 0 to 1"),
        ({"rate": float("nan")}, "--rate is 'nan', expected a number from 0 to 1"),
        ({"loop": "x"}, "--loop is 'x', expected open or closed"),
        ({"count": 0}, "X_COUNT is '0', expected an integer from 1 to 2000000, in bytes"),
    ):
        with pytest.raises(Invalid) as caught:
            env.check(Example(folder=Path("f"), ports=(1, 2), **wrong), Invalid)
        assert str(caught.value) == sentence


def test_a_secret_is_not_in_the_repr() -> None:
    settings = Example(**values(X_URL="postgresql://user:hidden@host"), ports=(1, 2))
    assert "hidden" in settings.url
    assert "hidden" not in repr(settings)


def test_a_part_of_the_name_is_the_readers() -> None:
    assert env.read(Part, {"X_REST_PODS": "2", "X_PODS": "3"}, Invalid, "REST") == {"pods": 2}
    with pytest.raises(Invalid, match="X_REST_PODS is '0', expected an integer from 1 to 9"):
        env.read(Part, {"X_REST_PODS": "0"}, Invalid, "REST")


def test_the_table_has_every_declaration() -> None:
    assert env.table(Example).splitlines() == [
        "| Variable | Option | Default | Values | Meaning |",
        "| --- | --- | --- | --- | --- |",
        "| `FOLDER` |  | required | a path | the path of a folder |",
        "| `X_COUNT` |  | 7 | an integer from 1 to 2000000, in bytes | a count |",
        "| `X_WAIT_S` |  | 2 | seconds from 0.5 to 60 | a wait |",
        "| `X_RATE` | `--rate` | none | a number from 0 to 1 | a share |",
        "| `X_LOOP` | `--loop` | open | open or closed | a loop |",
        "| `X_PORTS` |  | few | FIRST-LAST | ports |",
        "| `X_NAME` |  | n | letters | a name |",
        "| `X_FLAG` |  | false | true or false | a flag |",
        "| `X_CORES` |  | the machine's | an integer from 1 to 9 | cores |",
        "|  | `--only` | o | text | an option alone |",
        "| `X_URL` |  | no URL | text | with a password |",
    ]
    assert env.table(Part).splitlines() == [
        "| Variable | Default | Values | Meaning |",
        "| --- | --- | --- | --- |",
        "| `X_…_PODS` | 1 | an integer from 1 to 9 | pods |",
    ]
