"""Settings from environment variables, each declared once, as a field of a dataclass.

    import env_settings as env

    @dataclass(frozen=True)
    class Settings:
        port: int = env.integer("REST_PORT", 8500, 0, 65_535, "port to listen on")

`read` parses the variables, `check` validates values from elsewhere, `table` documents them all.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypedDict, Unpack

REQUIRED: Any = MISSING

# Stricter than int() and float(), which accept "1_000", " 7", "nan" and digits of other scripts.
_NUMBER = {int: re.compile(r"0|[1-9][0-9]*"), float: re.compile(r"(0|[1-9][0-9]*)(\.[0-9]+)?")}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A declared setting.

    Attributes:
        name: Its environment variable; empty if only an option sets it. "…" stands for a part that
            the reader gives.
        meaning: One phrase, in Markdown.
        expected: The accepted values in words.
        parse: The value of a text; raises ValueError.
        accepts: Whether a value is within the limits.
        words: The default in words, if it depends on the machine or on another setting.
        option: Its command-line option, if it has one.
    """

    name: str
    meaning: str
    expected: str
    parse: Callable[[str], Any] = str
    accepts: Callable[[Any], bool] = lambda _: True
    words: str = ""
    option: str = ""
    kind: type = str
    choices: tuple[str, ...] = ()
    field: str = ""
    default: Any = None

    @property
    def required(self) -> bool:
        """Whether there is no default."""
        return self.default is MISSING and not self.words

    def value(self, text: str, source: str, invalid: type[Exception]) -> Any:
        """The value of `text`, which the variable or option `source` has.

        Raises:
            invalid: Names the source, the text and what was expected.
        """
        try:
            value = self.parse(text)
        except ValueError:
            value = None
        if value is None or not self.accepts(value):
            raise invalid(f"{source} is {text!r}, expected {self.expected}")
        return value


class Further(TypedDict, total=False):
    """What any setting may have besides, see Setting."""

    words: str
    option: str


def parsed(
    name: str, default: Any, parse: Callable[[str], Any], meaning: str,
    *, secret: bool = False, **rest: Any,
) -> Any:  # fmt: skip
    """A text of a form of its own, which `parse` refuses by None or ValueError."""
    known = {"setting": Setting(name=name, meaning=meaning, parse=parse, **rest)}
    if callable(default):
        return field(default_factory=default, repr=not secret, metadata=known)
    return field(default=default, repr=not secret, metadata=known)


def integer(
    name: str, default: Any, least: int, most: int, meaning: str, *, unit: str = "",
    **further: Unpack[Further],
) -> Any:  # fmt: skip
    """An integer within bounds, both included."""
    return parsed(
        name, default, lambda text: number(text, int), meaning, kind=int,
        expected=f"an integer from {least} to {most}" + (f", in {unit}" if unit else ""),
        accepts=lambda value: least <= value <= most, **further,
    )  # fmt: skip


def decimal(
    name: str, default: Any, least: float, most: float, meaning: str, *, unit: str = "a number",
    **further: Unpack[Further],
) -> Any:  # fmt: skip
    """A number within bounds, both included."""
    return parsed(
        name, default, number, meaning, kind=float,
        expected=f"{unit} from {plain(least)} to {plain(most)}",
        accepts=lambda value: least <= value <= most, **further,
    )  # fmt: skip


def seconds(
    name: str, default: Any, least: float, most: float, meaning: str, **further: Unpack[Further]
) -> Any:
    """A duration."""
    return decimal(name, default, least, most, meaning, unit="seconds", **further)


def choice(
    name: str, default: Any, choices: tuple[str, ...], meaning: str, **further: Unpack[Further]
) -> Any:
    """One of a few texts."""
    return parsed(
        name, default, str, meaning, expected=" or ".join(choices), choices=choices,
        accepts=lambda value: value in choices, **further,
    )  # fmt: skip


def flag(name: str, default: Any, meaning: str) -> Any:
    """True or false."""
    values = {"true": True, "false": False}
    return parsed(
        name, default, lambda text: values.get(text.lower()), meaning, expected="true or false"
    )


def path(name: str, default: Any, meaning: str, **further: Unpack[Further]) -> Any:
    """The path of a file or folder."""
    return parsed(name, default, Path, meaning, expected="a path", **further)


def text(
    name: str, default: Any, meaning: str, *, secret: bool = False, **further: Unpack[Further]
) -> Any:
    """Any text; a secret one is not in the repr of the dataclass."""
    return parsed(name, default, str, meaning, secret=secret, expected="text", **further)


def matching(
    name: str, default: Any, pattern: str, meaning: str, *, expected: str, words: str = ""
) -> Any:
    """A text that matches a pattern."""
    found = re.compile(pattern).fullmatch
    return parsed(
        name, default, lambda text: text if found(text) else None, meaning, expected=expected,
        words=words,
    )  # fmt: skip


def number(text: str, kind: type = float) -> Any:
    """The int or float of a plain decimal.

    Raises:
        ValueError: It has another form.
    """
    if not _NUMBER[kind].fullmatch(text):
        raise ValueError
    return kind(text)


def plain(value: Any) -> str:
    """A value as it is written in the environment."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.12g}" if isinstance(value, float) else str(value)


def settings_of(cls: type) -> Iterator[Setting]:
    """The settings that a dataclass declares."""
    for one in fields(cls):
        if "setting" in one.metadata:
            yield replace(one.metadata["setting"], field=one.name, default=one.default)


def read(
    cls: type, environ: Mapping[str, str], invalid: type[Exception], part: str = ""
) -> dict[str, Any]:
    """The values of the variables that are set, by field; an empty variable counts as unset.

    Raises:
        invalid: Names the variable, its value and what was expected.
    """
    values = {}
    for setting in settings_of(cls):
        name = setting.name.replace("…", part)
        if text := environ.get(name):
            values[setting.field] = setting.value(text, name, invalid)
        elif name and setting.required:
            raise invalid(f"{name} is not set, expected {setting.meaning}")
    return values


def check(settings: Any, invalid: type[Exception]) -> None:
    """Validate the values of a dataclass that do not come from the environment.

    Raises:
        invalid: Names the option, its value and what was expected.
    """
    for setting in settings_of(type(settings)):
        value = getattr(settings, setting.field)
        if value is not None and not setting.accepts(value):
            source = setting.option or setting.name
            raise invalid(f"{source} is {plain(value)!r}, expected {setting.expected}")


def default_words(setting: Setting) -> str:
    """The default of a setting in words."""
    if setting.words or setting.required:
        return setting.words or "required"
    return "none" if setting.default is None else plain(setting.default)


def table(cls: type) -> str:
    """The settings as a Markdown table, with a column of options if there are any."""
    settings = list(settings_of(cls))
    columns = {
        "Variable": [_code(one.name) for one in settings],
        "Option": [_code(one.option) for one in settings],
        "Default": [default_words(one) for one in settings],
        "Values": [one.expected for one in settings],
        "Meaning": [one.meaning for one in settings],
    }
    if not any(columns["Option"]):
        del columns["Option"]
    lines = [list(columns), ["---"] * len(columns), *zip(*columns.values(), strict=True)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _code(text: str) -> str:
    return f"`{text}`" if text else ""
