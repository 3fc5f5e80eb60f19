"""The state of a workload, from its own status and that of its pods."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from deploy.kubernetes.api import Object

REVISION = "deployment.kubernetes.io/revision"

# Waiting reasons of a container, and how long each may last before it is a failure.
_GIVE_UP_AFTER_S = {
    "ImagePullBackOff": 0.0,
    "ErrImagePull": 20.0,
    "InvalidImageName": 0.0,
    "ErrImageNeverPull": 0.0,
    "CrashLoopBackOff": 0.0,
    "CreateContainerConfigError": 0.0,
    "CreateContainerError": 10.0,
    "RunContainerError": 10.0,
}
_IMAGE = frozenset({"ImagePullBackOff", "ErrImagePull", "InvalidImageName", "ErrImageNeverPull"})
# Between two tries, up to five minutes apart.
_BACKS_OFF = frozenset({"ImagePullBackOff", "CrashLoopBackOff"})
# Cluster autoscalers need minutes for a node, but report the scale-up at once.
_UNSCHEDULABLE_S = 90.0
# In a rolling update a terminating pod makes room.
_QUOTA_S = 10.0
_NO_STORAGE_CLASS_S = 30.0


class Phase(Enum):
    """Phase of a workload."""

    READY = auto()
    WAITING = auto()
    TROUBLED = auto()
    """A problem, which is a failure after `patience_s`."""


@dataclass(frozen=True)
class Log:
    """The log of a failed container."""

    pod: str
    container: str
    previous: bool


@dataclass(frozen=True)
class State:
    """A workload's.

    Attributes:
        phase: Where it stands.
        text: In words, without the workload's name.
        patience_s: How long it may be in this trouble before it counts as failed.
        log: What says more.
    """

    phase: Phase
    text: str
    patience_s: float = 0.0
    log: Log | None = None


def deployment(item: Object, pods: Sequence[Object]) -> State:
    """A Deployment's state; `pods` are those of its newest revision."""
    conditions = _conditions(item)
    failure = conditions.get("ReplicaFailure", {})
    if failure.get("status") == "True":
        return _no_pods(failure.get("message", ""))
    if found := trouble(pods):
        return found
    progressing = conditions.get("Progressing", {})
    if progressing.get("reason") == "ProgressDeadlineExceeded" and _is_seen(item):
        return State(Phase.TROUBLED, f"no progress: {progressing.get('message', '')}")
    status = item.get("status", {})
    wanted = item["spec"].get("replicas", 1)
    updated, available = status.get("updatedReplicas", 0), status.get("availableReplicas", 0)
    old = status.get("replicas", 0) - updated
    text = f"{min(updated, available)}/{wanted} pods ready"
    if not _is_seen(item) or updated < wanted or available < updated:
        return State(Phase.WAITING, text)
    if old > 0:
        return State(Phase.WAITING, f"{text}, {old} old pods terminating")
    return State(Phase.READY, text)


def stateful_set(item: Object, pods: Sequence[Object], complaint: str) -> State:
    """A StatefulSet's state; `complaint`: why it can make no pods, from its events."""
    if complaint:
        return _no_pods(complaint)
    if found := trouble(pods):
        return found
    status = item.get("status", {})
    wanted = item["spec"].get("replicas", 1)
    ready = min(status.get("readyReplicas", 0), status.get("updatedReplicas", 0))
    done = _is_seen(item) and ready >= wanted
    return State(Phase.READY if done else Phase.WAITING, f"{ready}/{wanted} pods ready")


def job(item: Object, pods: Sequence[Object], complaint: str) -> State:
    """A Job's state: ready when it is complete; `complaint` as with a StatefulSet."""
    conditions = _conditions(item)
    if conditions.get("Complete", {}).get("status") == "True":
        return State(Phase.READY, "complete")
    failed = conditions.get("Failed", {})
    if failed.get("status") == "True":
        text = f"failed ({failed.get('reason')}: {failed.get('message')})"
        return State(Phase.TROUBLED, text, log=_last_words(pods))
    if item["spec"].get("suspend"):
        return State(Phase.READY, "suspended")
    if complaint:
        return _no_pods(complaint)
    if found := trouble(pods):
        return found
    return State(Phase.WAITING, "running" if item.get("status", {}).get("ready") else "starting")


def claim(item: Object) -> State:
    """A PersistentVolumeClaim's state.

    A pending one with a storage class is left to the pods that mount it: many classes bind only
    then (WaitForFirstConsumer), and those pods are waited for.
    """
    phase = item.get("status", {}).get("phase", "Pending")
    if phase == "Lost":
        return State(Phase.TROUBLED, "has lost its volume")
    if phase == "Pending" and "storageClassName" not in item["spec"]:
        text = "has no storage class, and the cluster has no default one: set K8S_STORAGE_CLASS"
        return State(Phase.TROUBLED, text, _NO_STORAGE_CLASS_S)
    return State(Phase.READY, phase.lower())


