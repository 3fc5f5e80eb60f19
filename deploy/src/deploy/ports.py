"""Finds free ports, and the process that uses a port."""

import errno
import socket
from collections.abc import Collection, Iterable

import psutil

from deploy.errors import PortInUse


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a server could listen on `port` now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As the servers do: ignore connections in TIME_WAIT.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                return False
            raise
    return True


def check_free(ports: Iterable[tuple[str, str, int]], host: str) -> None:
    """Fail with one sentence on the first port that is taken.

    Args:
        ports: What each is for, the variable that changes it, and its number.
        host: Address that will be bound.

    Raises:
        PortInUse: Names the port, the variable and, where visible, the process.
    """
    for purpose, variable, port in ports:
        if not is_free(port, host):
            raise PortInUse(
                f"port {port} for {purpose} is in use{_by_whom(port)}; "
                f"stop that process, or set {variable} to a free port"
            )


def first_free(candidates: Iterable[int], taken: Collection[int], count: int) -> list[int]:
    """The first `count` candidates that are free and not in `taken`.

    Raises:
        PortInUse: There are fewer.
    """
    found: list[int] = []
    for port in candidates:
        if len(found) == count:
            break
        if port not in taken and is_free(port):
            found.append(port)
    if len(found) < count:
        raise PortInUse(
            f"SELDON_MICROSERVICE_PORTS has {len(found)} free ports, expected at least {count}; "
            "set it to a wider range"
        )
    return found


def _by_whom(port: int) -> str:
    try:
        for connection in psutil.net_connections("tcp"):
            if connection.status != psutil.CONN_LISTEN or not connection.pid:
                continue
            if connection.laddr and connection.laddr.port == port:
                return f" by {psutil.Process(connection.pid).name()} (process {connection.pid})"
    except psutil.Error:
        pass  # other users' processes may be invisible
    return ""
