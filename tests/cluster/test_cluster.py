"""Objects in a cluster: the small one always, a real one with `-m cluster`."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deploy.errors import (
    ClusterForbidden,
    ClusterRefused,
    ClusterTimeout,
    FieldConflict,
    NotManaged,
    WorkloadFailed,
)
from deploy.kubernetes import readiness
from deploy.kubernetes.api import Api, Reference, connect
from deploy.kubernetes.cluster import Cluster, Place
from deploy.kubernetes.lifecycle import DeployOptions, deploy_objects, undeploy_objects
from deploy.kubernetes.waiting import replace_failing, wait_ready

Object = dict[str, Any]
# Where there are nodes none takes these pods: the tests write what a kubelet would.
NO_NODE = {"schedulerName": "none-such"}


class Stack:
    """A small stack's objects in one place."""

    def __init__(self, place: Place) -> None:
        self.place = place

    def item(self, version: str, kind: str, name: str, **rest: Any) -> Object:
        metadata: Object = {"name": name, "labels": dict(self.place.labels)}
        if kind != "Namespace":
            metadata["namespace"] = self.place.namespace
        return {"apiVersion": version, "kind": kind, "metadata": metadata, **rest}

    def namespace(self) -> Object:
        return self.item("v1", "Namespace", self.place.namespace)

    def config_map(self, name: str = "settings", **data: str) -> Object:
        return self.item("v1", "ConfigMap", name, data=data)

    def service(self) -> Object:
        ports = [{"name": "rest", "port": 8080}]
        spec = {"type": "ClusterIP", "selector": {"app": "envoy"}, "ports": ports}
        return self.item("v1", "Service", "envoy", spec=spec)

    def claim(self) -> Object:
        spec = {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}},
            "storageClassName": "none-such",
        }
        return self.item("v1", "PersistentVolumeClaim", "data", spec=spec)

    def monitor(self) -> Object:
        return self.item("monitoring.coreos.com/v1", "ServiceMonitor", "envoy", spec={})

    def deployment(self, image: str = "envoy:1", replicas: int = 1) -> Object:
        labels = {"app": "envoy"}
        template = {
            "metadata": {"labels": {**labels, **self.place.labels}},
            "spec": {**NO_NODE, "containers": [{"name": "envoy", "image": image}]},
        }
        spec = {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template}
        return self.item("apps/v1", "Deployment", "envoy", spec=spec)

    def job(self, image: str = "seldon:1") -> Object:
        containers = [{"name": "job", "image": image}]
        pod = {**NO_NODE, "restartPolicy": "Never", "containers": containers}
        template = {"metadata": {"labels": self.place.labels}, "spec": pod}
        spec = {"backoffLimit": 0, "template": template}
        return self.item("batch/v1", "Job", "setup", spec=spec)

    def all(self) -> list[Object]:
        return [self.deployment(), self.service(), self.config_map(a="1"), self.namespace()]


@pytest.fixture
def stack(place: Place) -> Stack:
    return Stack(place)


@pytest.fixture
def ours(api: Api, place: Place) -> Cluster:
    return Cluster(api, place)


@pytest.fixture
def said(ours: Cluster) -> Callable[..., list[str]]:
    def apply(*objects: Object, **how: bool) -> list[str]:
        return [str(outcome) for outcome in ours.apply(objects, **how)]

    return apply


def test_apply_says_what_became_of_each(said: Callable[..., list[str]], stack: Stack) -> None:
    namespace = f"Namespace {stack.place.namespace}"
    names = [namespace, "Deployment envoy", "Service envoy", "ConfigMap settings"]
    assert said(*stack.all()) == [f"{name}: created" for name in names]
    assert said(*stack.all()) == [f"{name}: unchanged" for name in names]
    assert said(stack.deployment("envoy:2", replicas=2), stack.config_map(a="secret")) == [
        "Deployment envoy: configured (spec.replicas, spec.template.spec.containers[envoy].image)",
        "ConfigMap settings: configured (data.a)",
    ]


def test_dry_run_changes_nothing(
    said: Callable[..., list[str]], stack: Stack, api: Api, cluster: Any
) -> None:
    outcomes = said(*stack.all(), dry_run=True)
    assert len(outcomes) == len(stack.all())
    assert all(line.endswith(": created") for line in outcomes)
    assert not cluster.exists("Namespace", None, stack.place.namespace)
    said(*stack.all())
    before = api.read(Reference.of(stack.config_map()))
    changed = [stack.config_map(a="2"), stack.config_map("more"), stack.service()]
    assert said(*changed, dry_run=True) == [
        "ConfigMap settings: configured (data.a)",
        "ConfigMap more: created",
        "Service envoy: unchanged",
    ]
    assert api.read(Reference.of(stack.config_map())) == before
    assert not cluster.exists("ConfigMap", stack.place.namespace, "more")


