"""The clusters that tests run on: the small one of tests/support always, a real one if there is."""

import copy
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml
from control_plane import ControlPlane, missing_programs
from kubernetes import client, config
from small_kubernetes import SmallKubernetes, kubeconfig

from deploy.console import wait_until
from deploy.kubernetes.api import Api, connect
from deploy.kubernetes.cluster import Place

Object = dict[str, Any]
ROOTS = {
    "Namespace": "/api/v1/namespaces",
    "ConfigMap": "/api/v1/namespaces/{}/configmaps",
    "Service": "/api/v1/namespaces/{}/services",
    "Pod": "/api/v1/namespaces/{}/pods",
    "PersistentVolumeClaim": "/api/v1/namespaces/{}/persistentvolumeclaims",
    "Deployment": "/apis/apps/v1/namespaces/{}/deployments",
    "ReplicaSet": "/apis/apps/v1/namespaces/{}/replicasets",
    "Job": "/apis/batch/v1/namespaces/{}/jobs",
}


class RealCluster:
    """Whatever KUBECONFIG names, asked without the code under test."""

    def __init__(self, kubeconfig: Path) -> None:
        self.environ = {"KUBECONFIG": str(kubeconfig)}
        self.http = config.new_client_from_config(str(kubeconfig))
        # An administrator may be known by a certificate, which would go with every request.
        somebody = copy.copy(self.http.configuration)
        somebody.cert_file = somebody.key_file = None
        self._without_login = client.ApiClient(somebody)

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        content_type: str = "application/json",
        token: str | None = None,
    ) -> tuple[int, Any]:
        """Status and body of an answer, whatever it is; `token`: another's, or "" for none."""
        headers = {"Accept": "application/json", "Content-Type": content_type}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        login = ["BearerToken"] if token is None else []
        http = self.http if token is None else self._without_login
        method, url, headers, body, fields = http.param_serialize(
            method, path, header_params=headers, body=body, auth_settings=login
        )
        answer = http.call_api(method, url, headers, body, fields, _request_timeout=30)
        text = answer.read().decode()
        if "json" in answer.headers.get("Content-Type", ""):
            return answer.status, self.http.deserialize(text, "object", "application/json")
        return answer.status, text

    def create(self, item: Object) -> Object:
        """As another than we would; what is there stays."""
        root = ROOTS[item["kind"]].format(item["metadata"].get("namespace"))
        code, body = self.ask("POST", root, item)
        assert code in (201, 409), body
        return body

    def set_status(self, item: Object, status: Object) -> None:
        """As its controller or kubelet would."""
        root = ROOTS[item["kind"]].format(item["metadata"]["namespace"])
        path = f"{root}/{item['metadata']['name']}/status"
        code, body = self.ask("PATCH", path, {"status": status}, "application/merge-patch+json")
        assert code == 200, body

    def exists(self, kind: str, namespace: str | None, name: str) -> bool:
        """Whether the cluster has it."""
        return self.ask("GET", f"{ROOTS[kind].format(namespace)}/{name}")[0] == 200

    def release(self, item: Object) -> None:
        """Take the finalizers away that keep what is deleted."""
        root = ROOTS[item["kind"]].format(item["metadata"]["namespace"])
        path, free = f"{root}/{item['metadata']['name']}", {"metadata": {"finalizers": None}}
        assert self.ask("PATCH", path, free, "application/merge-patch+json")[0] == 200

    def pods_of(self, deployment: Object) -> list[Object]:
        """Those of its newest ReplicaSet, once its controller has made them."""
        metadata, spec = deployment["metadata"], deployment["spec"]
        images = {one["image"] for one in spec["template"]["spec"]["containers"]}
        found: list[Object] = []

        def made() -> bool:
            pods = self.ask("GET", ROOTS["Pod"].format(metadata["namespace"]))[1]["items"]
            found[:] = [
                {**pod, "kind": "Pod"}
                for pod in pods
                if {one["image"] for one in pod["spec"]["containers"]} == images
            ]
            return len(found) >= spec["replicas"]

        assert wait_until(made, 20, 0.2)
        return found

    def make_ready(self, deployment: Object) -> None:
        """Have its pods be ready, which its controller then sees."""
        at = "2026-01-01T00:00:00Z"
        ready = {"type": "Ready", "status": "True", "lastTransitionTime": at}
        for pod in self.pods_of(deployment):
            self.set_status(pod, {"phase": "Running", "conditions": [ready]})

    def fail_job(self, job: Object) -> None:
        """Have its pod fail, which its controller then sees."""
        found: list[Object] = []

        def made() -> bool:
            found[:] = self.ask("GET", ROOTS["Pod"].format(job["metadata"]["namespace"]))[1][
                "items"
            ]
            return bool(found)

        assert wait_until(made, 20, 0.2)
        self.set_status({**found[0], "kind": "Pod"}, {"phase": "Failed"})

    def login_with(self, token: str, folder: Path) -> dict[str, str]:
        """An environment that is somebody else's."""
        settings = self.http.configuration
        authority = {"certificate-authority": str(settings.ssl_ca_cert)}
        path = folder / "another"
        path.write_text(yaml.safe_dump(kubeconfig(settings.host, token, **authority)))
        return {"KUBECONFIG": str(path)}

    def remove_namespace(self, name: str) -> None:
        """With all that is in it."""
        self.ask("DELETE", f"{ROOTS['Namespace']}/{name}")


