"""Waits until workloads are ready, shows why not, and fails early where waiting is useless."""

import time
from collections.abc import Sequence

from deploy.console import follow
from deploy.errors import ClusterError, ClusterForbidden, ClusterTimeout, WorkloadFailed
from deploy.kubernetes import readiness
from deploy.kubernetes.api import Api, Object, Reference
from deploy.kubernetes.cluster import Change, Outcome
from deploy.kubernetes.readiness import Phase, State

WATCHED = frozenset({"Deployment", "StatefulSet", "Job", "PersistentVolumeClaim"})


def wait_ready(api: Api, objects: Sequence[Object], timeout_s: float, every_s: float = 1.0) -> None:
    """Wait until Deployments and StatefulSets are rolled out and Jobs complete.

    Args:
        api: Where they are.
        objects: As they were applied; other kinds need no waiting.
        timeout_s: For all of them together.
        every_s: Poll interval.

    Raises:
        WorkloadFailed: One of them will not become ready.
        ClusterTimeout: One of them is not ready in time.
    """
    _Wait(api, [Reference.of(one) for one in objects if one["kind"] in WATCHED]).run(
        timeout_s, every_s
    )


def replace_failing(api: Api, objects: Sequence[Object]) -> list[Outcome]:
    """Recreate pods that failed before this deploy and are in back-off.

    Their cause may be fixed: a folder, a Secret, an image. Otherwise the deploy would report the
    old failure until the next retry, minutes later.
    """
    deployments = [Reference.of(one) for one in objects if one["kind"] == "Deployment"]
    replaced: list[Outcome] = []
    for which in deployments:
        item = api.read(which)
        for pod in newest_pods(api, item) if item else ():
            if not readiness.backs_off(pod):
                continue
            try:
                api.delete(pod)
            except ClusterForbidden:
                return replaced  # then they are waited for
            replaced.append(
                Outcome(Reference.of(pod), Change.REPLACED, "it had failed before this deploy")
            )
    return replaced


def newest_pods(api: Api, deployment: Object) -> list[Object]:
    """Pods of the newest revision: older ones may have failed for fixed reasons."""
    newest = readiness.newest(_selected(api, "apps/v1", "ReplicaSet", deployment), deployment)
    return readiness.owned(_selected(api, "v1", "Pod", deployment), newest) if newest else []


def _selected(api: Api, api_version: str, kind: str, item: Object) -> list[Object]:
    labels = item["spec"].get("selector", {}).get("matchLabels", {})
    selector = ",".join(f"{name}={value}" for name, value in labels.items())
    return api.list(api_version, kind, item["metadata"]["namespace"], labels=selector)


def state_of(api: Api, which: Reference) -> State:
    """The current state of a workload."""
    return _Wait(api, []).state(which)


class Patience:
    """Tracks how long each problem has lasted, which decides when it is a failure."""

    def __init__(self) -> None:
        self._since: dict[tuple[Reference, float], float] = {}

    def has_ended(self, which: Reference, state: State) -> bool:
        """Record a state; True if its problem has lasted longer than allowed."""
        trouble = (which, state.patience_s)
        for other in [one for one in self._since if one[0] == which and one != trouble]:
            del self._since[other]
        if state.phase is not Phase.TROUBLED:
            self._since.pop(trouble, None)
            return False
        now = time.monotonic()
        return now - self._since.setdefault(trouble, now) >= state.patience_s


class _Wait:
    def __init__(self, api: Api, pending: list[Reference]) -> None:
        self._api = api
        self._states = {which: State(Phase.WAITING, "not checked yet") for which in pending}
        self._patience = Patience()

    def run(self, timeout_s: float, every_s: float) -> None:
        def look() -> str:
            self._look()
            return f"waiting for {text}" if (text := self._text()) else ""

        if follow(look, timeout_s, every_s):
            raise ClusterTimeout(
                f"not ready within {timeout_s:.0f} s: {self._text()}; run the command again to "
                "keep waiting, or see kubectl get events"
            )

    def _text(self) -> str:
        return ", ".join(f"{which} ({state.text})" for which, state in self._states.items())

    def _look(self) -> None:
        for which in list(self._states):
            state = self.state(which)
            if state.phase is Phase.READY:
                del self._states[which]
            else:
                self._states[which] = state
            if self._patience.has_ended(which, state):
                raise WorkloadFailed(f"{which}: {state.text}{self._last_words(which, state)}")

    def _last_words(self, which: Reference, state: State) -> str:
        if state.log is None or which.namespace is None:
            return ""
        log = state.log
        try:
            line = self._api.last_log_line(which.namespace, log.pod, log.container, log.previous)
        except ClusterError:
            line = ""  # the log may be gone with its node
        reason = f": {line}" if line else ""
        previous = " --previous" if log.previous else ""
        return (
            f"{reason} (kubectl logs -n {which.namespace} {log.pod} -c {log.container}{previous})"
        )

    def state(self, which: Reference) -> State:
        item = self._api.read(which)
        if item is None:
            if which.kind == "Job":  # ttlSecondsAfterFinished removes one that is done
                return State(Phase.READY, "gone")
            return State(Phase.TROUBLED, "it was removed meanwhile: run the command again")
        if which.kind == "PersistentVolumeClaim":
            return readiness.claim(item)
        if which.kind == "Deployment":
            return readiness.deployment(item, newest_pods(self._api, item))
        pods = readiness.owned(_selected(self._api, "v1", "Pod", item), item)
        complaint = "" if pods else self._complaint(item)
        if which.kind == "Job":
            return readiness.job(item, pods, complaint)
        return readiness.stateful_set(item, pods, complaint)

    def _complaint(self, item: Object) -> str:
        """Why its controller could not create pods, from its events."""
        metadata = item["metadata"]
        events = self._api.list(
            "v1",
            "Event",
            metadata["namespace"],
            fields=f"involvedObject.uid={metadata['uid']},reason=FailedCreate",
        )
        return str(events[-1].get("message", "")) if events else ""
