"""A command in a container: its input, output and exit status over the API's exec stream."""

import json
from collections.abc import Callable, Sequence
from typing import Any

from kubernetes.stream.ws_client import (
    ERROR_CHANNEL,
    STDERR_CHANNEL,
    STDIN_CHANNEL,
    STDOUT_CHANNEL,
    WSClient,
)
from websocket import WebSocketException

from deploy.errors import ClusterRefused, ClusterUnreachable
from deploy.kubernetes.api import Api

Sink = Callable[[bytes], object]

_CHUNK = 32 * 1024
_LOOK_EVERY_S = 1.0
# Before version 5 the protocol cannot close stdin, so the length of the input is passed.
_WITH_INPUT = 'n=$1; shift; head -c "$n" | "$@"'


def run(
    api: Api,
    namespace: str,
    pod: str,
    container: str,
    words: Sequence[str],
    *,
    out: Sink,
    err: Sink,
    stdin: bytes | None = None,
) -> int:
    """Run a command to its end.

    Args:
        api: Of which cluster.
        namespace: Of the pod.
        pod: A running one.
        container: Of its containers.
        words: The command; no shell reads them.
        out: Gets what it prints.
        err: Gets its errors.
        stdin: Its whole input; None for none.

    Returns:
        Its exit status.

    Raises:
        ClusterError: It cannot be started, or the stream broke off.
    """
    if stdin is not None:
        words = ["sh", "-c", _WITH_INPUT, "sh", str(len(stdin)), *words]
    where = f"container {container} of Pod {pod} in namespace {namespace}"
    stream = api.open_exec(namespace, pod, container, words, stdin=stdin is not None)
    try:
        for start in range(0, len(stdin or b""), _CHUNK):
            stream.write_channel(STDIN_CHANNEL, (stdin or b"")[start : start + _CHUNK])
        while stream.is_open():
            stream.update(timeout=_LOOK_EVERY_S)
            _pass_on(stream, out, err)
        _pass_on(stream, out, err)
        status = stream.read_channel(ERROR_CHANNEL)
    except (WebSocketException, OSError) as error:
        raise _broken(where, str(error)) from error
    finally:
        stream.sock.shutdown()  # not close(), which waits for a frame that has already arrived
    if not status:
        raise _broken(where, "it closed without an exit status")
    return _exit_status(json.loads(status), where, words)


def _pass_on(stream: WSClient, out: Sink, err: Sink) -> None:
    for channel, sink in ((STDOUT_CHANNEL, out), (STDERR_CHANNEL, err)):
        if text := stream.read_channel(channel):
            sink(text)


def _exit_status(status: dict[str, Any], where: str, words: Sequence[str]) -> int:
    """The exit status in the final Status object: Success, or Failure with a cause."""
    if status.get("status") == "Success":
        return 0
    for cause in status.get("details", {}).get("causes") or []:
        if cause.get("reason") == "ExitCode":
            return int(cause["message"])
    message = " ".join(str(status.get("message", "no reason given")).split())
    raise ClusterRefused(f"{words[0]} cannot be run in {where}: {message.rstrip('.')}")


def _broken(where: str, why: str) -> ClusterUnreachable:
    return ClusterUnreachable(
        f"the connection to a command in {where} broke ({why.rstrip('.')}), so the command may "
        "not have completed; run it again"
    )
