"""Every settings table of the documentation is the one of the declaration."""

from dataclasses import is_dataclass
from importlib import import_module
from pathlib import Path

import pytest

import figures
import settings_tables
from env_settings import settings_of


@pytest.mark.parametrize(
    "page", figures.pages(), ids=lambda page: str(page.relative_to(figures.ROOT))
)
def test_a_page_has_the_tables_as_they_are_declared(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert settings_tables.fill(text) == text, "run `make settings`"


def test_every_class_of_settings_is_on_a_page() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in figures.pages())
    quoted = {match[2] for match in settings_tables.MARKED.finditer(text)}
    declared = set()
    for path in figures.ROOT.glob("*/src/**/settings.py"):
        parts = path.relative_to(figures.ROOT).with_suffix("").parts[2:]
        module = import_module(".".join(parts))
        declared |= {
            f"{module.__name__}.{name}"
            for name, found in vars(module).items()
            if isinstance(found, type)
            and found.__module__ == module.__name__
            and is_dataclass(found)
            and any(settings_of(found))
        }
    assert quoted == declared


def test_a_changed_default_is_drift() -> None:
    page = figures.ROOT / "serving-rest" / "README.md"
    text = page.read_text(encoding="utf-8")
    changed = text.replace("| `REST_PORT` | 8500 |", "| `REST_PORT` | 8501 |")
    assert changed != text
    assert settings_tables.fill(changed) == text


def test_a_class_that_is_not_there_is_named() -> None:
    with pytest.raises(ValueError, match=r"serving_rest\.settings\.Gone"):
        settings_tables.fill("<!-- settings: serving_rest.settings.Gone -->\n<!-- /settings -->")
