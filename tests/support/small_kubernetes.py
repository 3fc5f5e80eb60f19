"""A small Kubernetes API server for tests: real HTTP, a few kinds, and faults on demand.

It answers as the real one does wherever tests/cluster compares the two. It has no controllers
(a test says what they would have done), no defaults, no admission, and does not know who set
which field: such refusals are faults, with answers that were recorded. A command in a pod runs on
this machine, as `containers` says.
"""

import copy
import json
import re
import socket
import ssl
import struct
import threading
import time
import uuid
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

import small_exec
import yaml

Object = dict[str, Any]

TOKEN = "secret"
# group, kind, plural, namespaced; all of version v1
KINDS = [
    ("", "Namespace", "namespaces", False),
    ("", "PersistentVolume", "persistentvolumes", False),
    ("", "Node", "nodes", False),
    ("", "ConfigMap", "configmaps", True),
    ("", "Event", "events", True),
    ("", "PersistentVolumeClaim", "persistentvolumeclaims", True),
    ("", "Pod", "pods", True),
    ("", "Secret", "secrets", True),
    ("", "Service", "services", True),
    ("apps", "Deployment", "deployments", True),
    ("apps", "ReplicaSet", "replicasets", True),
    ("apps", "StatefulSet", "statefulsets", True),
    ("batch", "Job", "jobs", True),
    ("networking.k8s.io", "NetworkPolicy", "networkpolicies", True),
    ("policy", "PodDisruptionBudget", "poddisruptionbudgets", True),
]
_OWN = ("uid", "creationTimestamp", "generation", "resourceVersion", "deletionTimestamp")
_VERBS = ["create", "delete", "get", "list", "patch", "update", "watch"]
_PATH = re.compile(
    r"/(?:api|apis/(?P<group>[^/]+))/v1"
    r"(?:/namespaces/(?P<namespace>[^/]+)(?=/))?"
    r"/(?P<plural>[^/]+)(?:/(?P<name>[^/]+)(?P<part>/log|/exec)?)?"
)


@dataclass
class Fault:
    """What happens to the next requests that match, instead of an answer.

    Attributes:
        where: A regular expression that finds `GET /api/v1/...`.
        times: To how many.
        code: Answer with this status ...
        body: ... and this body, an object or text ...
        headers: ... and these headers.
        reset: Break the connection off before the answer.
        half: Break it off in the middle of the true answer.
        delay_s: Be silent for so long first.
    """

    where: str
    times: int = 1
    code: int | None = None
    body: Any = ""
    headers: dict[str, str] = field(default_factory=dict)
    reset: bool = False
    half: bool = False
    delay_s: float = 0.0


class SmallKubernetes:
    """The server, between `with` and its end; `objects` has each by its path.

    `logs` has a pod's, or a container's as pod/container; `containers` has by the beginning of a
    pod's name and a container's what runs its commands.
    """

    def __init__(self, folder: Path, certificate: tuple[Path, Path] | None = None) -> None:
        self.objects: dict[str, Object] = {}
        self.logs: dict[str, str] = {}
        self.containers: dict[tuple[str, str], small_exec.Container] = {}
        self.faults: list[Fault] = []
        self.requests: list[str] = []
        self.lock = threading.RLock()
        self._version = 0
        handler = type("Handler", (_Handler,), {"cluster": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        if certificate:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(*certificate)
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        scheme = "https" if certificate else "http"
        self.url = f"{scheme}://127.0.0.1:{self._server.server_address[1]}"
        self.kubeconfig = folder / "kubeconfig"
        self.kubeconfig.write_text(yaml.safe_dump(kubeconfig(self.url)))
        self.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}})

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def put(self, item: Object) -> Object:
        """Keep an object as it is given, such as a Pod that a kubelet would have made."""
        path = path_of(item)
        with self.lock:
            self.objects[path] = self.stamped(copy.deepcopy(item), self.objects.get(path))
            return self.objects[path]

    def stamped(self, item: Object, before: Object | None) -> Object:
        """With what the server itself keeps about an object."""
        own = (
            {key: before["metadata"][key] for key in _OWN if key in before["metadata"]}
            if before
            else {}
        )
        spec_changed = before is None or before.get("spec") != item.get("spec")
        item["metadata"] = {
            "uid": str(uuid.uuid4()),
            "creationTimestamp": "2026-01-01T00:00:00Z",
            **own,
            **item["metadata"],
            "generation": own.get("generation", 0) + spec_changed,
        }
        if item != before:
            self._version += 1
            item["metadata"]["resourceVersion"] = str(self._version)
        return item

    def fails(self, where: str, **how: Any) -> Fault:
        """The next request that matches meets this fault."""
        self.faults.append(fault := Fault(where, **how))
        return fault

    def met(self, request: str) -> Fault | None:
        """The fault that this request meets, if any."""
        with self.lock:
            self.requests.append(request)
            for fault in self.faults:
                if fault.times > 0 and re.search(fault.where, request):
                    fault.times -= 1
                    return fault
        return None


