"""The exec stream of a small Kubernetes: a command of a pod's container, run on this machine."""

import json
import socket
import subprocess
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Any

import simple_websocket

PROTOCOLS = ["v4.channel.k8s.io"]  # the older one, which cannot say where the input ends
_STDIN, _STDOUT, _STDERR, _ERROR = range(4)
_CHUNK = 16 * 1024


@dataclass(frozen=True)
class Container:
    """What a container is on this machine.

    Attributes:
        environ: Of its commands.
        here: What its paths, ports and host names are here, text for text.
    """

    environ: Mapping[str, str]
    here: Mapping[str, str] = field(default_factory=dict)

    def words(self, command: Sequence[str]) -> list[str]:
        """The command as it is run here."""
        return [self._translated(word) for word in command]

    def _translated(self, word: str) -> str:
        for there, here in self.here.items():
            word = word.replace(there, here)
        return word


def serve(
    connection: socket.socket,
    headers: Mapping[str, str],
    container: Container,
    command: Sequence[str],
    *,
    break_off: bool = False,
) -> None:
    """Shake hands, run the command, say how it ended.

    Args:
        connection: The client's.
        headers: Of its request.
        container: Where the command runs.
        command: Its words.
        break_off: Go without a word in the middle of it.
    """
    environ = {f"HTTP_{name.upper().replace('-', '_')}": text for name, text in headers.items()}
    stream = simple_websocket.Server(
        {**environ, "werkzeug.socket": connection}, subprotocols=PROTOCOLS
    )
    lock = threading.Lock()

    def say(channel: int, data: bytes) -> None:
        with lock:
            stream.send(bytes([channel]) + data)

    def pass_on(channel: int, source: IO[bytes]) -> None:
        while data := source.read1(_CHUNK):  # type: ignore[attr-defined]
            say(channel, data)

    words = container.words(command)
    try:
        process = subprocess.Popen(
            words,
            env=dict(container.environ),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
    except OSError as error:
        message = f'error executing command in container: exec: "{words[0]}": {error.strerror}'
        say(_ERROR, _status("Failure", message=message, reason="InternalError", code=500))
        stream.close()
        return
    assert process.stdin
    assert process.stdout
    assert process.stderr
    if break_off:
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            pipe.close()
        connection.shutdown(socket.SHUT_RDWR)
        stream.thread.join()
        return
    threads = [
        threading.Thread(target=pass_on, args=(_STDOUT, process.stdout)),
        threading.Thread(target=pass_on, args=(_STDERR, process.stderr)),
        threading.Thread(target=_feed, args=(stream, process.stdin)),
    ]
    for thread in threads:
        thread.start()
    process.wait()
    threads[0].join()
    threads[1].join()
    say(_ERROR, _ended(process.returncode))
    stream.close()
    threads[2].join()
    process.stdout.close()
    process.stderr.close()
    stream.thread.join()


def _feed(stream: Any, stdin: IO[bytes]) -> None:
    """What comes from the client; that it is all is never said."""
    try:
        while True:
            data = stream.receive()
            if data and data[0] == _STDIN:
                stdin.write(data[1:])
                stdin.flush()
    except (simple_websocket.ConnectionClosed, OSError):
        try:
            stdin.close()
        except OSError:
            return


def _ended(code: int) -> bytes:
    if code == 0:
        return _status("Success")
    message = f"command terminated with non-zero exit code: exit status {code}"
    causes = [{"reason": "ExitCode", "message": str(code)}]
    return _status("Failure", message=message, reason="NonZeroExitCode", details={"causes": causes})


def _status(status: str, **rest: Any) -> bytes:
    return json.dumps({"metadata": {}, "status": status, **rest}).encode()
