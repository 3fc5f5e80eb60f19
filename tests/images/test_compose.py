"""`make deploy TARGET=compose`, by podman-compose, with images that no registry has.

Prometheus and Alertmanager are Debian's. Grafana only a registry has: in its place runs a web
server as Grafana's user, which shows that Grafana would find its files, its password, a folder of
its own and the Prometheus that its data source names. That Grafana takes them is not shown here.
"""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests
import yaml
from podman import Podman

from deploy import compose
from monitoring import dashboards
from monitoring.metrics import LOADTEST_REQUESTS, REQUESTS
from polling import eventually
from ports import free_ports

pytestmark = [pytest.mark.images, pytest.mark.timeout(1800)]

ROOT = Path(__file__).parents[2]
DEBIAN = "localhost/test/monitoring:bookworm"
# As the official images are, for their configuration to fit: who runs them, and with which folder.
PROGRAMS = {"prometheus": "prometheus", "alertmanager": "prometheus-alertmanager"}
IN_PLACE_OF_GRAFANA = f"""FROM {DEBIAN}
RUN install -d -o 472 -g 0 -m 775 /var/lib/grafana && mkdir -p /www/api && \\
    touch /www/api/health && ln -s /bin/busybox /usr/bin/wget
USER 472:0
ENTRYPOINT ["busybox", "httpd", "-f", "-p", "3000", "-h", "/www"]
"""


@dataclass(frozen=True)
class Deployed:
    """The stack by compose."""

    podman: Podman
    environ: dict[str, str]
    printed: str

    def deploy(self, *words: str) -> subprocess.CompletedProcess[str]:
        return run(self.environ, *words)

    def query(self, query: str) -> float:
        """One number from Prometheus; 0 without any series."""
        base = f"http://127.0.0.1:{self.environ['SELDON_PROMETHEUS_PORT']}"
        answer = requests.get(f"{base}/api/v1/query", params={"query": query}, timeout=10)
        rows = answer.json()["data"]["result"]
        return float(rows[0]["value"][1]) if rows else 0.0


