"""Status and logs of the stack's workloads in a cluster."""

from collections.abc import Iterator
from dataclasses import dataclass

from deploy.errors import WorkloadFailed
from deploy.kubernetes import pods
from deploy.kubernetes.api import Api, Object, Reference
from deploy.kubernetes.cluster import Place
from deploy.kubernetes.readiness import Phase
from deploy.kubernetes.waiting import state_of

_WORKLOADS = (("apps/v1", "Deployment"), ("apps/v1", "StatefulSet"), ("batch/v1", "Job"))


@dataclass(frozen=True)
class Row:
    """One workload.

    Attributes:
        which: It.
        state: In words.
        healthy: Whether it is ready, or a Job that may still become so.
        nodes: Where its pods are.
        restarts: Of their containers, together.
        image: Its first container's.
    """

    which: Reference
    state: str
    healthy: bool
    nodes: tuple[str, ...]
    restarts: int
    image: str


def collect(api: Api, place: Place) -> list[Row]:
    """Every workload of the stack.

    Raises:
        WorkloadFailed: There is none.
        ClusterError: It cannot be seen.
    """
    rows = [
        _row(api, place, item)
        for version, kind in _WORKLOADS
        for item in api.list(version, kind, place.namespace, labels=place.selector)
    ]
    if not rows:
        raise WorkloadFailed(
            f"namespace {place.namespace} has no workloads of {place.instance}; start the stack "
            "with seldon-up or make deploy TARGET=kubernetes"
        )
    return rows


def log_lines(api: Api, place: Place, name: str | None, lines: int) -> Iterator[tuple[str, str]]:
    """Each container's last lines, with pod and container before them.

    Args:
        api: Of which cluster.
        place: The stack's.
        name: A workload's, a program's or a pod's; None for all.
        lines: Of each container.

    Raises:
        WorkloadFailed: No pod is meant.
        ClusterError: They cannot be read.
    """
    found = [
        pod
        for pod in pods.selected(api, place.namespace, place.labels)
        if name is None or _is_meant(pod, name)
    ]
    if not found:
        whom = f"of {name}" if name else f"of {place.instance}"
        raise WorkloadFailed(
            f"namespace {place.namespace} has no pod {whom}; see make status TARGET=kubernetes"
        )
    for pod in found:
        pod_name = str(pod["metadata"]["name"])
        for container in pod["spec"]["containers"]:
            # The API rejects log requests for a container that waits for its image.
            if not _has_started(pod, container["name"]):
                yield f"{pod_name} {container['name']}", "(has not started yet)"
                continue
            said = api.log(place.namespace, pod_name, container["name"], lines=lines)
            for line in said.splitlines():
                yield f"{pod_name} {container['name']}", line


def _row(api: Api, place: Place, item: Object) -> Row:
    which = Reference.of(item)
    state = state_of(api, which)
    labels = item["spec"].get("selector", {}).get("matchLabels", {})
    mine = pods.selected(api, place.namespace, labels) if labels else []
    images = item["spec"]["template"]["spec"]["containers"]
    return Row(
        which,
        state.text,
        state.phase is not Phase.TROUBLED and (state.phase is Phase.READY or which.kind == "Job"),
        tuple(sorted({pod["spec"].get("nodeName", "none") for pod in mine})),
        sum(
            status.get("restartCount", 0)
            for pod in mine
            for status in pod.get("status", {}).get("containerStatuses") or []
        ),
        str(images[0]["image"]),
    )


def _is_meant(pod: Object, name: str) -> bool:
    metadata = pod["metadata"]
    labels = metadata.get("labels") or {}
    parts = [labels.get("app.kubernetes.io/name"), labels.get("app.kubernetes.io/component")]
    pod_name = str(metadata["name"])
    return name in parts or pod_name == name or pod_name.startswith(f"{name}-")


def _has_started(pod: Object, container: str) -> bool:
    return any(
        one["name"] == container and "waiting" not in one.get("state", {})
        for one in pod.get("status", {}).get("containerStatuses") or []
    )
