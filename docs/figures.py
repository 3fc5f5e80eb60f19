"""Fill in the documentation's figures: `python docs/figures.py`.

A figure stands once, in figures.yaml, with the machine, date and command it comes from. A page
quotes it between two comments, which readers do not see:

    costs <!-- figure: rest-cpu -->0.644 ms<!-- /figure --> of CPU
"""

import re
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
IGNORED = {"build", "results", "manifests"}
MARKED = re.compile(r"(<!-- figure: ([\w-]+) -->)(.*?)(<!-- /figure -->)", re.DOTALL)


def listed() -> dict[str, Any]:
    """Return what figures.yaml holds: machines, and runs with their machine, date and command."""
    return dict(yaml.safe_load((ROOT / "docs" / "figures.yaml").read_text(encoding="utf-8")))


def figures() -> dict[str, str]:
    """Return every figure by name, with the machines' names among them."""
    document = listed()
    found = {f"machine-{name}": words for name, words in document["machines"].items()}
    for run in document["runs"]:
        for name, value in run["figures"].items():
            if name in found:
                raise ValueError(f"figure {name} stands twice in figures.yaml, expected once")
            found[name] = re.sub(r"{([\w-]+)}", lambda match: found[match[1]], value)
    return found


def fill(text: str, known: dict[str, str]) -> str:
    """Return `text` with the value of each quoted figure between its comments."""

    def replaced(match: re.Match[str]) -> str:
        opening, name, _, closing = match.groups()
        if name not in known:
            raise ValueError(f"figure {name} is quoted, but not in figures.yaml; add it there")
        value = known[name]
        return f"{opening}\n{value}{closing}" if "\n" in value else f"{opening}{value}{closing}"

    return MARKED.sub(replaced, text)


def pages() -> list[Path]:
    """Return every Markdown page of the repository."""
    folders = (
        path
        for path in ROOT.iterdir()
        if path.is_dir()
        and path.name not in IGNORED
        and (path.name == ".github" or path.name[0] != ".")
    )
    below = (page for folder in folders for page in folder.rglob("*.md"))
    return sorted([*ROOT.glob("*.md"), *below])


if __name__ == "__main__":
    for page in pages():
        before = page.read_text(encoding="utf-8")
        after = fill(before, figures())
        if after != before:
            page.write_text(after, encoding="utf-8")
            sys.stdout.write(f"wrote {page.relative_to(ROOT)}\n")
