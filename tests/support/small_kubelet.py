"""Controllers and a node for a small Kubernetes.

Deployments have their pods at once, unless a test says that an image cannot be pulled; nothing runs
in them but what is called by exec. A Job's pods are processes of this machine.
"""

import base64
import os
import subprocess
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from small_exec import Container
from small_kubernetes import SmallKubernetes

Object = dict[str, Any]
REVISION = "deployment.kubernetes.io/revision"
_EVERY_S = 0.05


@dataclass
class _Process:
    """One pod of a Job."""

    pod: Object
    process: subprocess.Popen[bytes]
    log: Path
    ready: list[str] | None


class SmallKubelet:
    """Does its work between `with` and its end."""

    def __init__(self, server: SmallKubernetes, node: Container, folder: Path) -> None:
        """`node`: what its paths and host names are on this machine; `folder`: for logs."""
        self.server = server
        self.node = node
        self.bad_images: set[str] = set()
        self._folder = folder
        self._processes: dict[str, list[_Process]] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work)
        self.failure: BaseException | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        for uid in list(self._processes):
            self._end(uid)
        if self.failure:
            raise self.failure

    def lose_pods(self, job: str) -> None:
        """As when their node is gone for good."""
        with self.server.lock:
            for one in [p for ps in self._processes.values() for p in ps]:
                if one.pod["metadata"]["labels"]["app.kubernetes.io/name"] == job:
                    one.process.kill()
                    self._remove(one.pod)

    def _work(self) -> None:
        try:
            while not self._stop.wait(_EVERY_S):
                with self.server.lock:
                    self._look()
        except BaseException as error:
            self.failure = error
            raise

    def _look(self) -> None:
        objects = list(self.server.objects.values())
        owners = {one["metadata"]["uid"] for one in objects}
        for item in objects:
            if item["kind"] == "Deployment":
                self._deployment(item)
            elif item["kind"] == "Job":
                self._job(item)
            elif item["kind"] == "PersistentVolumeClaim" and "status" not in item:
                self.server.put({**item, "status": {"phase": "Bound"}})
            elif not owners.issuperset(_owners(item)):
                self._remove(item)
        for uid in [one for one in self._processes if one not in owners]:
            self._end(uid)

    def _deployment(self, item: Object) -> None:
        generation = item["metadata"]["generation"]
        status = item.get("status", {})
        wanted = item["spec"].get("replicas", 1)
        template = item["spec"]["template"]
        bad = self.bad_images & {one["image"] for one in template["spec"]["containers"]}
        ready = 0 if bad else wanted
        name, namespace = item["metadata"]["name"], item["metadata"]["namespace"]
        pods = [f"{name}-{generation}-{number}" for number in range(1 if bad else wanted)]
        seen = status.get("observedGeneration") == generation and status.get("ready") == ready
        # One that somebody deletes is made anew, as a ReplicaSet does.
        if seen and all(
            f"/api/v1/namespaces/{namespace}/pods/{pod}" in self.server.objects for pod in pods
        ):
            return
        labels = template["metadata"]["labels"]
        note = {REVISION: str(generation)}
        kept = self.server.put({**item, "metadata": {**item["metadata"], "annotations": note}})
        owned = {"namespace": namespace, "labels": labels}
        owner = [{"kind": "Deployment", "uid": kept["metadata"]["uid"], "controller": True}]
        made = self.server.put(
            {
                "apiVersion": "apps/v1",
                "kind": "ReplicaSet",
                "metadata": {
                    **owned,
                    "name": f"{name}-{generation}",
                    "annotations": note,
                    "ownerReferences": owner,
                },
                "spec": {},
            }
        )
        owner = [{"kind": "ReplicaSet", "uid": made["metadata"]["uid"], "controller": True}]
        if not bad:  # in a rolling update the old ones go when the new ones are ready
            for other in [one for one in self.server.objects.values() if one["kind"] == "Pod"]:
                if other["metadata"]["name"].startswith(f"{name}-") and _is_of(other, labels):
                    self._remove(other)
        for pod in pods:
            self.server.put(
                {
                    "apiVersion": "v1",
                    "kind": "Pod",
                    "metadata": {
                        **owned,
                        "name": pod,
                        "ownerReferences": owner,
                    },
                    "spec": {**template["spec"], "nodeName": "node-1"},
                    "status": _pulling(template) if bad else _running(template, ready=True),
                }
            )
        self.server.put(
            {
                **kept,
                "status": {
                    "observedGeneration": generation,
                    "ready": ready,
                    "replicas": wanted,
                    "updatedReplicas": wanted,
                    "availableReplicas": ready,
                },
            }
        )

    def _job(self, item: Object) -> None:
        uid = item["metadata"]["uid"]
        if uid not in self._processes:
            count = item["spec"].get("parallelism", 1)
            self._processes[uid] = [self._start(item, number) for number in range(count)]
        for one in self._processes[uid]:
            self._observe(one)
        active = sum(one.process.poll() is None for one in self._processes[uid])
        if item.get("status", {}).get("active") != active:
            self.server.put({**item, "status": {"active": active}})

    def _start(self, job: Object, number: int) -> _Process:
        template = job["spec"]["template"]
        metadata = job["metadata"]
        (container,) = template["spec"]["containers"]
        name = f"{metadata['name']}-{number}"
        log = self._folder / f"{name}-{metadata['uid'][:8]}.log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                self.node.words(container["command"]),
                env={**self.node.environ, **self._environment(container, metadata["namespace"])},
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        owner = [{"kind": "Job", "uid": metadata["uid"], "controller": True}]
        pod = self.server.put(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {
                    "name": name,
                    "namespace": metadata["namespace"],
                    "labels": template["metadata"]["labels"],
                    "ownerReferences": owner,
                },
                "spec": {**template["spec"], "nodeName": "node-1"},
                "status": _running(template, ready=False),
            }
        )
        probe = container.get("readinessProbe", {}).get("exec", {}).get("command")
        return _Process(pod, process, log, probe and self.node.words(probe))

    def _observe(self, one: _Process) -> None:
        name = one.pod["metadata"]["name"]
        self.server.logs[name] = one.log.read_text(errors="replace")
        if not any(
            item["metadata"]["uid"] == one.pod["metadata"]["uid"]
            for item in self.server.objects.values()
        ):
            return
        code = one.process.poll()
        if code is None:
            passes = one.ready is None or subprocess.run(one.ready, check=False).returncode == 0
            status = _running({"spec": one.pod["spec"]}, ready=passes)
        else:
            phase = "Failed" if code else "Succeeded"
            ended = {"terminated": {"exitCode": code, "reason": "Error" if code else "Completed"}}
            (container,) = one.pod["spec"]["containers"]
            status = {
                "phase": phase,
                "containerStatuses": [{"name": container["name"], "state": ended}],
            }
        if one.pod.get("status") != status:
            one.pod = self.server.put({**one.pod, "status": status})

    def _environment(self, container: Object, namespace: str) -> Mapping[str, str]:
        found = {one["name"]: one["value"] for one in container.get("env", []) if "value" in one}
        for source in container.get("envFrom", []):
            name = source["secretRef"]["name"]
            secret = self.server.objects[f"/api/v1/namespaces/{namespace}/secrets/{name}"]
            found |= {key: base64.b64decode(v).decode() for key, v in secret["data"].items()}
        return found

    def _end(self, uid: str) -> None:
        for one in self._processes.pop(uid):
            if one.process.poll() is None:
                os.killpg(one.process.pid, 15)
                try:
                    one.process.wait(10)
                except subprocess.TimeoutExpired:
                    os.killpg(one.process.pid, 9)
                    one.process.wait()
            self._remove(one.pod)

    def _remove(self, item: Object) -> None:
        uid = item["metadata"]["uid"]
        for path, one in list(self.server.objects.items()):
            if one["metadata"]["uid"] == uid:
                del self.server.objects[path]


def _owners(item: Object) -> set[str]:
    return {one["uid"] for one in item["metadata"].get("ownerReferences", [])}


def _is_of(pod: Object, labels: Mapping[str, str]) -> bool:
    return bool(labels.items() <= pod["metadata"]["labels"].items())


def _running(template: Object, *, ready: bool) -> Object:
    state = {"running": {"startedAt": "2026-01-01T00:00:00Z"}}
    return {
        "phase": "Running",
        "conditions": [{"type": "Ready", "status": str(ready)}],
        "containerStatuses": [
            {"name": one["name"], "state": state, "ready": ready, "restartCount": 0}
            for one in template["spec"]["containers"]
        ],
    }


def _pulling(template: Object) -> Object:
    waiting = {"reason": "ImagePullBackOff", "message": "back-off pulling image"}
    return {
        "phase": "Pending",
        "conditions": [{"type": "Ready", "status": "False"}],
        "containerStatuses": [
            {"name": one["name"], "image": one["image"], "state": {"waiting": waiting}}
            for one in template["spec"]["containers"]
        ],
    }