def kubeconfig(server: str, token: str = TOKEN, **cluster: str) -> Object:
    """A KUBECONFIG with one context, `test`."""
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": {"server": server, **cluster}}],
        "users": [{"name": "tester", "user": {"token": token}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "tester"}}],
        "current-context": "test",
    }


def path_of(item: Object) -> str:
    """Where the API has it."""
    group = item["apiVersion"].rpartition("/")[0]
    plural = next(one[2] for one in KINDS if one[:2] == (group, item["kind"]))
    metadata = item["metadata"]
    inner = f"/namespaces/{metadata['namespace']}" if "namespace" in metadata else ""
    return f"{'/apis/' + group if group else '/api'}/v1{inner}/{plural}/{metadata['name']}"


class _Answer(Exception):
    def __init__(self, code: int, body: Any) -> None:
        self.code, self.body = code, body


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    cluster: SmallKubernetes
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are two writes

    def log_message(self, *_: object) -> None:
        pass

    def handle(self) -> None:
        # A client that hangs up, or that does not trust us, is what tests are about.
        try:
            super().handle()
        except OSError:
            self.close_connection = True

    def do_GET(self) -> None:
        self._serve(self._get)

    def do_PATCH(self) -> None:
        merges = self.headers["Content-Type"] == "application/merge-patch+json"
        self._serve(self._merge if merges else self._apply)

    def do_DELETE(self) -> None:
        self._serve(self._delete)

    def _serve(self, work: Any) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        url = urlsplit(self.path)
        self.words = parse_qs(url.query, keep_blank_values=True).get("command", [])
        self.query = {key: values[0] for key, values in parse_qs(url.query).items()}
        self.place = url.path
        fault = self.cluster.met(f"{self.command} {self.path}")
        if fault:
            time.sleep(fault.delay_s)
            if fault.reset:
                return self._reset()
            if fault.code is not None:
                return self._send(fault.code, fault.body, fault.headers)
        try:
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                raise _Answer(401, _status(401, "Unauthorized", "Unauthorized"))
            with self.cluster.lock:
                answer = copy.deepcopy(work(json.loads(body) if body else {}))
            code, body = answer if isinstance(answer, tuple) else (200, answer)
        except _Answer as answer:
            code, body = answer.code, answer.body
        if isinstance(body, small_exec.Container):
            broken = bool(fault and fault.half)
            small_exec.serve(
                self.connection, dict(self.headers), body, self.words, break_off=broken
            )
            self.close_connection = True
            return None
        return self._send(code, body, {}, half=bool(fault and fault.half))

    def _send(self, code: int, body: Any, headers: dict[str, str], half: bool = False) -> None:
        text = body if isinstance(body, str) else json.dumps(body)
        data = text.encode()
        self.send_response(code)
        kind = "text/plain" if isinstance(body, str) else "application/json"
        for name, value in {"Content-Type": kind, **headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if half else data)
        if half:
            self._reset()

    def _reset(self) -> None:
        self.wfile.flush()
        linger = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.close_connection = True

    def _get(self, _body: Object) -> Any:
        if self.place == "/version":
            return {"major": "1", "minor": "35", "gitVersion": "v1.35.4"}
        if self.place == "/apis":
            return _groups()
        if found := re.fullmatch(r"/(?:api|apis/([^/]+))/v1", self.place):
            return self._kinds(found[1] or "")
        (group, kind, plural, _), path = self._kind_of()
        if path["name"] is None:
            return self._list(group, kind, path["namespace"], plural)
        item = self._existing(group, plural, path["name"])
        if path["part"] == "/exec":
            return self._container(item)
        return self._log(path["name"]) if path["part"] else item

    def _log(self, pod: str) -> str:
        logs = self.cluster.logs
        lines = logs.get(f"{pod}/{self.query.get('container')}", logs.get(pod, ""))
        if "tailLines" not in self.query:
            return lines
        return "".join(lines.splitlines(keepends=True)[-int(self.query["tailLines"]) :])

    def _container(self, pod: Object) -> small_exec.Container:
        name, container = pod["metadata"]["name"], self.query["container"]
        for (begin, one), found in self.cluster.containers.items():
            if name.startswith(begin) and one == container:
                return found
        message = f"container {container} is not valid for pod {name}"
        raise _Answer(400, _status(400, "BadRequest", message))

    def _merge(self, fields: Object) -> Any:
        (group, _, plural, _), path = self._kind_of()
        before = self._existing(group, plural, path["name"])
        after = self.cluster.stamped(_merged(before, fields), before)
        self.cluster.objects[self.place] = after
        return after

    def _kinds(self, group: str) -> Any:
        if group not in {one[0] for one in KINDS}:
            raise _Answer(404, "404 page not found\n")
        resources = [
            {"name": plural, "singularName": kind.lower(), "kind": kind, "verbs": _VERBS}
            | {"namespaced": namespaced}
            for one, kind, plural, namespaced in KINDS
            if one == group
        ]
        if not group:
            log = {"name": "pods/log", "singularName": "", "kind": "Pod", "verbs": ["get"]}
            resources.append({**log, "namespaced": True})
        version = f"{group}/v1" if group else "v1"
        return {"kind": "APIResourceList", "groupVersion": version, "resources": resources}

    def _list(self, group: str, kind: str, namespace: str | None, plural: str) -> Any:
        # With its final slash, since the path of a namespace begins all that is in it.
        items = [
            {key: value for key, value in item.items() if key not in ("apiVersion", "kind")}
            for path, item in self.cluster.objects.items()
            if path.rpartition("/")[0] == self.place and self._selected(item)
        ]
        version = f"{group}/v1" if group else "v1"
        return {"kind": f"{kind}List", "apiVersion": version, "metadata": {}, "items": items}

    def _selected(self, item: Object) -> bool:
        labels = item["metadata"].get("labels", {})
        wanted = _pairs(self.query.get("labelSelector", ""))
        fields = _pairs(self.query.get("fieldSelector", ""))
        return all(labels.get(name) == value for name, value in wanted) and all(
            _field(item, name) == value for name, value in fields
        )

    def _apply(self, item: Object) -> Any:
        """Server-side apply of one who set every field that is set."""
        assert self.headers["Content-Type"] == "application/apply-patch+yaml"
        assert self.query["fieldManager"]
        (_, _, _, namespaced), path = self._kind_of()
        if namespaced:
            self._existing("", "namespaces", path["namespace"])
        before = self.cluster.objects.get(self.place)
        after = copy.deepcopy(item)
        if before and "status" in before:
            after["status"] = before["status"]
        after = self.cluster.stamped(after, before)
        if self.query.get("dryRun") != "All":
            self.cluster.objects[self.place] = after
            if "deletionTimestamp" in after["metadata"] and not after["metadata"].get("finalizers"):
                del self.cluster.objects[self.place]
        return (200 if before else 201), after

    def _delete(self, options: Object) -> Any:
        (group, kind, plural, _), path = self._kind_of()
        item = self._existing(group, plural, path["name"])
        metadata = item["metadata"]
        uid = options.get("preconditions", {}).get("uid", metadata["uid"])
        if uid != metadata["uid"]:
            details = {"name": path["name"], "kind": kind} | ({"group": group} if group else {})
            message = (
                f"Operation cannot be fulfilled on {kind}{'.' + group if group else ''} "
                f'"{path["name"]}": the UID in the precondition ({uid}) does not match the UID '
                f"in record ({metadata['uid']}). The object might have been deleted and then "
                "recreated"
            )
            raise _Answer(409, _status(409, "Conflict", message, details))
        if metadata.get("finalizers"):
            metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
            return item
        inside = f"/namespaces/{path['name']}/"
        for other in [
            one for one in self.cluster.objects if plural == "namespaces" and inside in one
        ]:
            del self.cluster.objects[other]
        del self.cluster.objects[self.place]
        return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}

    def _kind_of(self) -> tuple[tuple[str, str, str, bool], dict[str, Any]]:
        found = _PATH.fullmatch(self.place)
        for one in KINDS:
            if found and (found["group"] or "", found["plural"]) == (one[0], one[2]):
                return one, found.groupdict()
        raise _Answer(404, "404 page not found\n")

    def _existing(self, group: str, plural: str, name: str) -> Object:
        place = f"/api/v1/namespaces/{name}" if plural == "namespaces" else self.place
        item = self.cluster.objects.get(re.sub("/(log|exec)$", "", place))
        if item is not None:
            return item
        details = {"name": name, "kind": plural}
        details |= {"group": group} if group else {}
        full = f"{plural}.{group}" if group else plural
        raise _Answer(404, _status(404, "NotFound", f'{full} "{name}" not found', details))


def _groups() -> Object:
    groups = []
    for name in sorted({one[0] for one in KINDS} - {""}):
        version = {"groupVersion": f"{name}/v1", "version": "v1"}
        groups.append({"name": name, "versions": [version], "preferredVersion": version})
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}


def _status(code: int, reason: str, message: str, details: Object | None = None) -> Object:
    status: Object = {"kind": "Status", "apiVersion": "v1", "metadata": {}}
    status |= {"status": "Failure"}
    status |= {"message": message, "reason": reason, "code": code}
    return status | ({"details": details} if details else {})


def _merged(before: Any, fields: Object) -> Object:
    """RFC 7396."""
    after = dict(before) if isinstance(before, dict) else {}
    for name, value in fields.items():
        if value is None:
            after.pop(name, None)
        else:
            after[name] = _merged(after.get(name), value) if isinstance(value, dict) else value
    return after


def _pairs(selector: str) -> list[tuple[str, str]]:
    return [(one.partition("=")[0], one.partition("=")[2]) for one in selector.split(",") if one]


def _field(item: Any, path: str) -> Any:
    for name in path.split("."):
        item = item.get(name, {})
    return item
