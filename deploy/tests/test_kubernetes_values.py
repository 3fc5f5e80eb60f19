"""Addresses of a Service, and which fields of an object differ."""

from typing import Any

from deploy.kubernetes import addresses
from deploy.kubernetes.changes import changed_paths


def service(kind: str, ingress: list[dict[str, str]] | None = None) -> dict[str, Any]:
    ports = [
        {"name": "rest", "port": 8080, "nodePort": 30015},
        {"name": "grpc", "port": 5000, "nodePort": 30017},
    ]
    return {
        "metadata": {"name": "envoy", "namespace": "production"},
        "spec": {"type": kind, "ports": ports},
        "status": {"loadBalancer": {"ingress": ingress} if ingress else {}},
    }


def test_cluster_ip_is_forwarded() -> None:
    assert addresses.lines(service("ClusterIP"), None) == [
        "rest      envoy.production.svc:8080 in the cluster",
        "grpc      envoy.production.svc:5000 in the cluster",
        "from here kubectl port-forward -n production service/envoy 8080:8080 5000:5000",
    ]


def test_port_that_is_roots_is_forwarded_from_another() -> None:
    low = service("ClusterIP")
    low["spec"]["ports"] = [{"name": "rest", "port": 80}]
    assert addresses.lines(low, None)[-1].endswith("service/envoy 8080:80")


def test_node_port_is_any_nodes() -> None:
    assert addresses.lines(service("NodePort"), "192.0.2.7") == [
        "rest      192.0.2.7:30015",
        "grpc      192.0.2.7:30017",
    ]
    assert addresses.lines(service("NodePort"), None)[0] == "rest      <address of a node>:30015"


def test_load_balancer_has_its_own_address() -> None:
    lines = addresses.lines(service("LoadBalancer", [{"ip": "192.0.2.9"}]), None)
    assert lines == ["rest      192.0.2.9:8080", "grpc      192.0.2.9:5000"]
    named = service("LoadBalancer", [{"hostname": "lb.example.org"}])
    assert addresses.lines(named, None)[1] == "grpc      lb.example.org:5000"
    assert addresses.lines(service("LoadBalancer"), None) == [
        "gateway   its load balancer has no address yet: kubectl get service -n production envoy"
    ]


def test_external_address_of_a_node_is_better() -> None:
    def node(*pairs: tuple[str, str]) -> dict[str, Any]:
        return {"status": {"addresses": [{"type": a, "address": b} for a, b in pairs]}}

    inner, outer = node(("InternalIP", "10.0.0.1")), node(("ExternalIP", "192.0.2.1"))
    assert addresses.node_address([inner, outer]) == "192.0.2.1"
    assert addresses.node_address([inner]) == "10.0.0.1"
    assert addresses.node_address([]) is None


def test_changes_are_named_without_their_values() -> None:
    def item(version: str, password: str, **labels: str) -> dict[str, Any]:
        ports = [{"port": 1, "targetPort": 2}, {"port": 3, "targetPort": int(version)}]
        metadata = {"name": "a", "labels": labels, "resourceVersion": version}
        return {"metadata": metadata, "data": {"p": password}, "spec": {"ports": ports}}

    before, after = item("5", "old secret", a="1"), item("6", "new secret", b="2")
    after["status"] = {"changes": "all the time"}
    after["metadata"]["annotations"] = {"deployment.kubernetes.io/revision": "2", "ours": "1"}
    assert changed_paths(before, after) == [
        "data.p",
        "metadata.annotations.ours",
        "metadata.labels.a",
        "metadata.labels.b",
        "spec.ports[3].targetPort",
    ]
    assert changed_paths(before, item("5", "old secret", a="1")) == []
