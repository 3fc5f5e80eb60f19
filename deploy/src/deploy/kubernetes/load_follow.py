"""Follows a load test's pods: streams the master's log, and fails if a pod is lost."""

import sys
import time

from deploy.errors import ClusterError, ClusterTimeout, WorkloadFailed
from deploy.kubernetes import pods, readiness
from deploy.kubernetes.api import Object, Reference
from deploy.kubernetes.objects.loadtest import LOADTEST, WORKER
from deploy.kubernetes.readiness import Phase, State
from deploy.kubernetes.session import Session
from deploy.kubernetes.waiting import Patience

_LOOK_EVERY_S = 1.0


class Follower:
    """Follows one master and its load generators."""

    def __init__(self, at: Session) -> None:
        self._at = at
        self._patience = Patience()
        self._said = 0
        self._pod: str | None = None

    def follow(self, limit_s: float) -> None:
        """Print the master's log until its results are ready."""
        deadline = time.monotonic() + limit_s
        while not self._has_ended():
            if time.monotonic() > deadline:
                raise ClusterTimeout(
                    f"the load test has not finished within {limit_s:.0f} s"
                    f"{self._state_of(LOADTEST).text}; see make status TARGET=kubernetes, then run "
                    "it again"
                )
            time.sleep(_LOOK_EVERY_S)
        self._show_news()

    def _has_ended(self) -> bool:
        master = self._master()
        self._show_news()
        if master is not None and readiness.is_ready(master):
            return True
        for name in (LOADTEST, WORKER):
            state = self._state_of(name)
            job = Reference("batch/v1", "Job", name, self._at.place.namespace)
            if self._patience.has_ended(job, state):
                raise WorkloadFailed(f"{job}: {state.text}")
        return False

    def _master(self) -> Object | None:
        """Its pod; None while there is none yet."""
        found = self._pods(LOADTEST)
        running = [
            one for one in found if one["status"].get("phase") not in ("Failed", "Succeeded")
        ]
        if running:
            self._pod = str(running[0]["metadata"]["name"])
            return running[0]
        if self._pod is not None or found:
            name = self._pod or found[0]["metadata"]["name"]
            why = _how_it_ended(found[0]) if found else "it was removed, or its node is gone"
            raise WorkloadFailed(
                f"Pod {name} of the load test is lost ({why}), and its results with it; run the "
                "load test again"
            )
        return None

    def _state_of(self, name: str) -> State:
        trouble = readiness.trouble(self._pods(name))
        return trouble or State(Phase.WAITING, "")

    def _pods(self, name: str) -> list[Object]:
        labels = {**self._at.place.labels, "app.kubernetes.io/name": name}
        return pods.selected(self._at.api, self._at.place.namespace, labels)

    def _show_news(self) -> None:
        if self._pod is None:
            return
        try:
            text = self._at.api.log(self._at.place.namespace, self._pod, LOADTEST)
        except ClusterError:
            return  # not started, or its node is gone: its state reports that
        sys.stderr.write(text[self._said :])
        sys.stderr.flush()
        self._said = len(text)


def _how_it_ended(pod: Object) -> str:
    status = pod["status"]
    if reason := status.get("reason"):
        return " ".join(f"{reason}: {status.get('message', '')}".split())
    for container in status.get("containerStatuses") or []:
        ended = container.get("state", {}).get("terminated")
        if ended:
            return f"{ended.get('reason', 'it ended')}, exit status {ended.get('exitCode')}"
    return f"it is {status.get('phase', 'gone')}"
