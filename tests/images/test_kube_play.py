"""The pods of `make manifests`, run by `podman kube play`: what a schema cannot say of them."""

import hashlib
import json
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
from kube_play import KubePlay
from podman import Podman

from deploy import assignments, check
from deploy.console import wait_until
from deploy.errors import StackUnhealthy
from deploy.kubernetes import manifests
from deploy.kubernetes.objects.loadtest import CREDENTIALS_SECRET
from deploy.kubernetes.objects.serving import DEFAULT, object_name
from deploy.kubernetes.rollout import endpoint
from deploy.kubernetes.settings import KubernetesSettings
from deploy.kubernetes.stack import stack
from deploy.microservices import Api
from deploy.operator_view import Credentials
from loadtest.credentials import VARIABLES as CREDENTIALS
from ports import free_ports
from seldon_gateway.settings import GatewaySettings
from seldon_gateway.strategies import Variation

pytestmark = [pytest.mark.images, pytest.mark.timeout(1800)]

ROOT = Path(__file__).parents[2]
CLIENT = "deep_mnist_client"
DOWNLOAD = "model-download"
SERVERS = tuple(object_name(DEFAULT, api) for api in Api)
SERVICES = ("control-plane", "envoy", *SERVERS)
WORKERS = 2
PATIENCE_S = 60.0
CLAIMS = {"seldon-claim", "control-plane", "loadtest-results"}
# What docs/kubernetes.md has the folder's owner make.
FOLDERS = (".", "control-plane", "loadtest-results")


@dataclass(frozen=True)
class Played:
    """The stack in pods, and a client."""

    podman: Podman
    images: dict[str, str]
    environ: dict[str, str]
    volumes_before: set[str]
    kube: KubePlay
    pods: dict[str, str]
    gateway: GatewaySettings
    shown: Credentials

    def predict(self, api: Api) -> str:
        return check.prediction(api, self.gateway, self.shown)

    def inspect(self, workload: str) -> dict[str, Any]:
        return self.podman.inspect(self.container(workload))

    def container(self, workload: str) -> str:
        """The name of the first container of its pod."""
        first = self.kube.template(workload)["spec"]["containers"][0]
        return f"{self.pods[workload]}-{first['name']}"


def volumes(podman: Podman) -> set[str]:
    return set(podman("volume", "ls", "--quiet").stdout.split())


def rendered(environ: dict[str, str]) -> str:
    return manifests.as_yaml(stack(KubernetesSettings.from_env(environ), {}))


@pytest.fixture(scope="module", params=["claims", "host path"])
def played(
    podman: Podman, images: dict[str, str], request: pytest.FixtureRequest
) -> Iterator[Played]:
    network = podman.home.name
    podman("network", "create", network)
    try:
        environ = {
            "K8S_TAG": "test",
            "K8S_OVERLAYS": "loadtest",
            **model_store(podman, images, network),
            "LOADTEST_USERS": "6",
            "LOADTEST_DURATION": "6",
            "LOADTEST_WARMUP": "1",
            "LOADTEST_WAIT": "100-200",
            "LOADTEST_WORKERS": str(WORKERS),
        }
        if request.param == "host path":
            folder = podman.home / "seldon-data"
            podman(
                *("run", *podman.ulimits, "--rm", "--user=0", f"--volume={podman.home}:/node"),
                *("--entrypoint=install", images["model-download"], "-d", "-o10001", "-g10001"),
                *(f"/node/{folder.name}/{name}" for name in FOLDERS),
            )
            environ["DATA_VOLUME"] = json.dumps({"hostPath": {"path": str(folder)}})
        yield start(podman, images, network, environ)
    finally:
        podman("pod", "rm", "--all", "--force", "--time=0", check=False)
        podman("rm", "--all", "--force", "--time=0", check=False)
        podman("volume", "rm", "--force", *CLAIMS, check=False)
        podman("secret", "rm", "--all", check=False)
        podman("network", "rm", "--force", network)