def test_what_the_cluster_has_no_kind_for_is_skipped(
    said: Callable[..., list[str]], stack: Stack, api: Api
) -> None:
    if api.knows("monitoring.coreos.com/v1", "ServiceMonitor"):
        pytest.skip("this cluster has Prometheus's operator")
    lines = said(stack.namespace(), stack.monitor(), stack.service())
    assert lines[1:] == [
        "ServiceMonitor envoy: skipped (this cluster has no ServiceMonitor of "
        "monitoring.coreos.com/v1)",
        "Service envoy: created",
    ]


def test_object_of_somebody_else_is_left_alone(
    said: Callable[..., list[str]], stack: Stack, cluster: Any, api: Api
) -> None:
    said(stack.namespace())
    foreign = stack.service()
    foreign["metadata"]["labels"]["app.kubernetes.io/instance"] = "another"
    cluster.create(foreign)
    before = api.read(Reference.of(foreign))
    with pytest.raises(
        NotManaged, match=r"Service envoy already exists in namespace .* without the"
    ):
        said(stack.service())
    assert api.read(Reference.of(foreign)) == before


def test_namespace_of_somebody_else_is_used_and_stays(
    said: Callable[..., list[str]], ours: Cluster, stack: Stack, cluster: Any
) -> None:
    name = {"name": stack.place.namespace}
    cluster.create({"apiVersion": "v1", "kind": "Namespace", "metadata": name})
    line = f"Namespace {stack.place.namespace}: skipped (not created by this stack, left as it is)"
    assert said(stack.namespace(), stack.config_map(a="1")) == [
        line,
        "ConfigMap settings: created",
    ]
    removed = ours.delete(purge=True, timeout_s=30)
    assert [str(one) for one in removed] == ["ConfigMap settings: removed"]
    assert cluster.exists("Namespace", None, stack.place.namespace)


def test_what_delete_would_not_find_is_refused(
    said: Callable[..., list[str]], stack: Stack, cluster: Any
) -> None:
    nameless, elsewhere = stack.config_map(), stack.config_map()
    del nameless["metadata"]["labels"]["app.kubernetes.io/instance"]
    elsewhere["metadata"]["namespace"] = "default"
    with pytest.raises(ClusterRefused, match="ConfigMap settings lacks the labels"):
        said(stack.namespace(), nameless)
    with pytest.raises(ClusterRefused, match="ConfigMap settings is for namespace default, expec"):
        said(stack.namespace(), elsewhere)
    assert not cluster.exists("Namespace", None, stack.place.namespace)


def test_delete_removes_ours_alone_and_keeps_data(
    said: Callable[..., list[str]], ours: Cluster, stack: Stack, cluster: Any
) -> None:
    said(*stack.all(), stack.claim(), stack.job())
    foreign = stack.config_map("foreign")
    foreign["metadata"]["labels"]["app.kubernetes.io/instance"] = "another"
    unlabelled = stack.config_map("unlabelled")
    del unlabelled["metadata"]["labels"]
    cluster.create(foreign)
    cluster.create(unlabelled)
    cluster.pods_of(stack.deployment())

    lines = {str(one) for one in ours.delete(purge=False, timeout_s=30)}
    assert lines == {
        "Deployment envoy: removed",
        "Service envoy: removed",
        "ConfigMap settings: removed",
        "Job setup: removed",
        "PersistentVolumeClaim data: kept (data; PURGE=1 removes it)",
    }
    space = stack.place.namespace
    assert not cluster.exists("Deployment", space, "envoy")
    assert cluster.exists("ConfigMap", space, "foreign")
    assert cluster.exists("ConfigMap", space, "unlabelled")
    again = [str(one) for one in ours.delete(purge=False, timeout_s=30)]
    assert again == ["PersistentVolumeClaim data: kept (data; PURGE=1 removes it)"]

    lines = {str(one) for one in ours.delete(purge=True, timeout_s=30)}
    assert lines == {
        "PersistentVolumeClaim data: removed",
        f"Namespace {space}: kept (has objects of others: ConfigMap foreign, ConfigMap unlabelled)",
    }
    assert cluster.exists("ConfigMap", space, "foreign")


