"""Commands in a pod, over the real stream of a small server that really runs them."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_exec import Container
from small_kubernetes import SmallKubernetes

from deploy.errors import ClusterForbidden, ClusterRefused, ClusterUnreachable
from deploy.kubernetes import exec_stream
from deploy.kubernetes.api import Api, connect

POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "control-plane-1", "namespace": "default"},
    "spec": {"containers": [{"name": "seldon-cli"}]},
}
EXEC = "GET .*/control-plane-1/exec"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[SmallKubernetes]:
    with SmallKubernetes(tmp_path) as running:
        running.put(POD)
        running.containers["control-plane", "seldon-cli"] = Container(dict(os.environ))
        yield running


@pytest.fixture
def api(server: SmallKubernetes) -> Iterator[Api]:
    with connect({"KUBECONFIG": str(server.kubeconfig)}) as reached:
        yield reached


def run(
    api: Api, *words: str, stdin: bytes | None = None, container: str = "seldon-cli"
) -> tuple[int, bytes, bytes]:
    out, err = bytearray(), bytearray()
    status = exec_stream.run(
        api, "default", "control-plane-1", container, words,
        out=out.extend, err=err.extend, stdin=stdin,
    )  # fmt: skip
    return status, bytes(out), bytes(err)


def test_output_errors_and_status_are_the_commands_own(api: Api) -> None:
    script = "import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)"
    assert run(api, sys.executable, "-c", script) == (3, b"out\n", b"err\n")
    assert run(api, "true") == (0, b"", b"")


def test_words_are_passed_as_they_are(api: Api) -> None:
    words = ["a b", "$HOME", "'", '"', "é", "", "&x=1"]
    script = "import sys, json; print(json.dumps(sys.argv[1:], ensure_ascii=False))"
    _, out, _ = run(api, sys.executable, "-c", script, *words)
    assert eval(out) == words  # noqa: S307 - a list of our own


@pytest.mark.parametrize("size", [0, 1, 200_000])
def test_input_ends_although_the_stream_cannot_say_so(api: Api, size: int) -> None:
    data = os.urandom(size)
    assert run(api, "cat", stdin=data) == (0, data, b"")


def test_a_status_comes_through_the_input(api: Api) -> None:
    assert run(api, "sh", "-c", "cat; exit 7", stdin=b"x") == (7, b"x", b"")


def test_much_output_is_whole(api: Api) -> None:
    status, out, _ = run(api, "head", "-c", "3000000", "/dev/zero")
    assert (status, len(out)) == (0, 3_000_000)


def test_a_command_that_is_not_there_is_reported(api: Api) -> None:
    with pytest.raises(ClusterRefused, match="no-such cannot be run in container seldon-cli of"):
        run(api, "no-such")


def test_a_container_that_is_not_there_is_reported(api: Api) -> None:
    with pytest.raises(ClusterRefused, match="container other is not valid for pod"):
        run(api, "true", container="other")


def test_a_pod_that_is_not_there_is_reported(api: Api, server: SmallKubernetes) -> None:
    server.objects.clear()
    with pytest.raises(ClusterUnreachable, match=r'pods "control-plane-1" not found'):
        run(api, "true")


def test_a_stream_that_breaks_off_is_not_taken_for_an_end(
    api: Api, server: SmallKubernetes
) -> None:
    server.fails(EXEC, half=True)
    with pytest.raises(ClusterUnreachable, match=r"seldon-cli of Pod .* broke .* run it again"):
        run(api, "true")


def test_a_stream_that_never_opens_is_reported(api: Api, server: SmallKubernetes) -> None:
    server.fails(EXEC, reset=True)
    with pytest.raises(ClusterUnreachable, match="closed the connection"):
        run(api, "true")


def test_a_missing_permission_is_named(api: Api, server: SmallKubernetes) -> None:
    message = (
        'pods "control-plane-1" is forbidden: User "guest" cannot create resource "pods/exec" in '
        'API group "" in the namespace "default"'
    )
    status = {"kind": "Status", "status": "Failure", "message": message, "reason": "Forbidden"}
    server.fails(EXEC, code=403, body={**status, "code": 403})
    with pytest.raises(ClusterForbidden, match="guest may not create pods/exec in namespace"):
        run(api, "true")
