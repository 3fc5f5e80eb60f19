"""Pages and messages use the field's words; docs/words.yaml lists what they avoid."""

import ast
import re
from pathlib import Path

import pytest
import yaml

import figures

ROOT = Path(__file__).parents[2]
WORDS: dict[str, str] = yaml.safe_load((ROOT / "docs" / "words.yaml").read_text(encoding="utf-8"))
INSTEAD = {" ".join(phrase.lower().split()): say for phrase, say in WORDS.items()}
# Longer phrases first: "digits told right" before "told right". A line may end inside a phrase.
FORBIDDEN = re.compile(
    r"\b("
    + "|".join(re.escape(p).replace(r"\ ", r"\s+") for p in sorted(INSTEAD, key=len, reverse=True))
    + r")\b",
    re.IGNORECASE,
)
PAGES = figures.pages()
# Keys in summary.json, which stay as they are.
KEYS = {"gateway to server and back", "waiting for the model", "the model computes"}
MODULES = sorted(
    path for path in ROOT.glob("*/src/**/*.py") if "protos" not in path.relative_to(ROOT).parts
)


def found(text: str) -> list[str]:
    phrases = (" ".join(match[1].lower().split()) for match in FORBIDDEN.finditer(text))
    return [f"{phrase!r}: say {INSTEAD[phrase]!r}" for phrase in phrases]


def strings(module: Path) -> list[str]:
    """Docstrings, help texts and messages, also the fixed parts of f-strings."""
    tree = ast.parse(module.read_text(encoding="utf-8"))
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value not in KEYS
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_uses_the_fields_words(page: Path) -> None:
    assert not found(page.read_text(encoding="utf-8"))


def test_messages_help_and_docstrings_use_the_fields_words() -> None:
    assert MODULES
    wrong = {
        str(module.relative_to(ROOT)): said
        for module in MODULES
        if (said := [line for text in strings(module) for line in found(text)])
    }
    assert not wrong, "\n".join(f"{name}: {said}" for name, said in wrong.items())


def test_a_phrase_over_two_lines_is_found() -> None:
    assert found("how many digits\n  told right") == ["'digits told right': say 'accuracy'"]
    assert not found("a figure in turn stated")
