"""Ports for servers that cannot choose one themselves."""

import os
import socket

# Below the range from which the kernel takes ports for outgoing connections.
_FIRST, _LAST = 10_000, 32_000
_PROCESSES = 8  # of one parallel run; each has a range of its own
_given: set[int] = set()


def free_ports(count: int) -> list[int]:
    """Find TCP ports that are free on the loopback address.

    No port is given twice by one process. Parallel test processes search ranges of their own, and
    separate runs start at different places in them.

    Returns:
        Ports in ascending order.
    """
    size = (_LAST - _FIRST) // _PROCESSES
    worker = os.environ.get("PYTEST_XDIST_WORKER", f"gw{os.getpid()}").removeprefix("gw")
    end = _FIRST + (int(worker) % _PROCESSES + 1) * size
    first = end - size // 2 - os.getpid() * 37 % (size // 2)
    found: list[int] = []
    for port in range(first, end):
        if port not in _given and _is_free(port):
            _given.add(port)
            found.append(port)
        if len(found) == count:
            return found
    raise RuntimeError(f"fewer than {count} ports are free from {first} to {end}")


def _is_free(port: int) -> bool:
    with socket.socket() as candidate:
        try:
            candidate.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
