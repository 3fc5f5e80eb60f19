"""Every way in which a cluster can refuse or fail, as one sentence."""

import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import recorded_answers
import yaml
from small_kubernetes import SmallKubernetes, kubeconfig

from deploy.errors import (
    ClusterForbidden,
    ClusterNotConfigured,
    ClusterRefused,
    ClusterUnreachable,
    FieldConflict,
)
from deploy.kubernetes import api as edge
from deploy.kubernetes.api import Api, Reference, connect
from deploy.kubernetes.cluster import Cluster, Place

ITEM = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "envoy", "namespace": "default"},
    "spec": {"replicas": 1},
}
PATH = "/apis/apps/v1/namespaces/default/deployments/envoy"


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge, "RETRIES", edge.RETRIES.new(backoff_factor=0.001))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[SmallKubernetes]:
    with SmallKubernetes(tmp_path) as running:
        yield running


@pytest.fixture
def api(server: SmallKubernetes) -> Iterator[Api]:
    with connect({"KUBECONFIG": str(server.kubeconfig)}) as reached:
        yield reached


@pytest.fixture
def configured(tmp_path: Path) -> Callable[..., dict[str, str]]:
    def write(server: str, **cluster: str) -> dict[str, str]:
        path = tmp_path / "another-kubeconfig"
        path.write_text(yaml.safe_dump(kubeconfig(server, **cluster)))
        return {"KUBECONFIG": str(path)}

    return write


REFUSALS = {
    "anonymous": (ClusterRefused, "has no credentials for .*; log in"),
    "conflict": (
        FieldConflict,
        r'spec.replicas, spec.template.spec.containers\[name="envoy"\].image was set by somebody, '
        "not by prediction-services; undo that, or set FORCE=1",
    ),
    "forbidden": (
        ClusterForbidden,
        "system:serviceaccount:production:guest may not patch deployments.apps in namespace "
        "default, which Deployment envoy needs; ask for a role",
    ),
    "immutable": (ClusterRefused, r"invalid: spec.template: .*field is immutable; correct it"),
    "invalid": (ClusterRefused, "spec.template.metadata.labels: .*does not match"),
    "missing_namespace": (
        ClusterRefused,
        "namespace default of .* does not exist; create it first",
    ),
    "quota": (ClusterRefused, "quota leaves no room for Deployment envoy .*small, requested: "),
    "terminating_namespace": (ClusterRefused, "is being deleted.*try again when it is gone"),
    "unauthorized": (ClusterRefused, "context test of .*kubeconfig .*expired; log in again"),
    "unknown_field": (ClusterRefused, "has no field .spec.replikas; correct the name"),
    "webhook_denies": (
        ClusterRefused,
        "webhook names.example.org denied Deployment envoy in namespace default: every "
        "ConfigMap needs a label team",
    ),
    "webhook_fails": (ClusterRefused, "webhook names.example.org, .*connection refused; ask"),
}


def test_every_recorded_refusal_is_worded() -> None:
    assert REFUSALS.keys() == recorded_answers.read().keys()


@pytest.mark.parametrize("case", REFUSALS)
def test_refusal_is_one_sentence(case: str, server: SmallKubernetes, api: Api) -> None:
    recorded = recorded_answers.read()[case]
    server.fails(f"PATCH {PATH}", times=99, **recorded)
    kind, words = REFUSALS[case]
    with pytest.raises(kind, match=words) as raised:
        api.apply(ITEM)
    assert "\n" not in str(raised.value)
    assert server.objects.keys() == {"/api/v1/namespaces/default"}


@pytest.mark.parametrize(
    "fault",
    [
        {"code": 429, "headers": {"Retry-After": "1"}},
        {"code": 500, "body": "etcdserver: leader changed"},
        {"code": 503, "times": 2},
        {"reset": True},
        {"half": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("verb", ["GET", "PATCH", "DELETE"])
def test_transient_failure_is_tried_again(
    fault: dict[str, Any], verb: str, server: SmallKubernetes, api: Api
) -> None:
    item = server.put(ITEM)
    happened = server.fails(f"{verb} {PATH}", **fault)
    if verb == "GET":
        assert api.read(Reference.of(ITEM)) is not None
    elif verb == "PATCH":
        assert api.apply({**ITEM, "spec": {"replicas": 2}})["spec"] == {"replicas": 2}
    else:
        api.delete(item)
        assert PATH not in server.objects
    assert happened.times == 0
    assert sum(PATH in request for request in server.requests) == fault.get("times", 1) + 1


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"code": 429}, "too busy to patch Deployment envoy in namespace default; try again"),
        ({"code": 503, "body": "no upstream"}, r"failed to patch .* \(503: no upstream\); try"),
        ({"reset": True}, "closed the connection"),
        ({"half": True}, "closed the connection"),
    ],
    ids=str,
)
def test_persistent_failure_is_reported(
    fault: dict[str, Any], words: str, server: SmallKubernetes, api: Api
) -> None:
    server.fails(f"PATCH {PATH}", times=99, **fault)
    with pytest.raises(ClusterUnreachable, match=words):
        api.apply(ITEM)


def test_silence_is_not_waited_for(
    server: SmallKubernetes, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge, "READ_TIMEOUT_S", 0.2)
    server.fails(f"GET {PATH}", times=99, delay_s=0.6)
    with pytest.raises(ClusterUnreachable, match=r"did not answer in time \(get Deployment envoy"):
        api.read(Reference.of(ITEM))


