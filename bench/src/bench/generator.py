"""`python -m bench.generator`: a load generator without wrk or h2load, a thread per connection.

Reads a job and prints a result, both JSON. It checks the prediction of every response. It uses more
CPU than wrk and h2load, so with many connections it may be the limit itself.
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

from bench.cases import Form, Way
from bench.requesting import RequestSet, predicted_digit
from loadtest.wire import CHANNEL_OPTIONS

TIMEOUT_S = 10.0
_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)\r\n", re.IGNORECASE)


@dataclass
class CallerResult:
    """The durations and failures of one connection."""

    durations_s: list[float]
    failures: int = 0


def job(
    request_set: RequestSet, requests: Path, callers: int, seconds: float, processes: int
) -> dict[str, Any]:
    """The job of this process; the request bodies are in the file `requests`."""
    return {
        **asdict(request_set),
        "bodies": str(requests),
        "callers": callers,
        "seconds": seconds,
        "processes": processes,
    }


def main() -> None:
    given = json.load(sys.stdin)
    callers, seconds, processes = (given.pop(k) for k in ("callers", "seconds", "processes"))
    given["bodies"] = read_requests(Path(given["bodies"]))
    request_set = RequestSet(
        **{
            **given,
            "way": Way(given["way"]),
            "form": Form(given["form"]),
            "digits": None if given["digits"] is None else tuple(given["digits"]),
        }
    )
    json.dump(run(request_set, callers, seconds, processes), sys.stdout)


def run(
    request_set: RequestSet, callers: int, seconds: float, processes: int = 1
) -> dict[str, Any]:
    """Send from `callers` connections, each the next request after its response.

    Threads of one process share one core.
    """
    numbers = [range(first, callers, processes) for first in range(processes)]
    if processes == 1:
        parts = [_send(request_set, numbers[0], seconds)]
    else:
        context = multiprocessing.get_context("spawn")  # gRPC does not survive a fork
        barrier = context.Barrier(processes)
        with ProcessPoolExecutor(processes, context, barrier.wait) as pool:
            futures = [pool.submit(_send, request_set, part, seconds) for part in numbers]
            parts = [future.result() for future in futures]
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


def _send(
    request_set: RequestSet, numbers: range, seconds: float
) -> tuple[list[CallerResult], float]:
    """Run a thread per connection; return the results and the elapsed seconds."""
    seen = [CallerResult([]) for _ in numbers]
    began = time.perf_counter()
    threads = [
        threading.Thread(target=_call, args=(request_set, number, began + seconds, one))
        for number, one in zip(numbers, seen, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return seen, time.perf_counter() - began


def _call(request_set: RequestSet, number: int, until: float, seen: CallerResult) -> None:
    connect = _over_grpc if request_set.way is Way.GRPC else _over_http
    ask: Callable[[bytes], bytes] | None = None
    turn = number  # connections start with different digits
    while (began := time.perf_counter()) < until:
        index = turn % len(request_set.bodies)
        turn += 1
        try:
            ask = ask or connect(request_set)
            body = ask(request_set.bodies[index])
            seen.durations_s.append(time.perf_counter() - began)
            if predicted_digit(request_set, body) != (
                request_set.digits and request_set.digits[index]
            ):
                seen.failures += 1
        except (OSError, ValueError, grpc.RpcError):
            seen.failures += 1
            ask = None
            time.sleep(0.01)


def _over_http(request_set: RequestSet) -> Callable[[bytes], bytes]:
    connection = socket.create_connection((request_set.host, request_set.port), TIMEOUT_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    lines = [f"Host: {request_set.host}:{request_set.port}"]
    lines += [f"{name}: {value}" for name, value in request_set.headers.items()]
    headers = "\r\n".join(lines).encode()

    def ask(body: bytes) -> bytes:
        if request_set.way is Way.JSONP:
            connection.sendall(b"GET %b HTTP/1.1\r\n%b\r\n\r\n" % (body, headers))
        else:
            head = b"POST %b HTTP/1.1\r\n%b\r\n" % (request_set.path.encode(), headers)
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
        raise ValueError("the response has no status 200 or no Content-Length")
    while len(content) < int(length[1]):
        content += _more(connection)
    return content


def _more(connection: socket.socket) -> bytes:
    received = connection.recv(1 << 16)
    if not received:
        raise ConnectionError("the server closed the connection")
    return received


def _over_grpc(request_set: RequestSet) -> Callable[[bytes], bytes]:
    channel = grpc.insecure_channel(
        f"{request_set.host}:{request_set.port}", options=CHANNEL_OPTIONS
    )
    call = channel.unary_unary(
        request_set.path, request_serializer=bytes, response_deserializer=bytes
    )
    metadata = tuple(request_set.headers.items())

    def ask(body: bytes) -> bytes:
        return bytes(call(body, timeout=TIMEOUT_S, metadata=metadata))

    return ask


def write_requests(file: Path, bodies: tuple[bytes, ...]) -> None:
    """Write each request as a line with its length, then its bytes."""
    file.write_bytes(b"".join(b"%d\n%b" % (len(body), body) for body in bodies))


def read_requests(file: Path) -> tuple[bytes, ...]:
    """The inverse of write_requests."""
    bodies = []
    with file.open("rb") as stream:
        while line := stream.readline():
            bodies.append(stream.read(int(line)))
    return tuple(bodies)


if __name__ == "__main__":
    main()
