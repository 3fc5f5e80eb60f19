"""Runs a load test in a cluster: start its pods, follow them, fetch results, clean up."""

import os
import socket
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import psutil

from deploy.console import say, step
from deploy.errors import ControlPlaneRefused, WorkloadFailed
from deploy.kubernetes import load_results, nodes
from deploy.kubernetes.api import Object
from deploy.kubernetes.control_plane import ControlPlane
from deploy.kubernetes.load_follow import Follower
from deploy.kubernetes.objects.common import ON_ITS_OWN
from deploy.kubernetes.objects.loadtest import (
    LOADTEST,
    OWNER,
    WORKER,
    fetched_load_test,
    gateway_words,
)
from deploy.kubernetes.session import Session
from loadtest.credentials import JS_KEY, OAUTH_KEY, OAUTH_SECRET
from loadtest.settings import LoadTestSettings
from seldon_gateway.registry import SCOPE_ALL, SCOPE_JS

_REMOVED_S = 90.0
_START_S = 300.0  # for images to be pulled
_LATE_S = 180.0  # beyond what the run itself takes


def run(at: Session, wanted: LoadTestSettings, words: Sequence[str]) -> tuple[int, Path]:
    """Run one load test in the cluster.

    Args:
        at: Which stack.
        wanted: What the words and the environment ask for.
        words: Of the command, as they were given.

    Returns:
        Its exit status, and the folder of this machine that has its results.

    Raises:
        WorkloadFailed: Its pods cannot run, or are lost.
        ClusterTimeout: It does not end in time.
        ClusterError: The cluster, or the control plane, refuses.
    """
    nodes.require_labelled(at.api)
    keys = _keys(ControlPlane(at.api, at.place), wanted.client)
    settings = replace(
        at.settings, load_test=replace(at.settings.load_test, workers=wanted.processes)
    )
    slaves = ("--locust-slaves", str(wanted.processes))
    objects = fetched_load_test(settings, [*gateway_words(), *words, *slaves], keys, _me())
    _remove_leftovers(at)
    try:
        with step(f"starting Locust: a master and {wanted.processes} workers"):
            for _ in at.cluster.apply(objects):
                pass
        Follower(at).follow(_START_S + wanted.total_s + _LATE_S)
        return load_results.fetch(at, wanted.output)
    finally:
        with step("removing Locust's pods"):
            at.cluster.remove(_leftovers(at), _REMOVED_S)


def _keys(control: ControlPlane, client: str) -> dict[str, str]:
    rows = {row["scope"]: row for row in reversed(control.keys(client))}
    if SCOPE_JS not in rows or SCOPE_ALL not in rows:
        raise ControlPlaneRefused(
            f"client {client} lacks a key of scope js or all; set it up with seldon-cli client "
            f"--action setup --db-name ClientDB --client-name {client}"
        )
    return {
        JS_KEY: rows[SCOPE_JS]["key"],
        OAUTH_KEY: rows[SCOPE_ALL]["key"],
        OAUTH_SECRET: rows[SCOPE_ALL].get("secret") or "",
    }


def _leftovers(at: Session) -> list[Object]:
    return at.cluster.labelled({ON_ITS_OWN: LOADTEST})


def _remove_leftovers(at: Session) -> None:
    """Remove the objects of a killed run; fail if a run is active."""
    left = _leftovers(at)
    for item in left:
        owner = (item["metadata"].get("annotations") or {}).get(OWNER, "")
        if item["kind"] == "Job" and item.get("status", {}).get("active") and _lives(owner):
            raise WorkloadFailed(
                f"a load test started by {owner} is running in namespace {at.place.namespace}; "
                f"wait until it ends, or kubectl delete job -n {at.place.namespace} {LOADTEST} "
                f"{WORKER}"
            )
    if left:
        say("removing the objects of an interrupted load test")
        at.cluster.remove(left, _REMOVED_S)


def _me() -> str:
    return f"process {os.getpid()} of {socket.gethostname()}"


def _lives(owner: str) -> bool:
    """Whether the starting command may still run; unknown, so True, on another machine."""
    if owner == _me():
        return False
    words = owner.split()
    if len(words) != 4 or words[3] != socket.gethostname() or not words[1].isdigit():
        return bool(owner)
    return psutil.pid_exists(int(words[1]))
