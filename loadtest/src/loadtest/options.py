"""Command-line options shared by every command that generates load."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

import click

from env_settings import Setting, default_words, settings_of
from loadtest.errors import SettingInvalid
from loadtest.settings import LoadTestSettings

Command = TypeVar("Command", bound=Callable[..., Any])

# Each command declares the client and the protocol, the two without a default, itself.
_SETTINGS = {
    one.field: one for one in settings_of(LoadTestSettings) if one.option and not one.required
}
_METAVARS = {int: "INTEGER", float: "NUMBER"}


def _option(setting: Setting) -> Callable[[Command], Command]:
    known = f"default: {default_words(setting)}"
    if setting.name:
        known = f"env: {setting.name}; {known}"
    meaning = setting.meaning[0].upper() + setting.meaning[1:]
    if not setting.choices and setting.expected not in {"text", "a path"}:
        meaning += f": {setting.expected}"
    return click.option(
        setting.option,
        setting.field,
        type=click.Choice(setting.choices) if setting.choices else str,
        metavar=None if setting.choices else _METAVARS.get(setting.kind, "TEXT"),
        help=f"{meaning}. [{known}]",
    )


def load_options(defaults: Mapping[str, str] | None = None) -> Callable[[Command], Command]:
    """Add the options to a command; `given` turns their values into settings.

    Args:
        defaults: The command's own defaults, by variable, which its help then shows.
    """

    def add(command: Command) -> Command:
        command = click.option(
            "--wait-ms",
            "wait_pair",
            type=float,
            nargs=2,
            help="Same as --wait, as two numbers MIN MAX.",
        )(command)
        for setting in reversed(_SETTINGS.values()):
            if own := (defaults or {}).get(setting.name):
                setting = replace(setting, default=setting.parse(own), words="")
            command = _option(setting)(command)
        return command

    return add


def given(flags: dict[str, Any]) -> dict[str, Any]:
    """Option values by LoadTestSettings field; None where an option is absent.

    Raises:
        SettingInvalid: A value has another form or is out of bounds, or the wait was set twice.
    """
    values = {
        name: _SETTINGS[name].value(text, _SETTINGS[name].option, SettingInvalid)
        for name, text in flags.items()
        if name in _SETTINGS and text is not None
    }
    pair = flags["wait_pair"]
    if pair is not None and "wait_ms" in values:
        raise SettingInvalid("--wait and --wait-ms are both set, expected one; remove the other")
    return values if pair is None else values | {"wait_ms": pair}
