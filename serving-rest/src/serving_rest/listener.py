"""The listening socket that all workers share."""

import errno
import socket
import time

# How long to retry a port in use: workers of a killed master close it a moment later.
PATIENCE_S = 3.0


class CannotListen(Exception):
    """The address is in use or not of this machine; the message names it."""


def listen(host: str, port: int, patience_s: float = PATIENCE_S) -> socket.socket:
    """Open the listening socket that all workers share.

    gunicorn's own would retry for five seconds and log each failure. SO_REUSEPORT is not set: with
    it a second server could share the port, and the kernel would assign connections to a process
    that no longer accepts.

    Raises:
        CannotListen: In use for longer than `patience_s`, or not bindable.
    """
    deadline = time.monotonic() + patience_s
    while True:
        try:
            return socket.create_server(
                (host, port),
                family=socket.AF_INET6 if ":" in host else socket.AF_INET,
                backlog=2048,
            )
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise CannotListen(f"cannot listen on {host} port {port}: {error}") from None
            if time.monotonic() > deadline:
                raise CannotListen(
                    f"cannot listen on {host} port {port}: the port is in use"
                ) from None
        time.sleep(0.05)
