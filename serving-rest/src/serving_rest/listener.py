"""The one socket that all workers accept from."""

import errno
import socket
import struct
import time

# How long to wait for a port: workers whose master was killed need a moment to notice.
PATIENCE_S = 3.0


class CannotListen(Exception):
    """The address is taken or no address of this machine; the message names it."""


def listen(
    host: str, port: int, read_timeout_s: float, patience_s: float = PATIENCE_S
) -> socket.socket:
    """Open the one socket that all workers accept from.

    Ours, not gunicorn's, which would take five seconds and a page of log to give up. Without
    SO_REUSEPORT on purpose: with it a second server on the port would start and share the
    requests, and one that no longer accepts would still be handed connections.

    Raises:
        CannotListen: In use for longer than `patience_s`, or not to be bound at all.
    """
    deadline = time.monotonic() + patience_s
    while True:
        try:
            listener = socket.create_server(
                (host, port),
                family=socket.AF_INET6 if ":" in host else socket.AF_INET,
                backlog=2048,
            )
            break
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise CannotListen(f"cannot listen on {host} port {port}: {error}") from None
            if time.monotonic() > deadline:
                raise CannotListen(
                    f"cannot listen on {host} port {port}: the port is in use"
                ) from None
        time.sleep(0.05)
    # Accepted sockets inherit it: no call per connection, and none per request.
    seconds, fraction = divmod(read_timeout_s, 1.0)
    timeval = struct.pack("ll", int(seconds), int(fraction * 1e6))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeval)
    return listener
