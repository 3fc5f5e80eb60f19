"""The guide's commands against a small cluster, whose gateway is a real one of this machine.

The control plane's pod is this machine's registry, Envoy's pod its Envoy; a load test's pods are
processes. What only a node has (images, names of Services) is in tests/cluster.
"""

import json
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from small_exec import Container
from small_kubelet import SmallKubelet
from small_kubernetes import SmallKubernetes
from stack_under_test import MODEL, StackUnderTest

from deploy.__main__ import main as deploy_main
from deploy.commands.cli import main as seldon_cli
from deploy.commands.gateway import seldon_down, seldon_up
from deploy.commands.load_test import launch
from deploy.commands.microservice import start_microservice, stop_microservice
from polling import eventually

pytestmark = pytest.mark.stack

NAMESPACE = "prediction-services"
CLIENT = "deep_mnist_client"
FOLDER = "/seldon-data/seldon-models/deep_mnist/1"
START = ("--type", "prediction", "--client", CLIENT)
BIN = Path(sys.executable).parent


@dataclass
class ClusterUnderTest:
    """A small cluster, and the commands that act on it."""

    server: SmallKubernetes
    kubelet: SmallKubelet
    stack: StackUnderTest
    folder: Path

    def run(self, command: Any, *words: str, stdin: Any = None, **environ: str) -> Result:
        about = {
            "SELDON_TARGET": "kubernetes",
            "KUBECONFIG": str(self.server.kubeconfig),
            "SELDON_HOME": str(self.folder / "none"),
        }
        result = CliRunner(env={**about, **environ}).invoke(command, words, stdin)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.output
        assert "Traceback" not in result.output
        return result

    def ok(self, command: Any, *words: str, **options: Any) -> str:
        result = self.run(command, *words, **options)
        assert result.exit_code == 0, result.output
        return result.stdout

    def refused(self, command: Any, *words: str, **options: Any) -> str:
        result = self.run(command, *words, **options)
        assert result.exit_code == 1, result.output
        assert result.stderr.splitlines()[-1].startswith("error: ")
        return result.stderr.splitlines()[-1]

    def start(self, *words: str, **options: Any) -> str:
        return self.ok(start_microservice, *START, *words, **options)

    def shares(self) -> dict[str, dict[str, float]]:
        """Each protocol's ratios by host, as this machine's registry has them."""
        text = self.ok(seldon_cli, "-q", "routing", "--action", "show")
        return {
            row["protocol"]: {one["endpoints"][0][0]: one["ratio"] for one in row["variations"]}
            for row in json.loads(text)
            if row["client"] == CLIENT
        }

    def names(self, kind: str) -> set[str]:
        with self.server.lock:
            return {
                one["metadata"]["name"]
                for one in self.server.objects.values()
                if one["kind"] == kind
            }


@pytest.fixture(scope="module")
def stack(stack: StackUnderTest) -> StackUnderTest:
    """The gateway that is in the cluster's pods."""
    stack.ok(seldon_up)
    return stack


@pytest.fixture
def cluster(stack: StackUnderTest) -> Iterator[ClusterUnderTest]:
    with tempfile.TemporaryDirectory(prefix="cluster-") as name:
        folder = Path(name)
        (folder / "results").mkdir()
        here = {k: v for k, v in os.environ.items() if not k.startswith(("SELDON_", "LOADTEST_"))}
        path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
        operator = Container({**here, **stack.environment, "PATH": path})
        rest, grpc, admin, _, *_, master, metrics = stack.ports[:32]
        envoy = Container({**here, "PATH": path}, {"127.0.0.1/9901": f"127.0.0.1/{admin}"})
        node = Container(
            {**here, "PATH": path, "HOME": name},
            {
                "/results": str(folder / "results"),
                "http://seldon-server": f"http://127.0.0.1:{rest}",
                "seldon-server:5000": f"127.0.0.1:{grpc}",
                "loadtest:5557": f"127.0.0.1:{master}",
                "0.0.0.0:5557": f"127.0.0.1:{master}",
                "0.0.0.0:9646": f"127.0.0.1:{metrics}",
            },
        )
        with SmallKubernetes(folder) as server:
            server.containers = {
                ("control-plane", "seldon-cli"): operator,
                ("envoy", "envoy"): envoy,
                ("loadtest", "loadtest"): node,
            }
            for number, labels in ((1, {}), (2, {"role": "locust"})):
                metadata = {"name": f"node-{number}", "labels": labels}
                server.put({"apiVersion": "v1", "kind": "Node", "metadata": metadata, "spec": {}})
            with SmallKubelet(server, node, folder) as kubelet:
                yield ClusterUnderTest(server, kubelet, stack, folder)


