"""The whole guide by its own commands, on whatever cluster KUBECONFIG names.

Where there are no nodes its objects alone: that they are taken, and a second time change nothing.
"""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.errors import ClusterError
from deploy.kubernetes import nodes
from deploy.kubernetes.api import Api, Reference
from deploy.kubernetes.cluster import Change, Cluster, Place
from deploy.kubernetes.objects.loadtest import LOADTEST, fetched_load_test, gateway_words
from deploy.kubernetes.objects.serving import Microservice, microservice, own_labels
from deploy.kubernetes.settings import KubernetesSettings
from deploy.kubernetes.stack import core
from deploy.microservices import Api as Speaks
from polling import eventually

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.parametrize("cluster", ["real"], indirect=True),
    pytest.mark.timeout(1800),
]

BIN = Path(sys.executable).parent
CLIENT = "deep_mnist_client"
START = ("start-microservice", "--type", "prediction", "--client", CLIENT)
RUN = ("launch-locust-load-test", "--seldon-client", CLIENT)


@pytest.fixture
def settings(place: Place) -> KubernetesSettings:
    names = {"K8S_NAMESPACE": place.namespace, "SELDON_INSTANCE": place.instance}
    return KubernetesSettings.from_env({**os.environ, **names})


def test_the_guides_objects_are_taken_and_a_second_time_change_nothing(
    api: Api, place: Place, settings: KubernetesSettings
) -> None:
    cluster = Cluster(api, place)
    keys = {"SELDON_JS_KEY": "k"}
    objects = [
        *core(settings),
        *microservice(
            settings, Microservice("mnist-a", Speaks.REST, settings.rest, "/seldon-data/1")
        ),
        *microservice(settings, Microservice("mnist-b", Speaks.RPC, settings.grpc, image="i:1")),
        *fetched_load_test(settings, ["--test-type", "js-predict", *gateway_words()], keys, "me"),
    ]
    for _ in cluster.apply(objects):
        pass
    assert {outcome.change for outcome in cluster.apply(objects)} <= {
        Change.UNCHANGED,
        Change.SKIPPED,  # the namespace, where the fixture made it
    }
    # What is on its own survives a deploy of the rest, and goes with the whole.
    assert cluster.stale(core(settings)) == []
    found = cluster.labelled(own_labels("mnist-a", Speaks.REST))
    assert {item["kind"] for item in found} == {"Deployment", "Service", "NetworkPolicy"}
    cluster.delete(purge=True, timeout_s=90)
    assert cluster.labelled(own_labels("mnist-a", Speaks.REST)) == []


def test_a_node_is_labelled_and_cordoned(api: Api, real: Any, place: Place) -> None:
    name = place.namespace
    body = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}
    assert real.ask("POST", "/api/v1/nodes", body)[0] == 201
    try:
        nodes.label(api, name)
        nodes.cordon(api, name, closed=True)
        made = api.read(Reference("v1", "Node", name))
        assert made is not None
        assert made["metadata"]["labels"]["role"] == "locust"
        assert made["spec"]["unschedulable"] is True
        nodes.cordon(api, name, closed=False)
        made = api.read(Reference("v1", "Node", name))
        assert made is not None
        assert "unschedulable" not in made["spec"]
        nodes.require_labelled(api)
    finally:
        real.ask("DELETE", f"/api/v1/nodes/{name}")


Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def command(
    cluster: Any, place: Place, settings: KubernetesSettings, tmp_path: Path
) -> Iterator[Command]:
    """Runs one of the guide's commands as a user does; the stack is gone afterwards."""
    if os.environ.get("CLUSTER_WITHOUT_NODES") == "1":
        pytest.skip("THE GUIDE DOES NOT RUN: CLUSTER_WITHOUT_NODES=1, so nothing runs in pods")
    environ = {
        **os.environ,
        **cluster.environ,
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "SELDON_TARGET": "kubernetes",
        "K8S_NAMESPACE": place.namespace,
        "SELDON_INSTANCE": place.instance,
        "LOADTEST_OUTPUT": str(tmp_path / "results"),
    }

    def run(*words: str, check: bool = True, **more: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            words, env={**environ, **more}, capture_output=True, text=True, check=False, timeout=900
        )
        assert not check or done.returncode == 0, f"{words}:\n{done.stdout}\n{done.stderr}"
        return done

    yield run
    run("seldon-down", "--purge")


def test_the_guide(
    command: Command, api: Api, settings: KubernetesSettings, tmp_path: Path
) -> None:
    node = api.list("v1", "Node", None)[0]["metadata"]["name"]
    kubernetes = (sys.executable, "-m", "deploy", "kubernetes")
    command(*kubernetes, "label-loadtest-node", node)
    told = command("seldon-up", SELDON_WITH_SPARK="false", SELDON_WITH_GLUSTERFS="true").stdout
    assert "the gateway is ready" in told
    setup = ("client", "--action", "setup", "--db-name", "ClientDB", "--client-name", CLIENT)
    command("seldon-cli", *setup)
    folder = settings.model_folder

    for api_name, test_type in (("rest", "js-predict"), ("rpc", "grpc-predict")):
        start = (*START, "-p", "tensorflow-deep-mnist", f"{folder}/", api_name, "1.0")
        assert "serves 1 of the" in command(*start).stdout
        assert "nothing was changed" in command(*start).stdout
        command(
            *RUN, "--test-type", test_type, LOADTEST_USERS="5", LOADTEST_DURATION="8",
            LOADTEST_WARMUP="2", LOADTEST_WORKERS="1", check=False,
        )  # fmt: skip
        # Valid or not is the machine's, which all of the cluster may share.
        summary = json.loads((tmp_path / "results" / "latest" / "summary.json").read_text())
        assert summary["requests"] > 10
        assert summary["failures"] == 0
    command(*kubernetes, "status")
    command("stop-microservice", "tensorflow-deep-mnist", "rpc")

    # Shares change while a load test goes on, of which no request fails.
    a, b = ("-p", "mnist-a", folder, "rest"), ("-p", "mnist-b", folder, "rest")
    loading = threading.Thread(
        target=lambda: command(
            *RUN, "--test-type", "js-predict", LOADTEST_USERS="5", LOADTEST_DURATION="90",
            LOADTEST_WARMUP="2", check=False,
        )
    )  # fmt: skip
    loading.start()

    def measures() -> bool:
        pods = [one["metadata"]["name"] for one in api.list("v1", "Pod", settings.namespace)]
        logs = [api.log(settings.namespace, pod, LOADTEST) for pod in pods if LOADTEST in pod]
        return any(" requests" in log for log in logs)

    eventually(measures, "the load test reports requests", within_s=120, ignored=ClusterError)
    command(*START, *a, "0.9", *b, "0.1")
    command(*START, *a, "0.5", *b, "0.5")
    loading.join()
    summary = json.loads((tmp_path / "results" / "latest" / "summary.json").read_text())
    assert summary["requests"] > 100
    assert summary["failures"] == 0
    refused = command("stop-microservice", "mnist-a", check=False)
    assert refused.returncode == 1
    assert "mnist-a serves 0.5 of the rest traffic" in refused.stderr

    bad = (*START, "-p", "other", "/seldon-data/none/1", "rest", "1.0")
    failed = command(*bad, check=False)
    assert failed.returncode == 1
    assert "Deployment other-rest" in failed.stderr
    gateway = ("--gateway", "seldon-server", "--rest-port", "80", "--grpc-port", "5000")
    checked = command("seldon-cli", "-q", "check", "--client-name", CLIENT, *gateway)
    assert "a handwritten 7 is predicted as 7 over REST" in checked.stdout
