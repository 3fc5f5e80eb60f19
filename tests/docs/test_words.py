"""Pages use the field's words; docs/words.yaml lists what they avoid."""

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


def found(text: str) -> list[str]:
    phrases = (" ".join(match[1].lower().split()) for match in FORBIDDEN.finditer(text))
    return [f"{phrase!r}: say {INSTEAD[phrase]!r}" for phrase in phrases]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_uses_the_fields_words(page: Path) -> None:
    assert not found(page.read_text(encoding="utf-8"))


def test_a_phrase_over_two_lines_is_found() -> None:
    assert found("how many digits\n  told right") == ["'digits told right': say 'accuracy'"]
    assert not found("a figure in turn stated")
