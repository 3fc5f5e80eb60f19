"""A port that several worker processes share exclusively."""

import errno
import socket
import time

_PAUSE_S = 0.02


class PortUnavailable(Exception):
    """An address cannot be bound; the message names it and the reason."""

    @classmethod
    def because(cls, error: OSError, host: str, port: int) -> "PortUnavailable":
        """Create the error for an OSError of bind()."""
        if error.errno == errno.EADDRINUSE:
            return cls(f"port {port} of {host} is in use by another server")
        return cls(f"port {port} of {host} cannot be bound: {error.strerror or error}")


def reserve_port(host: str, port: int, patience_s: float = 2.0) -> socket.socket:
    """Reserve a port for the worker processes to share.

    Args:
        host: Name or address of this machine.
        port: 0 selects a free one.
        patience_s: How long to retry while the port is in use: workers of a killed parent close it
            a moment later.

    Returns:
        A bound socket that does not listen; keep it open. Its port is `getsockname()[1]`.

    Raises:
        PortUnavailable: Another server listens there, even with SO_REUSEPORT.
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
    # With SO_REUSEPORT alone, two servers of one user would silently share the port. This bind
    # without it fails if another process listens there or has reserved the port.
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)
    try:
        return _bound(family, kind, protocol, address, socket.SO_REUSEPORT)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        # Recently closed connections (TIME_WAIT) still occupy the port.
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