def backs_off(pod: Object) -> bool:
    """Whether one of its containers is in back-off."""
    return any(
        container.get("state", {}).get("waiting", {}).get("reason") in _BACKS_OFF
        for container in _containers(pod)
    )


def newest(replica_sets: Sequence[Object], owner: Object) -> Object | None:
    """The ReplicaSet of the Deployment's present revision, which is one it has seen."""
    revision = (owner["metadata"].get("annotations") or {}).get(REVISION)
    if revision is None or not _is_seen(owner):
        return None
    for one in owned(replica_sets, owner):
        if (one["metadata"].get("annotations") or {}).get(REVISION) == revision:
            return one
    return None


def owned(items: Sequence[Object], owner: Object) -> list[Object]:
    """Those that the owner controls and that are not going."""
    uid = owner["metadata"]["uid"]
    return [
        item
        for item in items
        if any(one["uid"] == uid for one in item["metadata"].get("ownerReferences") or [])
        and "deletionTimestamp" not in item["metadata"]
    ]


def _is_seen(item: Object) -> bool:
    return bool(
        item.get("status", {}).get("observedGeneration", 0) >= item["metadata"]["generation"]
    )


def _conditions(item: Object) -> dict[str, dict[str, Any]]:
    return {one["type"]: one for one in item.get("status", {}).get("conditions") or []}


def _no_pods(message: str) -> State:
    _, quota, rest = message.partition("exceeded quota: ")
    if quota:
        text = f"a quota leaves no room for its pods ({rest}): free some of it, or request less"
    else:
        text = f"cannot create pods: {message}"
    return State(Phase.TROUBLED, text, _QUOTA_S)


def trouble(pods: Sequence[Object]) -> State | None:
    """The problem that becomes a failure first."""
    troubles = [found for pod in pods if (found := _trouble(pod))]
    return min(troubles, key=lambda found: found.patience_s, default=None)


def is_ready(pod: Object) -> bool:
    """Whether the pod says that it can be used."""
    return _conditions(pod).get("Ready", {}).get("status") == "True"


def _trouble(pod: Object) -> State | None:
    name = pod["metadata"]["name"]
    scheduled = _conditions(pod).get("PodScheduled", {})
    if scheduled.get("reason") == "Unschedulable" and scheduled.get("status") == "False":
        text = f"no node can run Pod {name}: {scheduled.get('message', '')}"
        return State(Phase.TROUBLED, text, _UNSCHEDULABLE_S)
    for container in _containers(pod):
        waiting = container.get("state", {}).get("waiting", {})
        reason = waiting.get("reason", "")
        if reason not in _GIVE_UP_AFTER_S:
            continue
        where = f"container {container['name']} of Pod {name}"
        patience_s = _GIVE_UP_AFTER_S[reason]
        message = " ".join(str(waiting.get("message", "")).split())
        if reason in _IMAGE:
            text = (
                f"the image {container.get('image')} cannot be pulled ({reason}: {message}): "
                "push it, or correct REGISTRY, TAG or the registry's login"
            )
            return State(Phase.TROUBLED, text, patience_s)
        if reason == "CrashLoopBackOff":
            ended = container.get("lastState", {}).get("terminated", {})
            text = f"{where} keeps crashing ({_exit(ended)})"
            return State(Phase.TROUBLED, text, patience_s, Log(name, container["name"], True))
        return State(Phase.TROUBLED, f"{where} cannot start ({reason}: {message})", patience_s)
    return None


def _containers(pod: Object) -> list[dict[str, Any]]:
    status = pod.get("status", {})
    return [
        *(status.get("initContainerStatuses") or []),
        *(status.get("containerStatuses") or []),
    ]


def _exit(ended: dict[str, Any]) -> str:
    if ended.get("reason") == "OOMKilled":
        return "OOMKilled: raise its memory limit"
    return f"exit status {ended.get('exitCode', 'unknown')}"


def _last_words(pods: Sequence[Object]) -> Log | None:
    """Of the container that failed last."""
    ended = [
        (state.get("finishedAt") or "", pod["metadata"]["name"], container["name"])
        for pod in pods
        for container in _containers(pod)
        if (state := container.get("state", {}).get("terminated", {})).get("exitCode")
    ]
    if not ended:
        return None
    _, pod_name, container_name = max(ended)
    return Log(pod_name, container_name, previous=False)