@pytest.fixture
def up(cluster: ClusterUnderTest) -> ClusterUnderTest:
    """With a gateway and a client that nothing serves."""
    cluster.ok(seldon_up)
    if f"client[{CLIENT}]" in cluster.ok(seldon_cli, "client"):
        cluster.ok(seldon_cli, "client", "--action", "remove", "--client-name", CLIENT)
    setup = ("client", "--action", "setup", "--db-name", "ClientDB", "--client-name", CLIENT)
    assert "is set up on ClientDB" in cluster.ok(seldon_cli, *setup)
    return cluster


def test_the_target_is_one_of_two(cluster: ClusterUnderTest) -> None:
    for command, words in (
        (seldon_up, ()),
        (seldon_cli, ("client",)),
        (launch, ("--seldon-client", "c", "--test-type", "js-predict")),
    ):
        told = cluster.refused(command, *words, SELDON_TARGET="swarm")
        assert told == "error: SELDON_TARGET is 'swarm', expected local or kubernetes"
    told = cluster.refused(seldon_down, "--target", "moon")
    assert told == "error: --target is 'moon', expected local or kubernetes"
    told = cluster.refused(seldon_down, "--target", "local", "--context", "x")
    assert "add --target kubernetes, or set SELDON_TARGET=kubernetes" in told


def test_no_cluster_is_reported(cluster: ClusterUnderTest) -> None:
    assert "KUBECONFIG is /none, which does not exist" in cluster.refused(
        seldon_cli, "client", KUBECONFIG="/none"
    )
    assert "has no context x; choose one of test" in cluster.refused(seldon_up, "--context", "x")


def test_up_answers_what_the_original_asked_and_makes_its_client(
    cluster: ClusterUnderTest,
) -> None:
    asked = {"SELDON_WITH_SPARK": "false", "SELDON_WITH_GLUSTERFS": "true", "DB_PASSWORD": "hid"}
    told = cluster.ok(seldon_up, **asked)
    assert "SELDON_WITH_SPARK=false: ignored; Spark is not part of this stack" in told
    assert "SELDON_WITH_GLUSTERFS=true: ignored; Kubernetes removed GlusterFS in 1.26" in told
    assert "hid" not in told
    assert "the gateway is ready" in told
    assert cluster.names("Deployment") == {"envoy", "control-plane"}
    assert "client[test]" in cluster.ok(seldon_cli, "client")
    assert "envoy: unchanged" in cluster.ok(seldon_up)


def test_before_it_is_up_the_cli_says_what_to_do(cluster: ClusterUnderTest) -> None:
    told = cluster.refused(seldon_cli, "client")
    assert "has no Deployment control-plane; start the stack with seldon-up or make deploy" in told


def test_the_cli_is_the_pods_own(up: ClusterUnderTest) -> None:
    first, *_ = up.ok(seldon_cli, "client").splitlines()
    assert first == f"connected to the registry in {up.stack.home}"
    (row,) = json.loads(up.ok(seldon_cli, "-q", "keys", "--client-name", CLIENT, "--scope", "js"))
    assert row["client"] == CLIENT
    result = up.run(seldon_cli, "client", "--action", "setup")
    assert (result.exit_code, result.stderr) == (1, "error: --action setup needs --client-name\n")
    document = json.dumps({"algorithms": []})
    create = ("predict_alg", "--action", "create", "--client-name", CLIENT)
    assert "created the strategy" in up.ok(seldon_cli, *create, "-f", "-", stdin=document)
    (up.folder / "strategy.json").write_text(document)
    assert "created" in up.ok(seldon_cli, *create, "-f", str(up.folder / "strategy.json"))
    assert "No such file" in up.refused(seldon_cli, *create, "--json-file=/none")