def test_purge_removes_a_namespace_that_is_ours(
    said: Callable[..., list[str]], ours: Cluster, stack: Stack, cluster: Any
) -> None:
    said(*stack.all(), stack.claim())
    lines = [str(one) for one in ours.delete(purge=True, timeout_s=60)]
    assert lines[-1] == f"Namespace {stack.place.namespace}: removed"
    assert not cluster.exists("Namespace", None, stack.place.namespace)
    assert ours.delete(purge=True, timeout_s=5) == []


def test_an_object_that_is_not_deleted_is_reported(
    said: Callable[..., list[str]], ours: Cluster, stack: Stack, cluster: Any
) -> None:
    said(stack.namespace())
    held = stack.config_map("held")
    held["metadata"]["finalizers"] = ["example.org/stay"]
    cluster.create(held)
    try:
        with pytest.raises(
            ClusterTimeout,
            match=r"within 1 s: ConfigMap held \(waits for example.org/stay\); run the",
        ):
            ours.delete(purge=False, timeout_s=1)
    finally:
        cluster.release(held)
    assert not cluster.exists("ConfigMap", stack.place.namespace, "held")


def test_prune_removes_what_is_not_listed_any_more(
    said: Callable[..., list[str]], ours: Cluster, stack: Stack, cluster: Any
) -> None:
    said(*stack.all(), stack.claim())
    cluster.pods_of(stack.deployment())
    assert [one["metadata"]["name"] for one in ours.stale(stack.all())] == []
    kept = [stack.namespace(), stack.deployment()]
    lines = {str(one) for one in ours.prune(kept, timeout_s=30)}
    assert lines == {"Service envoy: removed", "ConfigMap settings: removed"}
    space = stack.place.namespace
    assert cluster.exists("Deployment", space, "envoy")
    assert cluster.exists("PersistentVolumeClaim", space, "data")


def test_failed_job_is_recreated(
    said: Callable[..., list[str]], api: Api, stack: Stack, cluster: Any
) -> None:
    said(stack.namespace(), stack.job())
    first = api.read(Reference.of(stack.job()))
    assert said(stack.job()) == ["Job setup: unchanged"]
    assert first is not None
    cluster.fail_job(stack.job())
    with pytest.raises(WorkloadFailed, match=r"Job setup: failed \(BackoffLimitExceeded: .*limit"):
        wait_ready(api, [stack.job()], 30, 0.05)
    assert said(stack.job()) == ["Job setup: replaced"]
    second = api.read(Reference.of(stack.job()))
    assert second is not None
    assert second["metadata"]["uid"] != first["metadata"]["uid"]


@pytest.mark.cluster
def test_changed_job_is_recreated(
    real: Any, stack: Stack, new_namespace: Callable[[], str]
) -> None:
    place = Place(new_namespace(), "one")
    stack = Stack(place)
    with connect(real.environ) as api:
        cluster = Cluster(api, place)
        list(cluster.apply([stack.job("seldon:1")]))
        assert [str(one) for one in cluster.apply([stack.job("seldon:2")])] == [
            "Job setup: replaced"
        ]
        made = api.read(Reference.of(stack.job()))
    assert made is not None
    assert made["spec"]["template"]["spec"]["containers"][0]["image"] == "seldon:2"


@pytest.mark.cluster
def test_field_of_somebody_else_is_taken_by_force_alone(
    real: Any, new_namespace: Callable[[], str]
) -> None:
    place = Place(new_namespace(), "one")
    stack = Stack(place)
    path = f"/apis/apps/v1/namespaces/{place.namespace}/deployments/envoy"
    with connect(real.environ) as api:
        cluster = Cluster(api, place)
        list(cluster.apply([stack.deployment()]))
        scaled = {"spec": {"replicas": 3, "paused": True}}
        manager = f"{path}?fieldManager=kubectl"
        assert real.ask("PATCH", manager, scaled, "application/merge-patch+json")[0] == 200
        with pytest.raises(FieldConflict, match=r"spec\.replicas was set by kubectl, not by pre"):
            list(cluster.apply([stack.deployment()]))
        assert [str(one) for one in cluster.apply([stack.deployment()], force=True)] == [
            "Deployment envoy: configured (spec.replicas)"
        ]
    after = real.ask("GET", path)[1]["spec"]
    assert (after["replicas"], after["paused"]) == (1, True)


