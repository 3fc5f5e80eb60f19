"""Every package and image carries the licence."""

import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = sorted(path.parent for path in ROOT.glob("*/pyproject.toml"))
DOCKERFILES = sorted(ROOT.glob("*/*ockerfile"))


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_package_carries_the_licence(package: Path) -> None:
    project = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    assert project["license"] == "Apache-2.0"
    assert project["license-files"] == ["LICENSE", "NOTICE"]
    for name in project["license-files"]:
        assert (package / name).resolve() == ROOT / name


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_image_carries_the_licence(dockerfile: Path) -> None:
    text = dockerfile.read_text()
    assert 'org.opencontainers.image.licenses="Apache-2.0"' in text
    # What the packages' links point at must be in the build.
    assert "COPY constraints.txt LICENSE NOTICE ./" in text
    assert {"!LICENSE", "!NOTICE"} <= set((ROOT / ".dockerignore").read_text().splitlines())