def test_the_guides_microservice_starts_is_there_and_stops(up: ClusterUnderTest) -> None:
    start = ("-p", "tensorflow-deep-mnist", f"{FOLDER}/", "rest", "1.0")
    told = up.start(*start)
    assert "tensorflow-deep-mnist serves 1 of the rest traffic of client deep_mnist_client" in told
    assert up.shares() == {"rest": {"tensorflow-deep-mnist-rest": 1.0}, "grpc": {}}
    assert "tensorflow-deep-mnist-rest" in up.names("Service")
    assert "nothing was changed" in up.start(*start)
    # Neither the gateway's commands nor a deploy take it for something that is left over.
    assert "removed" not in up.ok(seldon_up)
    assert "tensorflow-deep-mnist-rest" in up.names("Deployment")
    assert "has no rest variations now" in up.ok(stop_microservice, "tensorflow-deep-mnist", "rest")
    assert up.shares() == {"rest": {}, "grpc": {}}
    assert "tensorflow-deep-mnist-rest" not in up.names("Deployment") | up.names("Service")
    told = up.refused(stop_microservice, "tensorflow-deep-mnist")
    assert (
        "no microservice tensorflow-deep-mnist is running in namespace prediction-services" in told
    )


def test_two_variations_share_and_change(up: ClusterUnderTest) -> None:
    a, b = ("-p", "mnist-a", FOLDER, "rest"), ("-i", "mnist-b", "localhost/mine:2", "rest")
    up.start(*a, "0.9", *b, "0.1", "--replicas", "2")
    assert up.shares()["rest"] == {"mnist-b-rest": 0.1, "mnist-a-rest": 0.9}
    assert up.names("PodDisruptionBudget") == {"mnist-a-rest", "mnist-b-rest"}
    with up.server.lock:
        made = up.server.objects[f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/mnist-b-rest"]
    (container,) = made["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "localhost/mine:2"
    assert made["spec"]["replicas"] == 2
    assert "gives" not in up.start(*a, "0.5", *b, "0.5", "--replicas", "1")
    assert up.shares()["rest"] == {"mnist-b-rest": 0.5, "mnist-a-rest": 0.5}
    assert up.names("PodDisruptionBudget") == set()
    told = up.refused(stop_microservice, "mnist-a")
    assert "mnist-a serves 0.5 of the rest traffic of client deep_mnist_client" in told


def test_variations_move_when_pods_are_ready_and_pods_go_when_envoy_knows(
    up: ClusterUnderTest,
) -> None:
    up.start("-p", "old", FOLDER, "rpc", "1.0")
    with up.server.lock:
        up.server.requests.clear()
    up.start("-p", "new", FOLDER, "rpc", "1.0")
    up.ok(stop_microservice, "old")
    requests = up.server.requests

    def first(text: str) -> int:
        return next(i for i, one in enumerate(requests) if text in one)

    def last(text: str) -> int:
        return max(i for i, one in enumerate(requests) if text in one)

    applied = first(f"PATCH /apis/apps/v1/namespaces/{NAMESPACE}/deployments/new-grpc?")
    moved = first("command=move")
    assert applied < first(f"GET /apis/apps/v1/namespaces/{NAMESPACE}/replicasets") < moved
    assert moved < first("/exec?container=envoy")
    gone = first(f"DELETE /apis/apps/v1/namespaces/{NAMESPACE}/deployments/old-grpc")
    assert last("/exec?container=envoy") < gone


def test_an_image_that_cannot_be_pulled_leaves_everything_as_it_was(up: ClusterUnderTest) -> None:
    up.start("-p", "mnist", FOLDER, "rest", "1.0")
    shares = up.shares()
    before = up.names("Deployment"), up.names("Service")
    up.kubelet.bad_images.add("localhost/none:1")
    told = up.refused(start_microservice, *START, "-i", "other", "localhost/none:1", "rest", "1.0")
    assert "Deployment other-rest: the image localhost/none:1 cannot be pulled" in told
    assert (up.names("Deployment"), up.names("Service")) == before
    # The same under the name of one that serves: its old pods come back. The new pod has failed
    # before the command looks for pods that did: it is made anew, and fails again.
    look = up.server.fails(r"GET /apis/apps/v1/namespaces/[^/]+/replicasets", delay_s=0.5)
    told = up.refused(start_microservice, *START, "-i", "mnist", "localhost/none:1", "rest", "1.0")
    assert look.times == 0
    assert "Deployment mnist-rest: the image localhost/none:1 cannot be pulled" in told
    with up.server.lock:
        made = up.server.objects[f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/mnist-rest"]
    (container,) = made["spec"]["template"]["spec"]["containers"]
    assert container["image"].endswith("/serving-rest:0.1.0")
    assert up.shares() == shares


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("-p", "m", "models/deep_mnist/1", "rest", "1.0"), "expected one on the cluster's volume"),
        (("-p", "m", "/seldon-data/../etc", "rest", "1.0"), "expected one on the cluster's volume"),
        (("-p", "1m", FOLDER, "rest", "1.0"), "expected a Service name: a letter, then"),
        (("-p", "m" * 59, FOLDER, "rest", "1.0"), "at most 58 characters"),
        (("-p", "m", FOLDER, "rest", "0.5"), "sum to 0.5, expected 1.0"),
        (("-i", "m", "an image", "rest", "1.0"), "image is 'an image', expected a reference"),
        (("-p", "m", FOLDER, "rest", "1.0", "--replicas", "99"), "--replicas is 99, expected 1 to"),
        ((), "no microservice is given"),
    ],
)
def test_what_cannot_be_started_is_refused_before_anything_is_asked(
    cluster: ClusterUnderTest, words: tuple[str, ...], told: str
) -> None:
    assert told in cluster.refused(start_microservice, *START, *words)
    assert cluster.server.requests == []