class SmallCluster:
    """The same of the small server; `pods_of` does what controllers would."""

    def __init__(self, server: SmallKubernetes) -> None:
        self.server = server
        self.environ = {"KUBECONFIG": str(server.kubeconfig)}

    def create(self, item: Object) -> Object:
        return self.server.put(item)

    def set_status(self, item: Object, status: Object) -> None:
        kept = next(
            one
            for one in self.server.objects.values()
            if one["kind"] == item["kind"] and one["metadata"]["name"] == item["metadata"]["name"]
        )
        self.server.put({**kept, "status": {**kept.get("status", {}), **status}})

    def exists(self, kind: str, namespace: str | None, name: str) -> bool:
        return f"{ROOTS[kind].format(namespace)}/{name}" in self.server.objects

    def release(self, item: Object) -> None:
        root = ROOTS[item["kind"]].format(item["metadata"]["namespace"])
        del self.server.objects[f"{root}/{item['metadata']['name']}"]

    def make_ready(self, deployment: Object) -> None:
        count = len(self.pods_of(deployment))
        rolled_out = {"updatedReplicas": count, "availableReplicas": count, "replicas": count}
        self.set_status(deployment, rolled_out)

    def fail_job(self, job: Object) -> None:
        failed = {"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded"}
        message = "Job has reached the specified backoff limit"
        self.set_status(job, {"conditions": [{**failed, "message": message}]})

    def pods_of(self, deployment: Object) -> list[Object]:
        name, namespace = deployment["metadata"]["name"], deployment["metadata"]["namespace"]
        kept = self.server.objects[f"{ROOTS['Deployment'].format(namespace)}/{name}"]
        revision = str(kept["metadata"]["generation"])
        note = {"deployment.kubernetes.io/revision": revision}
        self.server.put({**kept, "metadata": {**kept["metadata"], "annotations": note}})
        self.set_status(kept, {"observedGeneration": kept["metadata"]["generation"]})
        template = deployment["spec"]["template"]

        def owned_by(owner: Object, kind: str, one: str, about: Object) -> Object:
            owners = [{"kind": owner["kind"], "uid": owner["metadata"]["uid"], "controller": True}]
            metadata = {"name": one, "namespace": namespace, "ownerReferences": owners, **about}
            version = "v1" if kind == "Pod" else "apps/v1"
            labels = template["metadata"]["labels"]
            metadata["labels"] = labels
            spec = template["spec"] if kind == "Pod" else {}
            item = {"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec}
            return self.server.put(item)

        made = owned_by(kept, "ReplicaSet", f"{name}-{revision}", {"annotations": note})
        count = deployment["spec"]["replicas"]
        return [owned_by(made, "Pod", f"{name}-{revision}-{i}", {}) for i in range(count)]


@pytest.fixture(scope="session")
def real() -> Iterator[RealCluster]:
    """The cluster of KUBECONFIG; without one, a control plane of our own."""
    with ExitStack() as stack:
        named = os.environ.get("KUBECONFIG")
        if not named:
            if missing := missing_programs():
                pytest.skip(
                    f"NO CLUSTER: set KUBECONFIG, or put {', '.join(missing)} on PATH "
                    "(tests/cluster/README.md)"
                )
            named = str(stack.enter_context(ControlPlane()).kubeconfig)
            os.environ["CLUSTER_WITHOUT_NODES"] = "1"
            stack.callback(os.environ.pop, "CLUSTER_WITHOUT_NODES")
        yield RealCluster(Path(named))


@pytest.fixture(params=["small", pytest.param("real", marks=pytest.mark.cluster)])
def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RealCluster | SmallCluster]:
    """Each kind of cluster in turn."""
    if request.param == "real":
        yield request.getfixturevalue("real")
        return
    with SmallKubernetes(tmp_path) as server:
        yield SmallCluster(server)


@pytest.fixture
def api(cluster: RealCluster | SmallCluster) -> Iterator[Api]:
    with connect(cluster.environ) as reached:
        yield reached


@pytest.fixture
def place(cluster: RealCluster | SmallCluster) -> Iterator[Place]:
    """A namespace that is not there yet, and goes with the test."""
    yield (made := Place(f"ps-test-{secrets.token_hex(4)}", "one"))
    if isinstance(cluster, RealCluster):
        cluster.remove_namespace(made.namespace)


@pytest.fixture
def new_namespace(real: RealCluster) -> Iterator[Callable[[], str]]:
    """Makes namespaces of the real cluster that go with the test."""
    names: list[str] = []

    def make() -> str:
        names.append(f"ps-test-{secrets.token_hex(4)}")
        name = {"name": names[-1]}
        real.create({"apiVersion": "v1", "kind": "Namespace", "metadata": name})
        return names[-1]

    yield make
    for name in names:
        real.remove_namespace(name)