@pytest.mark.cluster
def test_tenant_needs_no_more_than_its_namespace(
    real: Any, new_namespace: Callable[[], str], tmp_path: Path
) -> None:
    """One with the cluster's own role `edit` there: no right to see all kinds, nor nodes."""
    place = Place(new_namespace(), "one")
    stack = Stack(place)
    accounts = f"/api/v1/namespaces/{place.namespace}/serviceaccounts"
    real.ask("POST", accounts, {"metadata": {"name": "tenant"}})
    role = {"kind": "ClusterRole", "name": "edit", "apiGroup": "rbac.authorization.k8s.io"}
    user = {"kind": "ServiceAccount", "name": "tenant", "namespace": place.namespace}
    bindings = "/apis/rbac.authorization.k8s.io/v1/namespaces/{}/rolebindings"
    body = {"metadata": {"name": "tenant"}, "roleRef": role, "subjects": [user]}
    assert real.ask("POST", bindings.format(place.namespace), body)[0] == 201
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    token = real.ask("POST", f"{accounts}/tenant/token", request)[1]["status"]["token"]
    with connect(real.login_with(token, tmp_path)) as api:
        cluster = Cluster(api, place)
        outcomes = [str(one) for one in cluster.apply(stack.all())]
        assert outcomes[0].startswith(f"Namespace {place.namespace}: skipped")
        assert len(cluster.delete(purge=True, timeout_s=30)) == 3
        assert "CSIStorageCapacity" in cluster.unseen
        with pytest.raises(ClusterForbidden, match=r"may not list nodes in the cluster"):
            api.list("v1", "Node", None)


def container(state: Object, **more: Any) -> Object:
    about = {"name": "envoy", "image": "envoy:1", "imageID": "", "ready": False, "restartCount": 1}
    return {"containerStatuses": [{**about, "state": state, **more}]}


def waits(reason: str, message: str = "") -> Object:
    return {"waiting": {"reason": reason, "message": message}}


TROUBLES = {
    "image": (
        container(waits("ImagePullBackOff", 'Back-off pulling image "envoy:1"')),
        r"the image envoy:1 cannot be pulled \(ImagePullBackOff: .*push it, or correct REGISTRY",
    ),
    "no config": (
        container(waits("CreateContainerConfigError", 'configmap "settings" not found')),
        'container envoy of Pod .* cannot start .*: configmap "settings" not found',
    ),
    "crash": (
        container(
            waits("CrashLoopBackOff"), lastState={"terminated": {"exitCode": 3, "reason": "Error"}}
        ),
        r"container envoy of Pod .* keeps crashing \(exit status 3\).*kubectl logs -n .* --prev",
    ),
    "memory": (
        container(
            waits("CrashLoopBackOff"),
            lastState={"terminated": {"exitCode": 137, "reason": "OOMKilled"}},
        ),
        "OOMKilled: raise its memory limit",
    ),
}


@pytest.mark.parametrize("trouble", TROUBLES)
def test_failing_pod_is_reported_at_once(
    trouble: str, said: Callable[..., list[str]], api: Api, stack: Stack, cluster: Any
) -> None:
    status, words = TROUBLES[trouble]
    said(stack.namespace(), stack.deployment(replicas=2))
    pods = cluster.pods_of(stack.deployment(replicas=2))
    cluster.set_status(pods[1], {"phase": "Pending", **status})
    with pytest.raises(WorkloadFailed, match=f"Deployment envoy: .*{words}"):
        wait_ready(api, [stack.deployment()], 30, 0.1)


@pytest.mark.parametrize("trouble", ["image", "crash"])
def test_pod_that_failed_before_a_deploy_is_recreated(
    trouble: str, said: Callable[..., list[str]], api: Api, stack: Stack, cluster: Any
) -> None:
    objects = [stack.namespace(), stack.deployment(replicas=2)]
    said(*objects)
    failed, well = cluster.pods_of(objects[1])
    status, _ = TROUBLES[trouble]
    cluster.set_status(failed, {"phase": "Pending", **status})
    (outcome,) = replace_failing(api, objects)
    assert outcome.which.name == failed["metadata"]["name"]
    with pytest.raises(ClusterTimeout, match="Deployment envoy"):
        wait_ready(api, [objects[1]], 1, 0.1)
    assert replace_failing(api, objects) == []
    left = {one["metadata"]["name"] for one in api.list("v1", "Pod", stack.place.namespace)}
    assert well["metadata"]["name"] in left
    assert failed["metadata"]["name"] not in left