def test_a_client_that_is_not_there_is_reported(up: ClusterUnderTest) -> None:
    start = ("--type", "prediction", "--client", "nobody", "-p", "m", FOLDER, "rest", "1.0")
    assert "client nobody does not exist; set it up with seldon-cli client" in up.refused(
        start_microservice, *start
    )
    assert "m-rest" not in up.names("Deployment")


def test_nodes_are_labelled_and_cordoned(cluster: ClusterUnderTest) -> None:
    def node(command: str, name: str = "node-1") -> str:
        return cluster.ok(deploy_main, "kubernetes", command, name)

    def kept() -> Any:
        with cluster.server.lock:
            return cluster.server.objects["/api/v1/nodes/node-1"]

    assert "labelled role=locust" in node("label-loadtest-node")
    assert "already labelled role=locust" in node("label-loadtest-node")
    assert kept()["metadata"]["labels"] == {"role": "locust"}
    assert node("cordon-loadtest-node") == "Node node-1: cordoned\n"
    assert node("cordon-loadtest-node") == "Node node-1: already cordoned\n"
    assert kept()["spec"]["unschedulable"] is True
    assert kept()["metadata"]["labels"] == {"role": "locust"}
    assert node("uncordon-loadtest-node") == "Node node-1: uncordoned\n"
    assert "unschedulable" not in kept()["spec"]
    told = cluster.refused(deploy_main, "kubernetes", "label-loadtest-node", "node-9")
    assert told == "error: Node node-9 does not exist; choose one of node-1, node-2"
    assert cluster.names("Node") == {"node-1", "node-2"}


