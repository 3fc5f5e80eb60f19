"""The images, built without a registry, and the stack made of them."""

import hashlib
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
import requests
from google.protobuf.any_pb2 import Any as Packed
from podman import Podman

import seldon_pb2
import seldon_pb2_grpc
from polling import eventually
from serving_core.digits import held_out

pytestmark = [pytest.mark.images, pytest.mark.timeout(1800)]

ROOT = Path(__file__).parents[2]
BASE = "localhost/test/base:bookworm"
MARK = "a-package-host-that-no-image-may-name.invalid"
CLIENT = "deep_mnist_client"
SERVICES = ("control-plane", "envoy", "serving-rest", "serving-grpc")
# In megabytes, podman's; Debian's own packages are 200 of them.
LARGEST = {
    "serving-rest": 400,
    "serving-grpc": 400,
    "control-plane": 350,
    "envoy": 400,
    "loadtest": 700,
    "model-download": 450,
}
DIGITS = held_out()
PATIENCE_S = 60.0
HEAP_MIB = 768  # not the default


@dataclass(frozen=True)
class Stack:
    """The four containers on one network, and a client."""

    podman: Podman
    images: dict[str, str]
    network: str
    rest: str
    grpc: str
    keys: dict[str, dict[str, str]]

    def token(self) -> str:
        key = self.keys["all"]
        answer = requests.get(
            f"{self.rest}/token",
            params={"consumer_key": key["key"], "consumer_secret": key["secret"]},
            timeout=10,
        )
        answer.raise_for_status()
        return str(answer.json()["access_token"])

    def predict(self, index: int) -> requests.Response:
        return requests.post(
            f"{self.rest}/js/predict",
            params={"consumer_key": self.keys["js"]["key"]},
            json={"data": DIGITS.images[index].tolist()},
            timeout=10,
        )


@pytest.fixture(scope="module")
def stack(podman: Podman, images: dict[str, str]) -> Iterator[Stack]:
    network = podman.home.name
    podman("network", "create", network)
    try:
        yield start(podman, images, network)
    finally:
        podman("rm", "--all", "--force", "--time=0", check=False)
        podman("network", "rm", "--force", network)


def start(podman: Podman, images: dict[str, str], network: str) -> Stack:
    def service(name: str, *options: str) -> None:
        podman.run(
            *("--detach", "--name", name, "--hostname", name, "--network", network),
            *(*options, images[name]),
        )

    def seldon_cli(*words: str, text: str | None = None) -> str:
        return podman.run(
            *("--rm", "--interactive", "--volume=registry:/data", images["loadtest"]),
            *("seldon-cli", "--quiet", *words),
            text=text,
        ).stdout

    model = f"--volume={ROOT}/models/deep_mnist/1:/models:ro"
    service("control-plane", "--volume=registry:/data")
    service("serving-rest", model)
    service("serving-grpc", model)
    heap = f"--env=SELDON_ENVOY_HEAP={HEAP_MIB}"
    service("envoy", heap, "--publish=127.0.0.1::8080", "--publish=127.0.0.1::5000")

    seldon_cli("client", "--action=setup", "--db-name=ClientDB", f"--client-name={CLIENT}")
    seldon_cli(
        *("predict_alg", "--action=create", f"--client-name={CLIENT}", "-f", "-"),
        text=json.dumps(documented_strategy()),
    )
    seldon_cli("predict_alg", "--action=commit", f"--client-name={CLIENT}")
    keys = json.loads(seldon_cli("keys", f"--client-name={CLIENT}"))

    made = Stack(
        podman,
        images,
        network,
        f"http://{podman('port', 'envoy', '8080').stdout.strip()}",
        podman("port", "envoy", "5000").stdout.strip(),
        {key["scope"]: key for key in keys},
    )
    soon(lambda: made.predict(0).status_code == 200, made)
    return made


def documented_strategy() -> object:
    """The one in docs/containers.md, so that what stands there works."""
    text = (ROOT / "docs" / "containers.md").read_text()
    return json.loads(text.split("```json\n")[1].split("```")[0])


def soon(condition: Callable[[], bool], stack: Stack) -> None:
    try:
        eventually(condition, within_s=PATIENCE_S, ignored=requests.RequestException)
    except AssertionError as error:
        logs = [stack.podman("logs", name, check=False) for name in SERVICES]
        pytest.fail("\n".join([str(error), *(log.stdout + log.stderr for log in logs)]))


# What is in the images


@pytest.mark.parametrize("name", LARGEST)
def test_no_image_is_larger_than_it_must_be(
    podman: Podman, images: dict[str, str], name: str
) -> None:
    assert podman.inspect(images[name])["Size"] < LARGEST[name] * 10**6


@pytest.mark.parametrize("name", LARGEST)
def test_an_image_says_what_it_is_and_runs_as_nobody(
    podman: Podman, images: dict[str, str], name: str
) -> None:
    image = podman.inspect(images[name])
    labels = image["Labels"]
    assert image["User"] == "10001:10001"
    assert labels["org.opencontainers.image.title"] == f"prediction-services/{name}"
    assert labels["org.opencontainers.image.version"] != "0"
    assert labels["org.opencontainers.image.revision"]
    assert labels["org.opencontainers.image.description"]
    assert labels["org.opencontainers.image.base.name"] == BASE
    assert image["Healthcheck"]["Test"][0] == (
        "NONE" if name in ("loadtest", "model-download") else "CMD"
    )


