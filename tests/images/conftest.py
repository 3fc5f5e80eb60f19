"""Images that no registry has: made once for all tests of this folder."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from podman import BASE_PACKAGES, BUILD_PACKAGES, Podman, missing_packages

from deploy.images import IMAGES

BASE, BUILD = "localhost/test/base:bookworm", "localhost/test/build:bookworm"
# Stands in this machine's settings of pip while images are built.
MARK = "a-package-host-that-no-image-may-name.invalid"


@pytest.fixture(scope="session")
def podman() -> Iterator[Podman]:
    if missing := missing_packages():
        pytest.skip(f"not installed: on Debian, apt-get install {' '.join(missing)}")
    made = Podman(Path(tempfile.mkdtemp(prefix="test-images-", dir="/var/tmp")))
    yield made
    made.close()


@pytest.fixture(scope="session")
def mark() -> str:
    return MARK


@pytest.fixture(scope="session")
def bases(podman: Podman) -> tuple[str, ...]:
    """Options of a build on Debian's Python."""
    podman.debootstrap(BASE, *BASE_PACKAGES)
    podman.debootstrap(BUILD, *BASE_PACKAGES, *BUILD_PACKAGES)
    return ("--base-image", BASE, "--build-image", BUILD)


@pytest.fixture(scope="session")
def images(podman: Podman, bases: tuple[str, ...]) -> dict[str, str]:
    """Each image's full name by its last part."""
    built = podman.build(
        *(*bases, "--envoy-package", "--tag", "test"),
        PIP_TRUSTED_HOST=f"{os.environ.get('PIP_TRUSTED_HOST', '')} {MARK}",
    )
    found = {name.rpartition("/")[2].removesuffix(":test"): name for name in built}
    assert found.keys() == {image.name for image in IMAGES}
    return found
