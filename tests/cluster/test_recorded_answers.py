"""How a real API server refuses: provoked here, and recorded for the tests that have none.

`RECORD=1 pytest -m cluster tests/cluster/test_recorded_answers.py` writes the record anew.
"""

import base64
import http.server
import ipaddress
import json
import os
import re
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import recorded_answers
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from deploy.console import wait_until

pytestmark = pytest.mark.cluster
Object = dict[str, Any]
Answer = tuple[int, Any]
APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"


class Provoked:
    """Each method has the cluster refuse something, in a namespace of its own."""

    def __init__(self, real: Any, namespace: str, folder: Path) -> None:
        self.real, self.namespace, self.folder = real, namespace, folder

    def apply(self, item: Object, who: str = "prediction-services", **how: Any) -> Answer:
        plural = f"{item['kind'].lower()}s"
        group = item["apiVersion"]
        root = f"/apis/{group}" if "/" in group else f"/api/{group}"
        name = item["metadata"]["name"]
        path = f"{root}/namespaces/{item['metadata']['namespace']}/{plural}/{name}"
        return self.real.ask("PATCH", f"{path}?fieldManager={who}", item, APPLY, **how)

    def done(self, answer: Answer) -> Any:
        assert answer[0] in (200, 201), answer
        return answer[1]

    def config_map(self, **more: Any) -> Object:
        metadata = {"name": "notes", "namespace": self.namespace, **more}
        return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"a": "1"}}

    def deployment(self) -> Object:
        labels = {"app": "envoy"}
        containers = [{"name": "envoy", "image": "envoy:1"}]
        return {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "envoy", "namespace": self.namespace},
            "spec": {
                "replicas": 1,
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": {"containers": containers}},
            },
        }

    def unauthorized(self) -> Answer:
        return self.real.ask("GET", "/version", token="expired")

    def anonymous(self) -> Answer:
        return self.real.ask("GET", "/apis", token="")

    def forbidden(self) -> Answer:
        root = f"/api/v1/namespaces/{self.namespace}/serviceaccounts"
        self.done(self.real.ask("POST", root, {"metadata": {"name": "guest"}}))
        request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
        token = self.done(self.real.ask("POST", f"{root}/guest/token", request))
        return self.apply(self.deployment(), token=token["status"]["token"])

    def quota(self) -> Answer:
        path = f"/api/v1/namespaces/{self.namespace}/resourcequotas"
        spec = {"hard": {"count/deployments.apps": "0"}}
        self.done(self.real.ask("POST", path, {"metadata": {"name": "small"}, "spec": spec}))

        def counted() -> bool:
            return "hard" in self.real.ask("GET", f"{path}/small")[1].get("status", {})

        assert wait_until(counted, 20)
        return self.apply(self.deployment())

    def conflict(self) -> Answer:
        self.done(self.apply(self.deployment(), who="somebody"))
        item = self.deployment()
        item["spec"]["replicas"] = 2
        item["spec"]["template"]["spec"]["containers"][0]["image"] = "envoy:2"
        return self.apply(item)

    def immutable(self) -> Answer:
        item = self.deployment()
        spec = item["spec"]["template"]["spec"]
        spec["restartPolicy"] = "Never"
        job = {
            **item,
            "apiVersion": "batch/v1",
            "kind": "Job",
            "spec": {"template": {"spec": spec}},
        }
        self.done(self.apply(job))
        spec["containers"][0]["image"] = "envoy:2"
        return self.apply(job)

    def unknown_field(self) -> Answer:
        item = self.deployment()
        item["spec"]["replikas"] = 2
        return self.apply(item)

    def invalid(self) -> Answer:
        item = self.deployment()
        item["spec"]["selector"]["matchLabels"] = {"app": "another"}
        return self.apply(item)

    def missing_namespace(self) -> Answer:
        self.namespace = "ps-test-none"
        return self.apply(self.config_map())

    def terminating_namespace(self) -> Answer:
        self.done(self.apply(self.config_map(finalizers=["example.org/stay"])))
        path = f"/api/v1/namespaces/{self.namespace}"
        self.done(self.real.ask("DELETE", path))
        try:
            return self.apply(self.deployment())
        finally:
            free = {"metadata": {"finalizers": None}}
            self.real.ask("PATCH", f"{path}/configmaps/notes", free, MERGE)

    def webhook_fails(self) -> Answer:
        with self._webhook("https://127.0.0.1:1/", None):
            return self.apply(self.config_map())

    def webhook_denies(self) -> Answer:
        if os.environ.get("CLUSTER_WITHOUT_NODES") != "1":
            pytest.skip("the cluster cannot reach a webhook on this machine")
        certificate = _certificate(self.folder)
        with _denying(certificate) as url, self._webhook(url, certificate.read_bytes()):
            return self.apply(self.config_map())

    @contextmanager
    def _webhook(self, url: str, authority: bytes | None) -> Iterator[None]:
        call: Object = {"url": url}
        if authority:
            call["caBundle"] = base64.b64encode(authority).decode()
        rule = {"apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}
        here = {"matchLabels": {"kubernetes.io/metadata.name": self.namespace}}
        root = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations"
        webhook = {
            "name": "names.example.org",
            "clientConfig": call,
            "rules": [{**rule, "operations": ["CREATE", "UPDATE"]}],
            "namespaceSelector": here,
            "sideEffects": "None",
            "admissionReviewVersions": ["v1"],
            "timeoutSeconds": 2,
        }
        body = {"metadata": {"name": self.namespace}, "webhooks": [webhook]}
        self.done(self.real.ask("POST", root, body))
        try:
            # The API server reads its webhooks from a watch.
            assert wait_until(lambda: self.apply(self.config_map(name="probe"))[0] >= 400, 20)
            yield
        finally:
            self.real.ask("DELETE", f"{root}/{self.namespace}")


_TOOLS = ("apply", "done", "config_map", "deployment")
CASES = sorted(one for one in vars(Provoked) if not one.startswith("_") and one not in _TOOLS)


@pytest.mark.parametrize("case", CASES)
def test_recorded_answer_is_the_clusters(
    case: str, real: Any, new_namespace: Callable[[], str], tmp_path: Path
) -> None:
    provoked = Provoked(real, new_namespace(), tmp_path)
    namespace = provoked.namespace
    code, body = getattr(provoked, case)()
    text = json.dumps({"code": code, "body": body}).replace(namespace, "production")
    # The whole new template, as Go prints it.
    answer = json.loads(re.sub(r"Invalid value: {.{400,}?}}: ", "Invalid value: {...}: ", text))
    assert code >= 400
    if os.environ.get("RECORD"):
        recorded_answers.write(case, answer)
    assert recorded_answers.read()[case] == answer


def test_every_recorded_answer_is_provoked() -> None:
    assert sorted(recorded_answers.read()) == CASES


def _certificate(folder: Path) -> Path:
    """For 127.0.0.1, with its key in the same file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    plain = serialization.NoEncryption()
    both = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain)
    path = folder / "webhook.pem"
    path.write_bytes(certificate.public_bytes(pem))
    (folder / "webhook.key").write_bytes(both)
    return path


@contextmanager
def _denying(certificate: Path) -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            uid = json.loads(self.rfile.read(length))["request"]["uid"]
            status = {"message": "every ConfigMap needs a label team", "code": 403}
            response = {"uid": uid, "allowed": False, "status": status}
            review = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview"}
            data = json.dumps({**review, "response": response}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, certificate.with_suffix(".key"))
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"https://127.0.0.1:{server.server_address[1]}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