def run(environ: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "deploy", "compose", *words]
    return subprocess.run(
        command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def deployed(podman: Podman, images: dict[str, str]) -> Iterator[Deployed]:
    assert images
    podman.debootstrap(DEBIAN, "ca-certificates", "busybox", *(PROGRAMS.values()))
    dockerfiles = {
        name: f"FROM {DEBIAN}\nRUN install -d -o nobody /{name}\nUSER nobody\n"
        f'ENTRYPOINT ["{program}"]\n'
        for name, program in PROGRAMS.items()
    }
    for name, text in {**dockerfiles, "grafana": IN_PLACE_OF_GRAFANA}.items():
        tag, context = f"localhost/test/{name}:bookworm", str(podman.home / "tmp")
        podman("build", "--tag", tag, "--file=-", context, text=text)
    rest, grpc, prometheus, alertmanager, grafana = free_ports(5)
    environ = {
        **podman.environ,
        "COMPOSE_PROJECT_NAME": podman.home.name.lower().replace("_", "-"),
        "SELDON_TAG": "test",
        "SELDON_REST_PORT": str(rest),
        "SELDON_GRPC_PORT": str(grpc),
        "SELDON_PROMETHEUS_PORT": str(prometheus),
        "SELDON_ALERTMANAGER_PORT": str(alertmanager),
        "SELDON_GRAFANA_PORT": str(grafana),
        "PROMETHEUS_IMAGE": "localhost/test/prometheus:bookworm",
        "ALERTMANAGER_IMAGE": "localhost/test/alertmanager:bookworm",
        "GRAFANA_IMAGE": "localhost/test/grafana:bookworm",
        "GRAFANA_PASSWORD_FILE": str(podman.home / "grafana" / "password"),
        "LOADTEST_USERS": "6",
        "LOADTEST_DURATION": "6",
        "LOADTEST_WARMUP": "1",
        "LOADTEST_WAIT": "100-200",
    }
    try:
        done = run(environ, "deploy")
        assert done.returncode == 0, done.stdout + done.stderr + run(environ, "logs").stderr
        yield Deployed(podman, environ, done.stdout)
    finally:
        down = run(environ, "undeploy", "--purge")
        assert down.returncode == 0, down.stderr


def test_a_digit_is_predicted_over_both_protocols(deployed: Deployed) -> None:
    assert "a handwritten 7 is predicted as 7 over REST" in deployed.printed
    assert "a handwritten 7 is predicted as 7 over gRPC" in deployed.printed


def test_it_prints_where_everything_is(deployed: Deployed) -> None:
    environ = deployed.environ
    assert f"http://127.0.0.1:{environ['SELDON_REST_PORT']}/js/predict" in deployed.printed
    assert f"http://127.0.0.1:{environ['SELDON_PROMETHEUS_PORT']}" in deployed.printed
    assert f"http://127.0.0.1:{environ['SELDON_GRAFANA_PORT']} (user admin" in deployed.printed


def test_no_log_has_a_secret(deployed: Deployed) -> None:
    found = compose.Compose.find(ROOT, deployed.environ)
    keys = json.loads(found.seldon_cli("keys", "--client-name", "deep_mnist_client"))
    (secret,) = [key["secret"] for key in keys if key["secret"]]
    done = deployed.deploy("logs")
    logs = done.stdout + done.stderr
    assert "committed the strategy of deep_mnist_client" in logs
    assert secret not in logs


def test_a_second_deploy_changes_nothing(deployed: Deployed) -> None:
    def containers() -> str:
        return deployed.podman("ps", "--quiet", "--no-trunc", "--sort=id").stdout

    before = containers()
    done = deployed.deploy("deploy")
    assert done.returncode == 0, done.stderr
    assert containers() == before


def test_status_names_every_service(deployed: Deployed) -> None:
    done = deployed.deploy("status")
    assert done.returncode == 0, done.stdout
    assert re.search(r"^envoy +running$", done.stdout, re.MULTILINE)
    assert re.search(r"^setup +exited \(0\)$", done.stdout, re.MULTILINE)
    assert re.search(r"^grafana +running$", done.stdout, re.MULTILINE)


def test_who_is_no_gateway_does_not_reach_the_control_plane(deployed: Deployed) -> None:
    look = "import socket; socket.create_connection(('control-plane', 8081), timeout=3)"
    project = deployed.environ["COMPOSE_PROJECT_NAME"]
    for service, reached in (("serving-rest", False), ("control-plane", True)):
        done = deployed.podman("exec", f"{project}_{service}_1", "python", "-c", look, check=False)
        assert (done.returncode == 0) is reached, done.stderr


@pytest.mark.parametrize("name", ["prometheus", "alertmanager", "grafana", "envoy", "serving-rest"])
def test_health_checks_pass(deployed: Deployed, name: str) -> None:
    deployed.podman("healthcheck", "run", f"{deployed.environ['COMPOSE_PROJECT_NAME']}_{name}_1")


@pytest.mark.parametrize("test_type", ["js-predict", "grpc-predict"])
def test_a_load_test_runs_and_prometheus_sees_both_sides(
    deployed: Deployed, test_type: str, tmp_path: Path
) -> None:
    environ = {**deployed.environ, "LOADTEST_OUTPUT": str(tmp_path / "results")}
    done = run(environ, "loadtest", "--test-type", test_type)
    assert done.returncode == 0, done.stdout + done.stderr
    path = tmp_path / "results" / "latest" / "summary.json"
    summary = json.loads(path.read_text())
    assert summary["requests"] > 20  # of some 200, where the machine has nothing else to do
    assert summary["failures"] == 0
    assert (path.parent / "report.html").is_file()
    protocol = "rest" if test_type == "js-predict" else "grpc"

    def seen(metric: str) -> float:
        return deployed.query(f'sum(max_over_time({metric}_total{{protocol="{protocol}"}}[5m]))')

    assert seen(LOADTEST_REQUESTS) > 0  # while it ran
    eventually(lambda: seen(REQUESTS) >= summary["requests"], every_s=1)


def test_grafanas_user_finds_what_grafana_reads(deployed: Deployed) -> None:
    container = f"{deployed.environ['COMPOSE_PROJECT_NAME']}_grafana_1"

    def inside(*command: str) -> str:
        return deployed.podman("exec", container, *command).stdout

    assert inside("id", "-u") == "472\n"
    secret = Path(deployed.environ["GRAFANA_PASSWORD_FILE"]).read_text()
    named = inside("printenv", "GF_SECURITY_ADMIN_PASSWORD__FILE").strip()
    assert inside("cat", named) == secret
    inside("touch", "/var/lib/grafana/grafana.db")

    provisioning = "/etc/grafana/provisioning"
    (source,) = yaml.safe_load(inside("sh", "-c", f"cat {provisioning}/datasources/*"))[
        "datasources"
    ]
    asked = f"{source['url']}/api/v1/query?query=up"
    assert json.loads(inside("wget", "-q", "-O", "-", asked))["status"] == "success"
    (provider,) = yaml.safe_load(inside("sh", "-c", f"cat {provisioning}/dashboards/*"))[
        "providers"
    ]
    folder = provider["options"]["path"]
    found = {json.loads(inside("cat", path))["uid"]
             for path in inside("find", folder, "-name", "*.json").split()}  # fmt: skip
    assert found == {board.uid for board in dashboards.DASHBOARDS}


def test_prometheus_sends_its_alerts_to_alertmanager(deployed: Deployed) -> None:
    base = f"http://127.0.0.1:{deployed.environ['SELDON_PROMETHEUS_PORT']}"
    found = requests.get(f"{base}/api/v1/alertmanagers", timeout=10).json()["data"]
    assert [one["url"] for one in found["activeAlertmanagers"]] == [
        "http://alertmanager:9093/api/v2/alerts"
    ]