def model_store(podman: Podman, images: dict[str, str], network: str) -> dict[str, str]:
    """An HTTP server with the model's archive; what the download is told."""
    folder = podman.home / "model-store"
    folder.mkdir(exist_ok=True)
    with tarfile.open(folder / "deep_mnist.tar.gz", "w:gz", compresslevel=1) as archive:
        archive.add(ROOT / "models" / "deep_mnist" / "1", "deep_mnist")
    podman.run(
        *("--detach", "--name=model-store", "--network", network, f"--volume={folder}:/srv:ro"),
        *("--entrypoint=python", images["model-download"]),
        *("-m", "http.server", "8000", "--directory=/srv"),
    )
    return {
        "MODEL_SOURCE": "http://model-store:8000/deep_mnist.tar.gz",
        "MODEL_SHA256": hashlib.sha256((folder / "deep_mnist.tar.gz").read_bytes()).hexdigest(),
    }


def start(podman: Podman, images: dict[str, str], network: str, environ: dict[str, str]) -> Played:
    rest, grpc = free_ports(2)
    volumes_before = volumes(podman)
    kube = KubePlay(podman, network, rendered(environ), {"envoy": {"rest": rest, "grpc": grpc}})
    kube.claim()
    (download,) = (name for name in kube.workloads() if name.startswith("model-download-"))
    with ThreadPoolExecutor() as pool:
        # The servers come before their model, as they may in a cluster, and wait: so does podman.
        playing = {name: pool.submit(kube.play, name) for name in SERVICES}
        playing[DOWNLOAD] = pool.submit(kube.play, download)
    pods = {name: one.result() for name, one in playing.items()}
    kube.probe(*(pods[name] for name in SERVICES), image=images["loadtest"])

    def seldon_cli(*words: str, text: str | None = None) -> str:
        container = f"{pods['control-plane']}-seldon-cli"
        return podman("exec", "--interactive", container, "seldon-cli", *words, text=text).stdout

    seldon_cli("client", "--action", "setup", "--db-name", "ClientDB", "--client-name", CLIENT)
    served = [(api, Variation(DEFAULT, 1.0, (endpoint(DEFAULT, api),))) for api in Api]
    before = seldon_cli("--quiet", "routing", "--action", "show")
    after = assignments.from_json(before) | assignments.of_client(CLIENT, served)
    seldon_cli("routing", "--action", "move", text=f"{before}{assignments.to_json(after)}\n")
    keys = json.loads(seldon_cli("--quiet", "keys", "--client-name", CLIENT))
    js, every = ({key["scope"]: key for key in keys}[scope] for scope in ("js", "all"))
    shown = Credentials(js["key"], every["key"], every["secret"])
    gateway = GatewaySettings.from_env(
        {"SELDON_REST_PORT": str(rest), "SELDON_GRPC_PORT": str(grpc)}
    )
    made = Played(podman, images, environ, volumes_before, kube, pods, gateway, shown)
    # Envoy is told, then asks for the servers' addresses.
    assert wait_until(lambda: all(answers(made, api) for api in Api), PATIENCE_S)
    return made


def answers(played: Played, api: Api) -> bool:
    try:
        return bool(played.predict(api))
    except StackUnhealthy:
        return False


def test_the_download_ends_and_the_servers_have_its_model(played: Played) -> None:
    done = played.podman("wait", f"{played.pods[DOWNLOAD]}-{DOWNLOAD}")
    assert done.stdout == "0\n"
    folder = "/seldon-data/seldon-models/deep_mnist/1"
    for server in SERVERS:
        found = played.podman("exec", played.container(server), "ls", folder).stdout
        assert "model.json" in found.split()


@pytest.mark.parametrize("api", list(Api))
def test_a_digit_is_predicted(played: Played, api: Api) -> None:
    assert "a handwritten 7 is predicted as 7 over" in played.predict(api)