@pytest.mark.parametrize("name", LARGEST)
def test_no_image_has_a_compiler_tensorflow_or_the_way_to_its_packages(
    podman: Podman, images: dict[str, str], name: str
) -> None:
    found = podman.run(
        *("--rm", "--entrypoint=sh", images[name], "-c"),
        "ls /app/lib/python3*/site-packages/tensorflow /etc/pip.conf /etc/pip-ca.crt 2>/dev/null;"
        "for name in cc gcc g++ c++ clang tcc ld as make; do command -v $name; done; true",
    ).stdout
    assert not found
    save, count = ["podman", "save", images[name]], ["grep", "--text", "--count", MARK]
    with subprocess.Popen(save, env=podman.environ, stdout=subprocess.PIPE) as saved:
        counted = subprocess.run(count, stdin=saved.stdout, capture_output=True, check=False)
    assert saved.returncode == 0
    assert counted.stdout == b"0\n"


@pytest.mark.parametrize("name", LARGEST)
def test_an_image_holds_the_licence_and_the_notice(
    podman: Podman, images: dict[str, str], name: str
) -> None:
    found = podman.run(
        *("--rm", "--entrypoint=sh", images[name], "-c"),
        "cat /app/lib/python3*/site-packages/prediction_services_*.dist-info/licenses/*"
        " /usr/share/doc/prediction-services/* 2>/dev/null; true",
    ).stdout
    assert "Apache License" in found
    assert "MNIST" in found


def test_envoys_heap_is_that_of_the_variable(stack: Stack) -> None:
    ask = (
        r"exec 3<>/dev/tcp/127.0.0.1/9901 && printf 'GET /config_dump HTTP/1.1\r\nHost: envoy\r\n"
        r"Connection: close\r\n\r\n' >&3 && cat <&3"
    )
    configuration = stack.podman("exec", "envoy", "bash", "-c", ask).stdout
    assert re.findall(r'"max_heap_size_bytes": "(\d+)"', configuration) == [str(HEAP_MIB << 20)]
    limit = r'"http.async_response_buffer_limit": (\d+)'
    assert re.findall(limit, configuration) == [str(HEAP_MIB << 19)]


@pytest.mark.parametrize("heap", ["lots", "64", "-1", "1048577"])
def test_an_envoy_whose_heap_makes_no_sense_says_so(
    podman: Podman, images: dict[str, str], heap: str
) -> None:
    run = ("run", "--rm", "--no-healthcheck", f"--env=SELDON_ENVOY_HEAP={heap}", images["envoy"])
    done = podman(*run, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        f"envoy: SELDON_ENVOY_HEAP is '{heap}', expected an integer from 128 to 1048576, in MiB"
    )


@pytest.mark.parametrize("name", [name for name in LARGEST if name != "envoy"])
def test_every_module_of_an_image_is_compiled(
    podman: Podman, images: dict[str, str], name: str
) -> None:
    modules, missing = podman.run(
        *("--rm", "--entrypoint=python", images[name], "-c"),
        "from importlib.util import cache_from_source\n"
        "from pathlib import Path\n"
        "modules = [*Path('/app/lib').rglob('*.py')]\n"
        "print(len(modules), sum(not Path(cache_from_source(m)).exists() for m in modules))",
    ).stdout.split()
    assert int(modules) > 500
    assert missing == "0"


def test_buildah_builds_the_same(
    podman: Podman, images: dict[str, str], bases: tuple[str, ...]
) -> None:
    if shutil.which("buildah") is None:
        pytest.skip("buildah is not installed: on Debian, apt-get install buildah")
    (built,) = podman.build(*bases, "--tag", "by-buildah", "model-download", tool="buildah")
    ours, theirs = podman.inspect(images["model-download"]), podman.inspect(built)
    assert theirs["User"] == ours["User"]
    assert theirs["Healthcheck"] == ours["Healthcheck"]
    assert of_opencontainers(theirs) == of_opencontainers(ours)
    assert "model version" in podman.run("--rm", built, "--help").stdout


def of_opencontainers(image: dict[str, Any]) -> dict[str, str]:
    labels = image["Labels"].items()
    return {name: text for name, text in labels if name.startswith("org.opencontainers.")}


@pytest.mark.parametrize("name", ["serving-rest", "serving-grpc"])
def test_without_a_model_a_server_ends_with_one_sentence(
    podman: Podman, images: dict[str, str], name: str
) -> None:
    ended = podman.run("--rm", images[name], check=False)
    assert ended.returncode == 1
    assert f"{name}: " in ended.stderr
    assert "/models" in ended.stderr


# Alone: a version from a folder onto a volume


@pytest.fixture
def new_volume(podman: Podman) -> Iterator[str]:
    name = "downloaded"
    podman("volume", "create", name)
    yield name
    podman("volume", "rm", "--force", name)


