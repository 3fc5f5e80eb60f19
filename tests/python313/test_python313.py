"""The servers and the packages they are made of, on the newest Python that we claim."""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from podman import BASE_PACKAGES, Podman, missing_packages

from deploy.images import pip_secrets

pytestmark = [pytest.mark.python313, pytest.mark.timeout(3600)]

ROOT = Path(__file__).parents[2]
DEBIAN = "localhost/test/base:trixie"  # its python3 is 3.13
TESTED = " ".join(
    f"{package}/tests"
    for package in (
        "env-settings", "serving-core", "serving-rest", "serving-grpc", "seldon-gateway",
        "monitoring", "protos", "loadtest",
    )
)  # fmt: skip
SCRIPT = f"""
set -e
python3 -c 'import sys; assert sys.version_info[:2] == (3, 13), sys.version'
python3 -m venv /venv
cd /src
/venv/bin/pip install --quiet --disable-pip-version-check -r requirements-dev.txt
/venv/bin/pytest -n 2 --dist loadscope -p no:cacheprovider {TESTED}
"""


@pytest.fixture
def podman() -> Iterator[Podman]:
    if missing := missing_packages():
        pytest.skip(f"not installed: on Debian, apt-get install {' '.join(missing)}")
    made = Podman(Path(tempfile.mkdtemp(prefix="test-python313-", dir="/var/tmp")))
    yield made
    made.close()


def mounts(secrets: dict[str, Path]) -> Iterator[str]:
    """The repository, to which writes are not kept, and this machine's pip settings and cache."""
    yield f"--volume={ROOT}:/src:O"
    for name, path in secrets.items():
        target = {"pip.conf": "/etc/pip.conf", "ca.crt": "/etc/pip-ca.crt"}[name]
        yield f"--volume={path}:{target}:ro"
    asked = [sys.executable, "-m", "pip", "cache", "dir"]
    cache = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    if Path(cache).is_dir():
        yield f"--volume={cache}:/var/cache/pip"


def test_the_servers_pass_their_tests_on_python_313(
    podman: Podman, capsys: pytest.CaptureFixture[str]
) -> None:
    podman.debootstrap(DEBIAN, *BASE_PACKAGES, suite="trixie")
    with pip_secrets(os.environ) as secrets:
        done = podman(
            *("run", "--rm", "--interactive", *podman.ulimits, *mounts(secrets)),
            *("--env=PIP_CACHE_DIR=/var/cache/pip", "--env=PYTHONDONTWRITEBYTECODE=1"),
            *(DEBIAN, "sh"),
            text=SCRIPT,
            check=False,
        )
    output = done.stdout[-8000:] + done.stderr[-4000:]
    assert done.returncode == 0, output
    closing = re.search(r"^=* ?(\d+) passed.* in [\d.]+s.*$", done.stdout, re.MULTILINE)
    assert closing is not None, output
    with capsys.disabled():
        print(f"\nPython 3.13: {closing[0].strip('= ')}")  # noqa: T201
    assert int(closing[1]) > 500, "fewer tests ran than these packages have"
