"""The check that nothing needs a compiler, on an index of the test's: a folder of wheels."""

import zipfile
from pathlib import Path

import check_wheels
import pytest

PYPROJECT = """
[build-system]
requires = ["builder"]
[project]
name = "prediction-services-x"
dependencies = ["plain", "prediction-services-y"]
[project.optional-dependencies]
fast = ["compiled>=1,<2"]
unused = ["never"]
"""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "requirements.txt").write_text("# All.\n-c constraints.txt\n-e ./x[fast]\n")
    (tmp_path / "constraints.txt").write_text("compiled==1.5\n")
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "pyproject.toml").write_text(PYPROJECT)
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    (tmp_path / "wheels").mkdir()
    for name in ("builder", "plain"):
        wheel(tmp_path, name, "1.0", "py3-none-any")
    return tmp_path


def wheel(root: Path, name: str, version: str, tag: str) -> None:
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(root / "wheels" / f"{name}-{version}-{tag}.whl", "w") as archive:
        archive.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        )
        archive.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nTag: {tag}\n")
        archive.writestr(f"{info}/RECORD", "")


def test_what_make_setup_installs_beyond_our_packages(root: Path) -> None:
    assert check_wheels.requirements(root) == ["builder", "compiled>=1,<2", "plain"]


def test_a_wheel_for_the_interpreter_and_the_platform_passes(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wheel(root, "compiled", "1.5", "cp312-cp312-manylinux_2_28_x86_64")
    assert check_wheels.main(["--python", "3.12"], root) == 0
    assert capsys.readouterr().out == "Python 3.12, Linux x86_64: 3 packages have wheels\n"


@pytest.mark.parametrize(
    ("version", "tag"),
    [
        ("1.5", "cp311-cp311-manylinux_2_28_x86_64"),
        ("1.5", "cp312-cp312-manylinux_2_28_aarch64"),
        ("1.5", "cp312-cp312-manylinux_2_39_x86_64"),
        ("1.6", "cp312-cp312-manylinux_2_28_x86_64"),
    ],
    ids=["another-python", "another-architecture", "a-newer-glibc", "another-version"],
)
def test_another_wheel_or_a_source_distribution_fails(
    version: str, tag: str, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wheel(root, "compiled", version, tag)
    (root / "wheels" / "compiled-1.5.tar.gz").write_bytes(b"")
    assert check_wheels.main(["--python", "3.12"], root) == 1
    out = capsys.readouterr().out
    assert out.startswith("Python 3.12, Linux x86_64: FAILED\n")
    assert "compiled" in out


def test_what_arm64_compiles_is_named(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(check_wheels.WITHOUT_WHEEL, "aarch64", ("compiled",))
    assert check_wheels.main(["--python", "3.13", "--architecture", "aarch64"], root) == 0
    assert capsys.readouterr().out == (
        "Python 3.13, Linux aarch64: 2 packages have wheels; without: compiled\n"
    )
