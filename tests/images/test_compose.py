"""`make deploy TARGET=compose`, by podman-compose, with images that no registry has.

Grafana is left out: it comes from a registry alone. Its files are checked by the monitoring's tests.
"""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from podman import Podman

from local_stack import free_ports

pytestmark = [pytest.mark.images, pytest.mark.timeout(1800)]

ROOT = Path(__file__).parents[2]
PATIENCE_S = 60.0
DEBIAN = "localhost/test/monitoring:bookworm"
# As the official images are, for their configuration to fit: who runs them, and with which folder.
PROGRAMS = {"prometheus": "prometheus", "alertmanager": "prometheus-alertmanager"}


@dataclass(frozen=True)
class Deployed:
    """The stack by compose."""

    podman: Podman
    environ: dict[str, str]
    printed: str

    def deploy(self, *words: str) -> subprocess.CompletedProcess[str]:
        return run(self.environ, *words)


def run(environ: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "deploy", "compose", *words]
    return subprocess.run(
        command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def deployed(podman: Podman, images: dict[str, str]) -> Iterator[Deployed]:
    assert images
    podman.debootstrap(DEBIAN, "ca-certificates", *(PROGRAMS.values()))
    for name, program in PROGRAMS.items():
        podman(
            *(
                "build",
                "--tag",
                f"localhost/test/{name}:bookworm",
                "--file=-",
                str(podman.home / "tmp"),
            ),
            text=f"FROM {DEBIAN}\nRUN install -d -o nobody /{name}\nUSER nobody\n"
            f'ENTRYPOINT ["{program}"]\n',
        )
    rest, grpc, prometheus, alertmanager = free_ports(4)
    environ = {
        **podman.environ,
        "CONTAINERS_CONF": str(podman.configuration()),
        "COMPOSE_PROJECT_NAME": podman.home.name.lower().replace("_", "-"),
        "SELDON_TAG": "test",
        "SELDON_REST_PORT": str(rest),
        "SELDON_GRPC_PORT": str(grpc),
        "SELDON_PROMETHEUS_PORT": str(prometheus),
        "SELDON_ALERTMANAGER_PORT": str(alertmanager),
        "PROMETHEUS_IMAGE": "localhost/test/prometheus:bookworm",
        "ALERTMANAGER_IMAGE": "localhost/test/alertmanager:bookworm",
        "GRAFANA_PASSWORD_FILE": str(podman.home / "grafana" / "password"),
        "LOADTEST_USERS": "6",
        "LOADTEST_DURATION": "6",
        "LOADTEST_WARMUP": "1",
        "LOADTEST_WAIT": "100-200",
    }
    try:
        done = run(environ, "deploy", "--without", "grafana")
        assert done.returncode == 0, done.stdout + done.stderr + run(environ, "logs").stderr
        yield Deployed(podman, environ, done.stdout)
    finally:
        down = run(environ, "undeploy", "--purge")
        assert down.returncode == 0, down.stderr


def test_a_digit_is_predicted_over_both_protocols(deployed: Deployed) -> None:
    assert "a handwritten 7 is predicted as 7 over REST" in deployed.printed
    assert "a handwritten 7 is predicted as 7 over gRPC" in deployed.printed
