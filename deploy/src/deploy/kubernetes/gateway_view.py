"""Whether every Envoy of a cluster's stack uses its registry's newest revision."""

import http.client
import io
import json
import socket
from collections.abc import Mapping
from typing import cast

from deploy import envoy_view
from deploy.console import step, wait_until
from deploy.errors import ClusterError, ClusterTimeout
from deploy.kubernetes import exec_stream, pods, readiness
from deploy.kubernetes.api import Api
from deploy.kubernetes.cluster import Place
from deploy.kubernetes.control_plane import ControlPlane
from deploy.kubernetes.objects.gateway import ADMIN_PORT, ENVOY

_TIMEOUT_S = 60.0
_OK = 200

# Envoy's administration listens on its pod's loopback, and its image has bash but no HTTP client.
_HTTP_GET = (
    f"exec 3<>/dev/tcp/127.0.0.1/{ADMIN_PORT} && "
    r"""printf 'GET %s HTTP/1.1\r\nHost: envoy\r\nConnection: close\r\n\r\n' "$0" >&3 && cat <&3"""
)


class _Received(io.BytesIO):
    """A complete response in place of the socket that http.client reads."""

    def makefile(self, *_: object) -> io.BytesIO:
        return self


def wait_until_taken(api: Api, place: Place, control: ControlPlane, poll_s: float) -> None:
    """Wait until every ready Envoy has the registry's newest revision, and nothing older.

    Args:
        api: The cluster's.
        place: Where in it the stack is.
        control: Of that stack.
        poll_s: Poll interval of its Envoys.

    Raises:
        ClusterTimeout: One of them does not take it.
        ClusterError: It cannot be seen.
    """
    newest = control.newest_versions()
    late: list[str] = []

    def taken() -> bool:
        late[:] = [pod for pod in _envoys(api, place) if not _has(api, place, pod, newest)]
        return not late

    with step("waiting until Envoy uses the new routes"):
        timeout_s = envoy_view.patience_s(_TIMEOUT_S, poll_s)
        if not wait_until(taken, timeout_s, 0.5):
            raise ClusterTimeout(
                f"Pod {', '.join(late)} does not use the new variations after {timeout_s:g} s; "
                "nothing was removed; see make logs TARGET=kubernetes NAME=envoy, or run the "
                "command again to keep waiting"
            )


def _envoys(api: Api, place: Place) -> list[str]:
    labels = {**place.labels, "app.kubernetes.io/name": ENVOY}
    found = pods.selected(api, place.namespace, labels)
    return [str(pod["metadata"]["name"]) for pod in found if readiness.is_ready(pod)]


def _has(api: Api, place: Place, pod: str, newest: Mapping[str, str]) -> bool:
    answer = bytearray()
    words = ["bash", "-c", _HTTP_GET, envoy_view.STATISTICS_PATH]
    try:
        status = exec_stream.run(
            api, place.namespace, pod, ENVOY, words, out=answer.extend, err=lambda _: None
        )
    except ClusterError:
        if pod in _envoys(api, place):
            raise
        return True  # the pod has terminated and routes no more requests
    return status == 0 and envoy_view.has_all(_versions(bytes(answer)), newest)


def _versions(answer: bytes) -> dict[str, str]:
    response = http.client.HTTPResponse(cast(socket.socket, _Received(answer)))
    try:
        response.begin()
        if response.status != _OK:
            return {}
        return envoy_view.versions_in(json.loads(response.read()))
    except (http.client.HTTPException, ValueError, KeyError):
        return {}
