"""One port for several processes of ours, and for nobody else."""

import errno
import socket
import time

_PAUSE_S = 0.02


class PortUnavailable(Exception):
    """An address cannot be bound; the message names it and says why."""

    @classmethod
    def because(cls, error: OSError, host: str, port: int) -> "PortUnavailable":
        """Word what bind() raised."""
        if error.errno == errno.EADDRINUSE:
            return cls(f"port {port} of {host} is in use by another server")
        return cls(f"port {port} of {host} cannot be bound: {error.strerror or error}")


def reserve_port(host: str, port: int, patience_s: float = 2.0) -> socket.socket:
    """Hold a port that this process's workers may then share.

    Args:
        host: Name or address of this machine.
        port: 0 for any free one.
        patience_s: How long to try again while the port is in use: a parent that was killed
            leaves workers that close it at once, but after it.

    Returns:
        A bound socket that does not listen: keep it open, its port is `getsockname()[1]`.

    Raises:
        PortUnavailable: Another server listens there, even one that shares its port.
    """
    patience_ends = time.monotonic() + patience_s
    while True:
        try:
            return _reserve(host, port)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() > patience_ends:
                raise PortUnavailable.because(error, host, port) from None
            time.sleep(_PAUSE_S)


def _reserve(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    # With SO_REUSEPORT alone two servers of one user would share the port without a word: this
    # bind without it fails when anyone listens there, or holds the port as below.
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)
    try:
        return _bound(family, kind, protocol, address, socket.SO_REUSEPORT)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        # Connections that another server closed a moment ago still occupy the port.
        return _bound(family, kind, protocol, address, socket.SO_REUSEPORT, socket.SO_REUSEADDR)


def _bound(
    family: int, kind: int, protocol: int, address: tuple[object, ...], *options: int
) -> socket.socket:
    held = socket.socket(family, kind, protocol)
    try:
        for option in options:
            held.setsockopt(socket.SOL_SOCKET, option, 1)
        held.bind(address)
    except OSError:
        held.close()
        raise
    return held