def download(
    podman: Podman, images: dict[str, str], source: Path, volume: str
) -> subprocess.CompletedProcess[str]:
    return podman.run(
        *("--rm", "--network=none", f"--volume={source}:/source:ro", f"--volume={volume}:/models"),
        *(images["model-download"], "--source=/source", "--target=/models/deep_mnist"),
        check=False,
    )


def on_volume(podman: Podman, images: dict[str, str], volume: str) -> dict[str, str]:
    """The checksum of every file, whose owner must be nobody."""
    look = ("find", "/models/deep_mnist/1", "-type", "f", "-user", "10001", "-exec", "sha256sum")
    listed = podman.run(
        *("--rm", "--entrypoint=", f"--volume={volume}:/models:ro", images["model-download"]),
        *(*look, "{}", "+"),
    ).stdout
    lines = (line.split() for line in listed.splitlines())
    return {path.removeprefix("/models/deep_mnist/1/"): checksum for checksum, path in lines}


def test_the_download_puts_a_version_on_a_volume_as_nobody(
    podman: Podman, images: dict[str, str], new_volume: str
) -> None:
    source = ROOT / "models" / "deep_mnist" / "1"
    done = download(podman, images, source, new_volume)
    assert done.returncode == 0, done.stderr
    found = on_volume(podman, images, new_volume)
    assert found["model.json"] == hashlib.sha256((source / "model.json").read_bytes()).hexdigest()
    described = json.loads((source / "model.json").read_text())["files"]
    assert described.items() <= found.items()

    again = download(podman, images, source, new_volume)
    assert again.returncode == 0, again.stderr
    assert on_volume(podman, images, new_volume) == found


def test_a_download_of_a_broken_model_changes_nothing(
    podman: Podman, images: dict[str, str], new_volume: str, tmp_path: Path
) -> None:
    source = ROOT / "models" / "deep_mnist" / "1"
    assert download(podman, images, source, new_volume).returncode == 0
    before = on_volume(podman, images, new_volume)
    broken = tmp_path / "broken"
    shutil.copytree(source, broken)
    broken.chmod(0o755)
    with (broken / "model.tflite").open("r+b") as file:
        file.write(b"broken")
    done = download(podman, images, broken, new_volume)
    assert done.returncode == 1
    assert "model.tflite" in done.stderr
    assert on_volume(podman, images, new_volume) == before


# The stack


def test_predicts_over_rest(stack: Stack) -> None:
    for index in range(10):
        answer = stack.predict(index)
        assert answer.status_code == 200, answer.text
        rows = answer.json()["predictions"]
        best = max(rows, key=lambda row: float(row["prediction"]))
        assert best["predictedClass"] == str(DIGITS.labels[index])


def test_predicts_over_grpc(stack: Stack) -> None:
    metadata = (("oauth_token", stack.token()),)
    with grpc.insecure_channel(stack.grpc) as channel:
        stub = seldon_pb2_grpc.SeldonStub(channel)
        for index in range(10):
            data = Packed()
            data.Pack(seldon_pb2.DefaultCustomPredictRequest(values=DIGITS.images[index]))
            reply = stub.Classify(
                seldon_pb2.ClassificationRequest(data=data),
                metadata=metadata,
                timeout=10,
                wait_for_ready=True,
            )
            best = max(reply.predictions, key=lambda row: row.prediction)
            assert best.predictedClass == str(DIGITS.labels[index])


@pytest.mark.parametrize("test_type", ["js-predict", "grpc-predict"])
def test_the_load_test_runs_beside_the_stack(stack: Stack, test_type: str) -> None:
    done = stack.podman.run(
        *("--rm", "--network", stack.network, "--volume=registry:/data"),
        *("--volume=results:/results", stack.images["loadtest"]),
        *("launch-locust-load-test", "--seldon-client", CLIENT, "--test-type", test_type),
        *("--host", "http://envoy:8080", "--seldon-grpc-endpoint", "envoy:5000"),
        *("--locust-clients", "5", "--warmup", "1", "--duration", "3"),
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_runs_read_only_as_nobody_and_is_healthy(stack: Stack, name: str) -> None:
    running = stack.podman.inspect(name)
    assert running["HostConfig"]["ReadonlyRootfs"]
    assert not running["EffectiveCaps"]
    assert stack.podman("exec", name, "id", "-u").stdout == "10001\n"
    written = stack.podman("exec", name, "sh", "-c", "touch /etc/x /app/x", check=False)
    assert written.returncode != 0
    stack.podman("healthcheck", "run", name)


def test_a_service_that_is_not_ready_is_not_healthy(stack: Stack) -> None:
    stack.podman(
        *("run", *stack.podman.ulimits, "--detach", "--name=unready", "--entrypoint=sleep"),
        *(stack.images["serving-rest"], "60"),
    )
    assert stack.podman("healthcheck", "run", "unready", check=False).returncode != 0


@pytest.mark.parametrize("name", SERVICES[::-1])
def test_a_service_ends_on_sigterm(stack: Stack, name: str) -> None:
    stack.podman("stop", "--time=20", name)
    assert stack.podman.inspect(name)["State"]["ExitCode"] == 0
