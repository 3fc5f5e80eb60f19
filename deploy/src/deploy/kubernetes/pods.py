"""Finds running pods of the stack."""

from collections.abc import Mapping

from deploy.console import follow
from deploy.errors import WorkloadFailed
from deploy.kubernetes import readiness
from deploy.kubernetes.api import Api, Object, Reference
from deploy.kubernetes.cluster import Place

_APPEARS_S = 60.0


def selected(api: Api, namespace: str, labels: Mapping[str, str]) -> list[Object]:
    """Pods with these labels that are not terminating, by name."""
    selector = ",".join(f"{name}={value}" for name, value in labels.items())
    found = api.list("v1", "Pod", namespace, labels=selector)
    staying = [one for one in found if "deletionTimestamp" not in one["metadata"]]
    return sorted(staying, key=lambda one: str(one["metadata"]["name"]))


def ready_pod(
    api: Api, place: Place, deployment: str, remedy: str, patience_s: float = _APPEARS_S
) -> str:
    """The name of a ready pod of a Deployment of ours; waits for a starting one.

    Args:
        api: Of which cluster.
        place: The stack's.
        deployment: Its name, which is its program's too.
        remedy: What starts it.
        patience_s: How long it may take to become ready.

    Raises:
        WorkloadFailed: There is no such Deployment, or no pod of it becomes ready.
    """
    which = Reference("apps/v1", "Deployment", deployment, place.namespace)
    if api.read(which) is None:
        raise WorkloadFailed(
            f"namespace {place.namespace} has no {which}; {remedy}, or name another with "
            "K8S_NAMESPACE"
        )
    labels = {**place.labels, "app.kubernetes.io/name": deployment}
    pods: list[Object] = []

    def look() -> str:
        pods[:] = selected(api, place.namespace, labels)
        if any(readiness.is_ready(pod) for pod in pods):
            return ""
        return f"waiting for a Pod of {which}{_why(pods)}"

    if follow(look, patience_s, 1.0):
        raise WorkloadFailed(
            f"no Pod of {which} in namespace {place.namespace} is ready{_why(pods)}; "
            "see make status TARGET=kubernetes and make logs TARGET=kubernetes"
        )
    return next(str(pod["metadata"]["name"]) for pod in pods if readiness.is_ready(pod))


def _why(pods: list[Object]) -> str:
    trouble = readiness.trouble(pods)
    return f" ({trouble.text})" if trouble else "" if pods else " (there is none yet)"
