"""Fill in the documentation's tables of settings: `python docs/settings_tables.py`.

A setting is declared once, in the settings.py of its package. A page names the class between two
comments, which readers do not see:

    <!-- settings: serving_rest.settings.Settings -->
    ...
    <!-- /settings -->
"""

import re
import sys
from pydoc import locate
from typing import Any

import figures
from env_settings import table

MARKED = re.compile(r"(<!-- settings: ([\w.]+) -->\n).*?(<!-- /settings -->)", re.DOTALL)


def fill(text: str) -> str:
    """Return `text` with the table of each named class between its comments."""

    def replaced(match: re.Match[str]) -> str:
        opening, name, closing = match.groups()
        cls: Any = locate(name)
        if cls is None:
            raise ValueError(f"settings {name} are quoted, but there is no such class")
        return f"{opening}\n{table(cls)}\n\n{closing}"

    return MARKED.sub(replaced, text)


if __name__ == "__main__":
    for page in figures.pages():
        before = page.read_text(encoding="utf-8")
        after = fill(before)
        if after != before:
            page.write_text(after, encoding="utf-8")
            sys.stdout.write(f"wrote {page.relative_to(figures.ROOT)}\n")
