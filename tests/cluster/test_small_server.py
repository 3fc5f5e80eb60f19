"""What the small server of tests/support claims, compared with a real API server."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_kubernetes import KINDS, SmallKubernetes

Object = dict[str, Any]
APPLY = "application/apply-patch+yaml"
DEPLOYMENTS = "/apis/apps/v1/namespaces/{}/deployments"
CONFIG_MAPS = "/api/v1/namespaces/{}/configmaps"


@pytest.mark.cluster
def test_small_server_answers_as_the_real_one(
    real: Any, new_namespace: Callable[[], str], tmp_path: Path
) -> None:
    name = new_namespace()
    with SmallKubernetes(tmp_path) as server:
        server.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        small = type(real)(server.kubeconfig)
        expected, found = list(_told(real, name)), list(_told(small, name))
    assert found == expected


@pytest.mark.cluster
def test_small_servers_kinds_are_the_real_ones(real: Any, tmp_path: Path) -> None:
    def kinds(cluster: Any) -> list[Any]:
        wanted = {one[2] for one in KINDS} | {"pods/log"}
        found = []
        for group in ("api/v1", "apis/apps/v1", "apis/batch/v1"):
            body = cluster.ask("GET", f"/{group}")[1]
            for one in body["resources"]:
                if one["name"] in wanted:
                    about = {
                        key: one[key] for key in ("name", "kind", "singularName", "namespaced")
                    }
                    verbs = {"get", "list", "delete", "patch"} & set(one["verbs"])
                    found.append((body["groupVersion"], about, verbs))
        groups = cluster.ask("GET", "/apis")[1]
        apps = next(one for one in groups["groups"] if one["name"] == "apps")
        version = cluster.ask("GET", "/version")[1]
        return [
            *sorted(found, key=lambda one: (one[0], one[1]["name"])),
            apps,
            groups["kind"],
            version.keys() >= {"major", "minor", "gitVersion"},
        ]

    with SmallKubernetes(tmp_path) as server:
        assert kinds(type(real)(server.kubeconfig)) == kinds(real)


def _told(cluster: Any, name: str) -> Any:
    """What matters of the answers to one sequence of requests."""

    def ask(method: str, path: str, *rest: Any, **how: Any) -> Any:
        code, body = cluster.ask(method, path, *rest, **how)
        told = {"code": code, "status": body} if _is_failure(body) else {"code": code}
        return body, json.loads(json.dumps(told).replace(uid, "UID"))

    def apply(item: Object, query: str = "") -> Any:
        path = f"{CONFIG_MAPS.format(name)}/{item['metadata']['name']}?fieldManager=us{query}"
        body, told = ask("PATCH", path, item, APPLY)
        return body, {**told, **_shape(body)}

    uid = "no uid yet"
    one = f"{CONFIG_MAPS.format(name)}/one"
    yield ask("GET", one)[1]
    yield ask("GET", f"{DEPLOYMENTS.format(name)}/envoy")[1]
    yield ask("GET", "/apis/none.example.org/v1")
    yield ask("GET", "/version", token="wrong")[1]
    yield ask(
        "PATCH", f"{CONFIG_MAPS.format('none')}/one?fieldManager=us", _map("one", "none"), APPLY
    )
    yield apply(_map("one", name), "&dryRun=All")[1]
    yield ask("GET", one)[1]
    first, told = apply(_map("one", name, labels={"a": "1", "b": "2"}))
    yield told
    uid = first["metadata"]["uid"]
    same, told = apply(_map("one", name, labels={"a": "1", "b": "2"}))
    yield told, _version(same) == _version(first)
    _, told = apply(_map("one", name, labels={"a": "2"}), "&dryRun=All")
    yield told
    changed, told = apply(_map("one", name, labels={"a": "2"}))
    yield told, _version(changed) == _version(first), changed["metadata"]["uid"] == uid
    apply(_map("two", name, labels={"a": "1"}))
    for selector in ("a=1", "a=2", "a=1,b=2", "a=3"):
        listed = ask("GET", f"{CONFIG_MAPS.format(name)}?labelSelector={selector}")[0]
        names = [item["metadata"]["name"] for item in listed["items"]]
        yield listed["kind"], listed["apiVersion"], names, ["kind" in i for i in listed["items"]]
    other = {"preconditions": {"uid": "another"}, "propagationPolicy": "Foreground"}
    yield ask("DELETE", one, other)[1]
    yield ask("DELETE", one, {"preconditions": {"uid": uid}})[1]
    yield ask("DELETE", one)[1]
    held = _map("held", name, finalizers=["example.org/stay"])
    apply(held)
    yield ask("DELETE", f"{CONFIG_MAPS.format(name)}/held")[1]
    kept = ask("GET", f"{CONFIG_MAPS.format(name)}/held")[0]
    yield "deletionTimestamp" in kept["metadata"]
    _, told = apply(_map("held", name))
    yield told
    yield ask("GET", f"{CONFIG_MAPS.format(name)}/held")[1]


def _map(name: str, namespace: str, **metadata: Any) -> Object:
    metadata = {"name": name, "namespace": namespace, **metadata}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"a": "1"}}


def _shape(item: Object) -> Object:
    kept = ("name", "namespace", "labels", "finalizers")
    metadata = {key: item["metadata"][key] for key in kept if key in item["metadata"]}
    own = sorted(key for key in item["metadata"] if key in ("uid", "creationTimestamp"))
    return {"metadata": metadata, "own": own, "data": item.get("data")}


def _is_failure(body: Any) -> bool:
    return isinstance(body, str) or body.get("status") == "Failure"


def _version(item: Object) -> str:
    return str(item["metadata"]["resourceVersion"])
