"""Every page quotes its figures from docs/figures.yaml, which says where each comes from."""

import json
import re
from pathlib import Path

import pytest

import figures

ROOT = Path(__file__).parents[2]

# Pages that are records of their day, or generated from other files.
RECORDS = re.compile(r"CHANGELOG\.md|docs/performance-log\.md|docs/adr/|models/deep_mnist/")


@pytest.mark.parametrize("page", figures.pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_quotes_the_figures_as_they_are(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert figures.fill(text, figures.figures()) == text, "run `make figures`"


def test_a_changed_figure_is_drift() -> None:
    text = "costs <!-- figure: cpu -->1 ms<!-- /figure --> of CPU"
    assert figures.fill(text, {"cpu": "2 ms"}) == text.replace("1 ms", "2 ms")
    with pytest.raises(ValueError, match="cpu is quoted"):
        figures.fill(text, {})


def test_every_run_names_its_machine_date_and_command() -> None:
    runs = figures.listed()["runs"]
    assert runs
    for run in runs:
        assert run["machine"], run
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", str(run["date"])), run
        assert run["command"].startswith("make "), run


def test_every_figure_is_quoted() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in figures.pages())
    listed = (ROOT / "docs" / "figures.yaml").read_text(encoding="utf-8")
    unused = [
        name
        for name in figures.figures()
        if f"<!-- figure: {name} -->" not in text
        and f"{{{name}}}" not in listed
        and not name.startswith("machine-")
    ]
    assert not unused, f"in docs/figures.yaml and on no page: {unused}"


def test_a_figure_stands_nowhere_without_its_comments() -> None:
    """Three digits or more: shorter ones may be alike by chance."""
    telling = {
        name: value
        for name, value in figures.figures().items()
        if "\n" not in value and len(re.findall(r"\d", value)) >= 3
    }
    assert telling
    found = []
    for page in figures.pages():
        where = str(page.relative_to(ROOT))
        if RECORDS.match(where):
            continue
        rest = figures.MARKED.sub("", page.read_text(encoding="utf-8"))
        found += [
            f"{where}: {value} is figure {name}"
            for name, value in telling.items()
            if re.search(rf"(?<![\d.,]){re.escape(value)}(?![\d.,]*\d)", rest)
        ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(("version", "figure"), [("1", "accuracy-float32"), ("2", "accuracy-int8")])
def test_the_accuracy_is_that_of_the_model_folder(version: str, figure: str) -> None:
    described = json.loads((ROOT / f"models/deep_mnist/{version}/model.json").read_text())
    accuracy = described["accuracy"]["test"]["accuracy"]
    assert figures.figures()[figure] == f"{accuracy:.2%}".replace("%", " %")