@pytest.mark.parametrize("workload", SERVICES)
def test_a_container_runs_as_it_is_rendered(played: Played, workload: str) -> None:
    for container in played.kube.template(workload)["spec"]["containers"]:
        name = f"{played.pods[workload]}-{container['name']}"
        running = played.podman.inspect(name)
        assert running["HostConfig"]["ReadonlyRootfs"]
        assert not running["EffectiveCaps"]
        assert "no-new-privileges" in running["HostConfig"]["SecurityOpt"]
        limit = container["resources"]["limits"]["memory"]
        assert running["HostConfig"]["Memory"] == in_bytes(limit)
        look = (
            "id -u; id -g; for f in / /etc /app /seldon-data /tmp; do test -w $f && echo $f; done"
        )
        user, group, *written = played.podman(
            "exec", name, "sh", "-c", look, check=False
        ).stdout.split()
        assert (user, group) == ("10001", "10001")
        assert written == ["/tmp"]  # noqa: S108 - its own


def in_bytes(quantity: str) -> int:
    return int(quantity[:-2]) * {"Mi": 2**20, "Gi": 2**30}[quantity[-2:]]


@pytest.mark.parametrize("test_type", ["js-predict", "grpc-predict"])
def test_a_load_test_runs_in_its_pods(played: Played, test_type: str) -> None:
    podman, network = played.podman, played.podman.home.name
    kube = KubePlay(podman, network, rendered({**played.environ, "LOADTEST_TEST_TYPE": test_type}))
    kube.secret(CREDENTIALS_SECRET, dict(zip(CREDENTIALS, astuple(played.shown), strict=True)))
    # Load generators may be there before their master.
    workers = [kube.play("loadtest-worker", number) for number in range(WORKERS)]
    master = kube.play("loadtest")
    ended = [f"{master}-loadtest", *(f"{worker}-loadtest-worker" for worker in workers)]
    codes = podman("wait", *ended).stdout.split()
    assert codes == ["0"] * len(ended), [podman("logs", one).stderr for one in ended]

    results = f"--volume={kube.source('loadtest-results')}:/results:ro"
    path = "/results/latest/summary.json"
    read = podman.run("--rm", results, played.images["loadtest"], "cat", path)
    summary = json.loads(read.stdout)
    assert summary["valid"]
    assert summary["processes"] == WORKERS
    assert summary["requests"] > 20  # of some 200, where the machine has nothing else to do
    assert summary["failures"] == 0
    for pod in (master, *workers):
        kube.down(pod)
    podman("secret", "rm", CREDENTIALS_SECRET)


def test_a_draining_envoy_closes_its_connections(played: Played) -> None:
    (envoy,) = played.kube.template("envoy")["spec"]["containers"]
    before_stop = envoy["lifecycle"]["preStop"]["exec"]["command"]
    url = f"http://127.0.0.1:{played.gateway.rest_port}/health/ready"
    assert "connection" not in requests.get(url, timeout=10).headers
    done = played.podman("exec", f"{played.pods['envoy']}-envoy", *before_stop)
    assert done.stdout.startswith("HTTP/1.1 200")
    assert requests.get(url, timeout=10).headers["connection"] == "close"


def test_down_leaves_the_data_alone(played: Played) -> None:
    podman = played.podman
    podman("rm", "--force", "--time=0", "model-store")
    podman("pod", "stop", "--time=20", *(played.pods[name] for name in SERVICES))
    for name in SERVICES:
        assert played.inspect(name)["State"]["ExitCode"] == 0
    for pod in played.pods.values():
        played.kube.down(pod)
    assert not podman("ps", "--all", "--quiet").stdout
    assert not podman("pod", "ps", "--quiet").stdout
    left = volumes(podman) - played.volumes_before
    assert left == {claim for claim in CLAIMS if played.kube.source(claim) == claim}