def test_nothing_there(configured: Callable[..., dict[str, str]]) -> None:
    with socket.socket() as bound:  # not listening
        bound.bind(("127.0.0.1", 0))
        url = f"https://127.0.0.1:{bound.getsockname()[1]}"
        with pytest.raises(ClusterUnreachable, match=f"cannot connect to {url}; start"):
            connect(configured(url))


def test_unknown_host(configured: Callable[..., dict[str, str]]) -> None:
    with pytest.raises(
        ClusterUnreachable, match=r"the host of https://cluster\.invalid is unknown"
    ):
        connect(configured("https://cluster.invalid"))


def test_something_else_answers(
    server: SmallKubernetes, configured: Callable[..., dict[str, str]]
) -> None:
    server.fails("GET", times=99, code=200, body="<html>Welcome</html>")
    with pytest.raises(ClusterUnreachable, match="does not answer like a Kubernetes API server"):
        connect(configured(server.url))


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[SmallKubernetes]:
    """Over TLS, with a certificate that nobody signed."""
    openssl = shutil.which("openssl")
    assert openssl
    certificate, key = tmp_path / "tls.crt", tmp_path / "tls.key"
    subject = ["-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1"]
    made = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run(
        [openssl, "req", "-x509", *made, *subject, *files], check=True, capture_output=True
    )
    with SmallKubernetes(tmp_path, (certificate, key)) as running:
        yield running


def test_untrusted_certificate(
    secure: SmallKubernetes, configured: Callable[..., dict[str, str]], tmp_path: Path
) -> None:
    with pytest.raises(ClusterUnreachable, match=r"is not trusted \(self-signed certificate"):
        connect(configured(secure.url))
    assert not secure.requests
    trusted = configured(secure.url, **{"certificate-authority": str(tmp_path / "tls.crt")})
    connect(trusted).__exit__()


def test_certificate_of_another_host(
    secure: SmallKubernetes, configured: Callable[..., dict[str, str]], tmp_path: Path
) -> None:
    authority = {"certificate-authority": str(tmp_path / "tls.crt")}
    url = secure.url.replace("127.0.0.1", "localhost")
    with pytest.raises(ClusterUnreachable, match=r"is not trusted \(Hostname mismatch"):
        connect(configured(url, **authority))


def test_no_tls_where_tls_is_expected(
    server: SmallKubernetes, configured: Callable[..., dict[str, str]]
) -> None:
    with pytest.raises(ClusterUnreachable, match="does not use TLS; correct the server's address"):
        connect(configured(server.url.replace("http:", "https:")))


def test_login_is_asked_for_at_once(
    server: SmallKubernetes, configured: Callable[..., dict[str, str]], tmp_path: Path
) -> None:
    path = tmp_path / "old"
    path.write_text(yaml.safe_dump(kubeconfig(server.url, token="expired")))
    with pytest.raises(ClusterRefused, match="401 Unauthorized"):
        connect({"KUBECONFIG": str(path)})


def test_no_kubeconfig(tmp_path: Path) -> None:
    with pytest.raises(ClusterNotConfigured, match=r"\.kube/config does not exist; set KUBECONFIG"):
        connect({"HOME": str(tmp_path)})


def test_kubeconfig_at_home(server: SmallKubernetes, tmp_path: Path) -> None:
    (tmp_path / ".kube").mkdir()
    shutil.copy(server.kubeconfig, tmp_path / ".kube" / "config")
    with connect({"HOME": str(tmp_path)}) as reached:
        assert reached.server == server.url


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "which does not exist; correct it"),
        ("", "cannot be used"),
        ("{", "cannot be used"),
        ("just text", "cannot be used"),
        ("current-context: test\ncontexts: []\n", "cannot be used: .*contexts"),
    ],
)
def test_broken_kubeconfig(text: str | None, words: str, tmp_path: Path) -> None:
    path = tmp_path / "broken"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ClusterNotConfigured, match=words):
        connect({"KUBECONFIG": str(path)})


def test_unknown_context(server: SmallKubernetes) -> None:
    environ = {"KUBECONFIG": str(server.kubeconfig)}
    with pytest.raises(ClusterNotConfigured, match="no context live; choose one of test"):
        connect(environ, "live")
    with connect(environ, "test") as reached:
        assert reached.login.startswith("context test of ")


def test_unknown_kind(api: Api) -> None:
    with pytest.raises(ClusterRefused, match=r"does not serve Rollout of argoproj\.io/v1; use a"):
        api.read(Reference("argoproj.io/v1", "Rollout", "envoy", "default"))


def test_what_serves_is_deleted_before_what_it_needs(server: SmallKubernetes, api: Api) -> None:
    place = Place("default", "one")
    about = {"namespace": "default", "labels": place.labels}
    for version, kind, name in (
        ("v1", "ConfigMap", "settings"),
        ("v1", "Service", "envoy"),
        ("apps/v1", "Deployment", "envoy"),
    ):
        server.put({"apiVersion": version, "kind": kind, "metadata": {"name": name, **about}})
    Cluster(api, place).delete(purge=False, timeout_s=10)
    deleted = [one.rpartition("/default/")[2] for one in server.requests if "DELETE" in one]
    assert deleted == ["deployments/envoy", "configmaps/settings", "services/envoy"]


def test_last_log_line(server: SmallKubernetes, api: Api) -> None:
    metadata = {"name": "envoy-1", "namespace": "default"}
    server.put({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {}})
    server.logs["envoy-1"] = '{"level": "info"}\n{"level": "error"}\n\n'
    line = api.last_log_line("default", "envoy-1", "envoy", previous=True)
    assert line == '{"level": "error"}'
    assert "previous=true" in server.requests[-1]
