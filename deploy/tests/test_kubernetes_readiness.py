"""States of workloads that no test on a cluster passes through."""

from typing import Any

import pytest

from deploy.kubernetes import readiness
from deploy.kubernetes.readiness import Log, Phase

SEEN = {"metadata": {"name": "envoy", "uid": "1", "generation": 2}}


def deployment(wanted: int = 2, **status: Any) -> dict[str, Any]:
    return {**SEEN, "spec": {"replicas": wanted}, "status": {"observedGeneration": 2, **status}}


@pytest.mark.parametrize(
    ("status", "phase", "text"),
    [
        ({"updatedReplicas": 2, "availableReplicas": 2, "replicas": 2}, Phase.READY, "2/2"),
        ({"updatedReplicas": 1, "availableReplicas": 2, "replicas": 3}, Phase.WAITING, "1/2"),
        ({"updatedReplicas": 2, "availableReplicas": 1, "replicas": 2}, Phase.WAITING, "1/2"),
        ({"updatedReplicas": 2, "availableReplicas": 2, "replicas": 3}, Phase.WAITING, "1 old"),
        (
            {"updatedReplicas": 2, "availableReplicas": 2, "replicas": 2, "observedGeneration": 1},
            Phase.WAITING,
            "2/2",
        ),
        ({}, Phase.WAITING, "0/2"),
    ],
)
def test_deployment_is_ready_when_rolled_out(
    status: dict[str, Any], phase: Phase, text: str
) -> None:
    state = readiness.deployment(deployment(**status), [])
    assert state.phase is phase
    assert text in state.text


def test_deployment_scaled_to_nothing_is_ready() -> None:
    assert readiness.deployment(deployment(wanted=0), []).phase is Phase.READY


def test_deployment_without_progress_is_in_trouble() -> None:
    condition = {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}
    conditions = [{**condition, "message": "it has timed out"}]
    state = readiness.deployment(deployment(conditions=conditions), [])
    assert (state.phase, state.text) == (Phase.TROUBLED, "no progress: it has timed out")


def test_stateful_set_is_ready_when_the_new_revision_is() -> None:
    item = deployment(readyReplicas=2, updatedReplicas=1)
    assert readiness.stateful_set(item, [], "").phase is Phase.WAITING
    item = deployment(readyReplicas=2, updatedReplicas=2)
    assert readiness.stateful_set(item, [], "").phase is Phase.READY


def test_pods_that_admission_refuses_are_reported() -> None:
    message = 'pods "database-0" is forbidden: violates PodSecurity "restricted:latest"'
    state = readiness.stateful_set(deployment(), [], message)
    assert state.phase is Phase.TROUBLED
    assert state.text == f"cannot create pods: {message}"


@pytest.mark.parametrize(
    ("spec", "status", "phase"),
    [
        ({"storageClassName": "standard"}, {"phase": "Pending"}, Phase.READY),
        ({"storageClassName": ""}, {"phase": "Pending"}, Phase.READY),
        ({}, {"phase": "Pending"}, Phase.TROUBLED),
        ({"storageClassName": "standard"}, {"phase": "Bound"}, Phase.READY),
        ({"storageClassName": "standard"}, {"phase": "Lost"}, Phase.TROUBLED),
    ],
)
def test_claim_is_left_to_its_pods(
    spec: dict[str, Any], status: dict[str, Any], phase: Phase
) -> None:
    assert readiness.claim({"spec": spec, "status": status}).phase is phase


def test_failed_job_points_to_the_log_of_the_last_failure() -> None:
    def pod(name: str, code: int, at: str) -> dict[str, Any]:
        ended = {"terminated": {"exitCode": code, "finishedAt": at}}
        return {
            "metadata": {"name": name},
            "status": {"containerStatuses": [{"name": "job", "state": ended}]},
        }

    condition = {"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded"}
    item = {**deployment(), "status": {"conditions": [{**condition, "message": "twice"}]}}
    pods = [
        pod("a", 1, "2026-01-01T00:00:00Z"),
        pod("b", 2, "2026-01-01T00:00:09Z"),
        pod("c", 0, "2026-01-02T00:00:00Z"),
    ]
    state = readiness.job(item, pods, "")
    assert state.text == "failed (BackoffLimitExceeded: twice)"
    assert state.log == Log("b", "job", previous=False)


def test_complete_and_suspended_jobs_are_ready() -> None:
    done = {"spec": {}, "status": {"conditions": [{"type": "Complete", "status": "True"}]}}
    assert readiness.job(done, [], "").phase is Phase.READY
    assert readiness.job({"spec": {"suspend": True}}, [], "").phase is Phase.READY
    assert readiness.job({"spec": {}}, [], "").phase is Phase.WAITING


def test_the_problem_with_the_shortest_patience_is_reported() -> None:
    def pod(name: str, reason: str) -> dict[str, Any]:
        one = {"name": "c", "image": "i", "state": {"waiting": {"reason": reason}}}
        return {"metadata": {"name": name}, "status": {"initContainerStatuses": [one]}}

    pods = [
        pod("a", "ErrImagePull"),
        pod("b", "CreateContainerConfigError"),
        pod("c", "PodInitializing"),
    ]
    state = readiness.deployment(deployment(), pods)
    assert state.text.startswith("container c of Pod b cannot start")