def test_trouble_of_an_older_revision_is_past(
    said: Callable[..., list[str]], api: Api, stack: Stack, cluster: Any
) -> None:
    said(stack.namespace(), stack.deployment("envoy:1"))
    status, _ = TROUBLES["crash"]
    cluster.set_status(cluster.pods_of(stack.deployment("envoy:1"))[0], status)
    with pytest.raises(WorkloadFailed):
        wait_ready(api, [stack.deployment()], 30, 0.1)
    said(stack.deployment("envoy:2"))
    cluster.pods_of(stack.deployment("envoy:2"))
    with pytest.raises(ClusterTimeout, match=r"not ready within 1 s: Deployment envoy \(0/1 pods"):
        wait_ready(api, [stack.deployment()], 1, 0.1)


def test_unschedulable_pod_is_reported_then_fails(
    said: Callable[..., list[str]],
    api: Api,
    stack: Stack,
    cluster: Any,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(readiness, "_UNSCHEDULABLE_S", 1.0)
    said(stack.namespace(), stack.deployment())
    pod = cluster.pods_of(stack.deployment())[0]
    message = "0/3 nodes are available: 3 Insufficient cpu."
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
    cluster.set_status(pod, {"conditions": [{**condition, "message": message}]})
    with pytest.raises(WorkloadFailed, match=r"no node can run Pod .*Insufficient cpu"):
        wait_ready(api, [stack.deployment()], 30, 0.1)
    lines = capfd.readouterr().err.splitlines()
    assert any(line.startswith("waiting for Deployment envoy (no node can run") for line in lines)


def test_ready_is_when_pods_are_available(
    said: Callable[..., list[str]], api: Api, stack: Stack, cluster: Any
) -> None:
    objects = [stack.namespace(), stack.claim(), stack.deployment()]
    said(*objects)
    cluster.make_ready(stack.deployment())
    wait_ready(api, objects, 30, 0.1)


@pytest.mark.cluster
def test_quota_for_pods_is_reported(
    real: Any, new_namespace: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readiness, "_QUOTA_S", 1.0)
    place = Place(new_namespace(), "one")
    stack = Stack(place)
    quota = {"metadata": {"name": "small"}, "spec": {"hard": {"pods": "0"}}}
    real.ask("POST", f"/api/v1/namespaces/{place.namespace}/resourcequotas", quota)
    with connect(real.environ) as api:
        list(Cluster(api, place).apply([stack.deployment(), stack.job()]))
        for item in (stack.deployment(), stack.job()):
            with pytest.raises(
                WorkloadFailed,
                match=f"{item['kind']} .*: a quota leaves no room for its pods .*pods=0",
            ):
                wait_ready(api, [item], 60, 0.2)


def test_deploy_and_undeploy(
    stack: Stack, cluster: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    objects = [stack.namespace(), stack.config_map(a="1"), stack.service(), stack.monitor()]
    place, space = stack.place, stack.place.namespace
    options = DeployOptions(gateway="envoy")
    deploy_objects(objects, place, DeployOptions(gateway="envoy", dry_run=True), cluster.environ)
    assert "dry run: nothing was changed" in capsys.readouterr().out
    deploy_objects(objects, place, options, cluster.environ)
    assert capsys.readouterr().out.splitlines()[-2:] == [
        f"rest      envoy.{space}.svc:8080 in the cluster",
        f"from here kubectl port-forward -n {space} service/envoy 8080:8080",
    ]
    deploy_objects([objects[0], objects[2]], place, options, cluster.environ)
    assert "ConfigMap settings: removed" in capsys.readouterr().out
    undeploy_objects(place, cluster.environ)
    assert capsys.readouterr().out.splitlines() == ["Service envoy: removed"]
    undeploy_objects(place, cluster.environ)
    assert capsys.readouterr().out.startswith(f"nothing to remove: namespace {space} has")


_DEPLOY = """
import json, os, sys
from deploy.kubernetes.lifecycle import Place, DeployOptions, deploy_objects
objects, namespace = json.loads(sys.argv[1])
deploy_objects(objects, Place(namespace, "one"), DeployOptions("envoy"), os.environ)
"""


def test_interrupted_deploy_is_finished_by_the_next(
    stack: Stack, cluster: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    objects = [stack.namespace(), stack.service(), stack.deployment()]
    told = json.dumps([objects, stack.place.namespace])
    with subprocess.Popen(
        [sys.executable, "-c", _DEPLOY, told],
        env={**os.environ, **cluster.environ},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("waiting for Deployment envoy"):
                break
        process.send_signal(signal.SIGINT)
        assert "KeyboardInterrupt" in process.stderr.read()
    capsys.readouterr()
    cluster.make_ready(stack.deployment())
    deploy_objects(objects, stack.place, DeployOptions(gateway="envoy"), cluster.environ)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:3] == ["Service envoy: unchanged", "Deployment envoy: unchanged"]
