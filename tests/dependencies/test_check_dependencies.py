"""The check of declared dependencies, on small packages that deptry has not seen before."""

from pathlib import Path

import check_dependencies
import pytest


def package(root: Path, name: str, code: str, dependencies: str, more: str = "") -> None:
    modules = root / name / "src" / name.replace("-", "_")
    modules.mkdir(parents=True)
    (modules / "__init__.py").write_text(code)
    (root / name / "pyproject.toml").write_text(
        f'[project]\nname = "prediction-services-{name}"\ndependencies = {dependencies}\n{more}'
    )


def findings(root: Path, capsys: pytest.CaptureFixture[str]) -> str:
    status = check_dependencies.main(root)
    out = capsys.readouterr().out
    assert status == int("DEP" in out)
    return out


def test_declared_and_imported_has_no_finding(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    package(tmp_path, "a", "import yaml, a.b\n", '["PyYAML"]')
    package(tmp_path, "b-c", "import a\n", '["prediction-services-a"]')
    assert findings(tmp_path, capsys) == "Dependencies of 2 packages: no issues found\n"


@pytest.mark.parametrize("module", ["urllib3", "google.protobuf", "tensorflow", "a"])
def test_an_import_that_is_not_declared_fails(
    module: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The last one is another package of ours."""
    package(tmp_path, "a", "", "[]")
    package(tmp_path, "b", f"import {module}\n", "[]")
    assert f"'{module.partition('.')[0]}' imported but" in findings(tmp_path, capsys)


@pytest.mark.parametrize("name", ["urllib3", "prediction-services-a"])
def test_a_dependency_that_is_not_imported_fails_unless_listed(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    package(tmp_path, "a", "", "[]")
    listed = f'[tool.deptry.per_rule_ignores]\nDEP002 = ["{name}"]\n'
    package(tmp_path, "b", "", f'["{name}"]', listed)
    assert "no issues found" in findings(tmp_path, capsys)
    package(tmp_path, "c", "", f'["{name}"]')
    assert f"c: Scanning 1 file...\n\npyproject.toml: DEP002 '{name}'" in findings(tmp_path, capsys)