def test_status_and_logs(up: ClusterUnderTest) -> None:
    up.server.logs["envoy-1-0/envoy"] = "one\ntwo\n"
    told = up.ok(deploy_main, "kubernetes", "status")
    assert "Deployment envoy" in told
    assert "1/1 pods ready" in told
    assert "node-1" in told
    logs = up.ok(deploy_main, "kubernetes", "logs", "-n", "1", "envoy")
    assert logs == "envoy-1-0 envoy | two\n"
    told = up.refused(deploy_main, "kubernetes", "logs", "none")
    assert "has no pod of none" in told
    up.kubelet.bad_images.add("localhost/bad:1")
    words = ("-i", "m", "localhost/bad:1", "rest", "1.0")
    up.refused(start_microservice, *START, *words)
    up.ok(seldon_down)
    told = up.refused(deploy_main, "kubernetes", "status")
    assert "has no workloads of prediction-services; start the stack" in told


RUN = ("--seldon-client", CLIENT, "--test-type")
SHORT = {
    "LOADTEST_USERS": "4",
    "LOADTEST_DURATION": "3",
    "LOADTEST_WARMUP": "1",
    "LOADTEST_WAIT": "100-200",
    "LOADTEST_WORKERS": "2",
}


@pytest.fixture
def served(up: ClusterUnderTest) -> ClusterUnderTest:
    """With models behind the gateway, as a cluster's would be by their host names."""
    stack = up.stack
    for api in ("rest", "rpc"):
        stack.ok(start_microservice, *START, "-p", "mnist", str(MODEL), api, "1.0")
    return up


@pytest.mark.parametrize("test_type", ["js-predict", "grpc-predict"])
def test_a_load_test_runs_and_its_results_come_here(
    served: ClusterUnderTest, test_type: str
) -> None:
    results = served.folder / "here"
    result = served.run(launch, *RUN, test_type, LOADTEST_OUTPUT=str(results), **SHORT)
    assert result.exit_code == 0, result.output
    summary = json.loads((results / "latest" / "summary.json").read_text())
    assert summary["valid"]
    assert summary["processes"] == 2
    assert summary["failures"] == 0
    assert summary["requests"] > 20
    assert (results / "latest" / "report.html").is_file()
    assert "Report: " in result.stdout
    assert f"{'REST' if test_type == 'js-predict' else 'gRPC'} " in result.stderr
    assert not served.names("Job") | served.names("Secret")
    assert not [path for path in results.iterdir() if path.name.startswith(".")]


def test_a_load_test_needs_a_node_and_a_client(served: ClusterUnderTest) -> None:
    told = served.refused(launch, "--seldon-client", "nobody", "--test-type", "js-predict")
    assert "nobody" in told
    with served.server.lock:
        del served.server.objects["/api/v1/nodes/node-2"]
    told = served.refused(launch, *RUN, "js-predict")
    assert told.startswith("error: no node has the label role=locust")
    assert "make label-loadtest-node NODE=… with one of node-1" in told
    assert not served.names("Job")


def test_a_load_test_that_loses_its_pod_says_so(served: ClusterUnderTest) -> None:
    def lose() -> None:
        followed = "/pods/loadtest-0/log"
        eventually(lambda: any(followed in one for one in served.server.requests))
        served.kubelet.lose_pods("loadtest")

    losing = threading.Thread(target=lose)
    losing.start()
    told = served.refused(launch, *RUN, "js-predict", **{**SHORT, "LOADTEST_DURATION": "60"})
    losing.join()
    assert "Pod loadtest-0 of the load test is lost" in told
    assert "run the load test again" in told
    assert not served.names("Job")


@pytest.mark.parametrize(
    "words",
    [
        ("--bind", "0.0.0.0:1"),
        ("--worker-of", "a:1"),
        ("--arrivals", "trace:x"),
        ("--payload", "x.npz"),
    ],
)
def test_what_means_nothing_in_a_cluster_is_refused(
    cluster: ClusterUnderTest, words: tuple[str, ...]
) -> None:
    result = cluster.run(launch, *RUN, "js-predict", *words)
    assert result.exit_code == 1
    assert "in a cluster" in result.stderr
    assert cluster.server.requests == []
