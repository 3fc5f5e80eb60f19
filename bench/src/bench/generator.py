"""`python -m bench.generator`: load without wrk or h2load, from a thread for each caller.

Reads a job, prints a result, both JSON. Every answer is checked for its digit. It costs more of the
client's core than they do: what it says of many callers may be its own limit.
"""

import json
import multiprocessing
import re
import socket
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from bench.asking import Asking, Form, digit_told
from bench.cases import Way
from loadtest.wire import CHANNEL_OPTIONS

TIMEOUT_S = 10.0
_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)\r\n", re.IGNORECASE)


@dataclass
class Seen:
    """What one caller has seen."""

    durations_s: list[float]
    failures: int = 0


def job(
    asking: Asking, requests: Path, callers: int, seconds: float, processes: int
) -> dict[str, Any]:
    """What this process reads, for `asking` with its bodies in the file `requests`."""
    return {
        **asdict(asking),
        "bodies": str(requests),
        "callers": callers,
        "seconds": seconds,
        "processes": processes,
    }


def main() -> None:
    given = json.load(sys.stdin)
    callers, seconds, processes = (given.pop(k) for k in ("callers", "seconds", "processes"))
    given["bodies"] = read_requests(Path(given["bodies"]))
    asking = Asking(
        **{
            **given,
            "way": Way(given["way"]),
            "form": Form(given["form"]),
            "digits": None if given["digits"] is None else tuple(given["digits"]),
        }
    )
    json.dump(run(asking, callers, seconds, processes), sys.stdout)


def run(asking: Asking, callers: int, seconds: float, processes: int = 1) -> dict[str, Any]:
    """Ask from `callers` connections at once, each as soon as it has its answer.

    Threads of one process have one core between them, whatever the machine has.
    """
    numbers = [range(first, callers, processes) for first in range(processes)]
    if processes == 1:
        parts = [_ask(asking, numbers[0], seconds)]
    else:
        context = multiprocessing.get_context("spawn")  # gRPC does not survive a fork
        all_there = context.Barrier(processes)
        with ProcessPoolExecutor(processes, context, all_there.wait) as pool:
            asked = [pool.submit(_ask, asking, part, seconds) for part in numbers]
            parts = [part.result() for part in asked]
    seen = [one for part, _ in parts for one in part]
    lasted_s = max(lasted for _, lasted in parts)
    durations = [duration for one in seen for duration in one.durations_s]
    p50, p99 = (
        np.percentile(durations, (50, 99), method="inverted_cdf") * 1e3 if durations else (0.0, 0.0)
    )
    return {
        "requests": len(durations),
        "failures": sum(one.failures for one in seen),
        "seconds": lasted_s,
        "p50_ms": float(p50),
        "p99_ms": float(p99),
    }


def _ask(asking: Asking, numbers: range, seconds: float) -> tuple[list[Seen], float]:
    """With a thread for each of the callers `numbers`; also how long it took."""
    seen = [Seen([]) for _ in numbers]
    began = time.perf_counter()
    threads = [
        threading.Thread(target=_call, args=(asking, number, began + seconds, one))
        for number, one in zip(numbers, seen, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return seen, time.perf_counter() - began


def _call(asking: Asking, number: int, until: float, seen: Seen) -> None:
    connect = _over_grpc if asking.way is Way.GRPC else _over_http
    ask: Callable[[bytes], bytes] | None = None
    turn = number  # the callers begin with different digits
    while (began := time.perf_counter()) < until:
        index = turn % len(asking.bodies)
        turn += 1
        try:
            ask = ask or connect(asking)
            body = ask(asking.bodies[index])
            seen.durations_s.append(time.perf_counter() - began)
            if digit_told(asking, body) != (asking.digits and asking.digits[index]):
                seen.failures += 1
        except (OSError, ValueError, grpc.RpcError):
            seen.failures += 1
            ask = None
            time.sleep(0.01)


def _over_http(asking: Asking) -> Callable[[bytes], bytes]:
    connection = socket.create_connection((asking.host, asking.port), TIMEOUT_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    lines = [f"Host: {asking.host}:{asking.port}"]
    lines += [f"{name}: {value}" for name, value in asking.headers.items()]
    headers = "\r\n".join(lines).encode()

    def ask(body: bytes) -> bytes:
        if asking.way is Way.JSONP:
            connection.sendall(b"GET %b HTTP/1.1\r\n%b\r\n\r\n" % (body, headers))
        else:
            head = b"POST %b HTTP/1.1\r\n%b\r\n" % (asking.path.encode(), headers)
            connection.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        return _read_answer(connection)

    return ask


def _read_answer(connection: socket.socket) -> bytes:
    received = b""
    while (end := received.find(b"\r\n\r\n")) < 0:
        received += _more(connection)
    head, content = received[: end + 2], received[end + 4 :]
    length = _LENGTH.search(head)
    if not head.startswith(b"HTTP/1.1 200") or length is None:
        raise ValueError("no status 200, or no length")
    while len(content) < int(length[1]):
        content += _more(connection)
    return content


def _more(connection: socket.socket) -> bytes:
    received = connection.recv(1 << 16)
    if not received:
        raise ConnectionError("the server has closed the connection")
    return received


def _over_grpc(asking: Asking) -> Callable[[bytes], bytes]:
    channel = grpc.insecure_channel(f"{asking.host}:{asking.port}", options=CHANNEL_OPTIONS)
    call = channel.unary_unary(asking.path, request_serializer=bytes, response_deserializer=bytes)
    metadata = tuple(asking.headers.items())

    def ask(body: bytes) -> bytes:
        return bytes(call(body, timeout=TIMEOUT_S, metadata=metadata))

    return ask


def write_requests(file: Path, bodies: tuple[bytes, ...]) -> None:
    """Each request's length on a line, then its bytes."""
    file.write_bytes(b"".join(b"%d\n%b" % (len(body), body) for body in bodies))


def read_requests(file: Path) -> tuple[bytes, ...]:
    """What write_requests wrote."""
    bodies = []
    with file.open("rb") as stream:
        while line := stream.readline():
            bodies.append(stream.read(int(line)))
    return tuple(bodies)


if __name__ == "__main__":
    main()
