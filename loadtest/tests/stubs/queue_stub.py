"""A gateway whose queue is known: it takes requests in order and works on each for a fixed time.

One queue for both protocols: /js/predict, /token, /counts, /visits and /health over HTTP, Classify
over gRPC. Prints the two ports. When a request leaves is computed as it arrives, so that what it
costs to take others in meanwhile does not lengthen its time; then the moment is waited for, within
some 0.1 ms. Every answer states its true times.

A stopped process (SIGSTOP) takes what has arrived meanwhile in order when it goes on; nothing is
lost, and what was due meanwhile is answered at once.
"""

import argparse
import asyncio
import functools
import heapq
import json
import select
import selectors
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

import grpc
import stub_answers

from seldon_pb2 import ClassificationReply, ClassificationRequest

CLASSIFY = "/io.seldon.api.rpc.Seldon/Classify"
BACKLOG = 4096
KEPT_VISITS = 200_000
GRPC_THREADS = 4096  # made only as far as calls wait


@dataclass
class Visit:
    """One request's times, in seconds of the loop's clock.

    Attributes:
        arrived: At the gateway.
        queued: At the server, `--gateway-ms` later.
        begun: When a server turned to it.
        done: When that server had done.
        due: When its answer should leave, `--server-ms` later.
        answered: When it left.
    """

    protocol: str
    arrived: float
    queued: float
    begun: float
    done: float
    due: float
    answered: float = 0.0

    @property
    def server_timing(self) -> str:
        return stub_answers.timing(
            self.begun - self.queued, self.done - self.begun, self.answered - self.queued
        )

    @property
    def gateway_timing(self) -> str:
        to_server, upstream = self.queued - self.arrived, self.answered - self.queued
        return f"in={to_server * 1e6:.0f}, upstream={upstream * 1e6:.0f}"


class Queue:
    """First come, first served, by `servers` that each need `service_s` for a request.

    With `capacity` no two requests begin within 1 / capacity seconds, however many servers.
    """

    def __init__(self, service_s: float, servers: int, capacity: float | None) -> None:
        self._service_s = service_s
        self._free = [0.0] * servers  # when each server is
        self._apart_s = 1 / capacity if capacity else 0.0
        self._next = 0.0

    def admit(self, now: float) -> tuple[float, float]:
        """When the request that comes at `now` is begun, and when it is done."""
        begun = max(now, self._free[0], self._next)
        heapq.heapreplace(self._free, begun + self._service_s)
        self._next = begun + self._apart_s
        return begun, begun + self._service_s


class Stub:
    """The queue, what it is to state, and what has come of it. For any thread."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._queue = Queue(options.service_ms / 1000, options.servers, options.capacity)
        self._gateway_s = options.gateway_ms / 1000
        self._server_s = options.server_ms / 1000
        self.network_s = options.network_ms / 1000
        self._lock = threading.Lock()
        self._late_s = 0.0
        self._visits: deque[Visit] = deque(maxlen=KEPT_VISITS)
        self._counts = {"requests": 0, "tokens": 0, "refused": 0, "connections": 0, "answered": 0}

    def admit(self, protocol: str) -> Visit:
        """Take a request in."""
        with self._lock:
            now = time.monotonic()
            queued = now + self._gateway_s
            begun, done = self._queue.admit(queued)
            visit = Visit(protocol, now, queued, begun, done, done + self._server_s)
            self._counts["requests"] += 1
            self._visits.append(visit)
            return visit

    def leave(self, visit: Visit) -> None:
        """The answer to `visit` is about to be sent: its times are final."""
        with self._lock:
            visit.answered = time.monotonic()
            self._late_s += visit.answered - visit.due
            self._counts["answered"] += 1

    def count(self, name: str) -> int:
        with self._lock:
            self._counts[name] += 1
            return self._counts[name]

    def counts(self) -> dict[str, float]:
        """`late_us` is how much later than due the answers left, on average."""
        with self._lock:
            answered = self._counts["answered"]
            late_us = self._late_s / answered * 1e6 if answered else 0.0
            return {**self._counts, "late_us": round(late_us, 1)}

    def visits(self) -> list[dict[str, float | str]]:
        """Every request's times, in the order of arrival."""
        with self._lock:
            return [vars(visit).copy() for visit in self._visits]


def query_of(target: bytes) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(target.decode()).query).items()}


@functools.lru_cache(maxsize=1024)
def answer_around(target: bytes) -> tuple[bytes, bytes] | None:
    """The answer to a target before and after its puid; None where its key is not known.

    Kept, as the same few hundred targets come all the time.
    """
    query = query_of(target)
    if query["consumer_key"] != stub_answers.JS_KEY:
        return None
    scores = stub_answers.scores_for(stub_answers.digit_in_json(query["json"]))
    before, after = (
        stub_answers.jsonp(query["jsonpCallback"], "PUID", scores).encode().split(b"PUID")
    )
    return before, after


@functools.lru_cache(maxsize=1024)
def digit_of_data(data: bytes) -> int:
    """What the `data` of a request of Classify shows."""
    request = ClassificationRequest()
    request.data.ParseFromString(data)
    return stub_answers.digit_in_request(request)


class Departures:
    """HTTP's requests until they are due, which is in the order of their arrival."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[tuple[float, Callable[[], None]]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, due: float, answer: Callable[[], None]) -> None:
        self._waiting.append((due, answer))
        self.answer_due()  # others' time may have come while many are taken in

    def answer_due(self) -> None:
        """Answer those whose time has come, and wait for the next."""
        while self._waiting and self._waiting[0][0] <= self._loop.time():
            self._waiting.popleft()[1]()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._waiting:
            self._timer = self._loop.call_at(self._waiting[0][0], self.answer_due)


class HttpConnection(asyncio.Protocol):
    """One connection's requests without a body, one after the other."""

    def __init__(self, stub: Stub, departures: Departures) -> None:
        self._stub = stub
        self._departures = departures
        self._received = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._stub.count("connections")

    def data_received(self, data: bytes) -> None:
        *whole, self._received = (self._received + data).split(b"\r\n\r\n")
        for head in whole:
            line, _, headers = head.partition(b"\r\n")
            self._respond(line.split(b" ")[1], b"connection: close" in headers.lower())

    def _respond(self, target: bytes, last: bool) -> None:
        path = target.partition(b"?")[0]
        stub = self._stub
        if path == b"/js/predict":
            self._predict(target, last)
        elif path == b"/token":
            status, text = stub_answers.token(query_of(target), lambda: stub.count("tokens"))
            self._send(status, text.encode(), "", last)
        elif path == b"/counts":
            self._send(200, json.dumps(stub.counts()).encode(), "", last)
        elif path == b"/visits":
            self._send(200, json.dumps(stub.visits()).encode(), "", last)
        elif path == b"/health":
            self._send(200, b"{}", "", last)
        else:
            self._send(404, b"{}", "", last)

    def _predict(self, target: bytes, last: bool) -> None:
        without_puid, _, puid = target.rpartition(b"&puid=")
        around = answer_around(without_puid)
        if around is None:
            self._stub.count("refused")
            text = stub_answers.jsonp_error(3, "Consumer not Authorized")
            self._send(200, text.encode(), "", last)
            return
        visit = self._stub.admit("rest")
        before, after = around

        def answer() -> None:
            self._stub.leave(visit)
            times = (
                f"Server-Timing: {visit.server_timing}\r\n"
                f"x-gateway-timing: {visit.gateway_timing}\r\n"
            )
            send = functools.partial(self._send, 200, before + puid + after, times, last)
            if self._stub.network_s:
                asyncio.get_running_loop().call_later(self._stub.network_s, send)
            else:
                send()

        self._departures.add(visit.due, answer)

    def _send(self, status: int, body: bytes, headers: str, last: bool) -> None:
        assert self._transport is not None
        if self._transport.is_closing():
            return
        head = (
            f"HTTP/1.1 {status} -\r\nContent-Type: application/javascript; charset=utf-8\r\n"
            f"{headers}Content-Length: {len(body)}\r\n\r\n"
        )
        self._transport.write(head.encode() + body)
        if last:
            self._transport.close()


class GrpcSide(grpc.GenericRpcHandler):
    """Classify. Each call has a thread, which sleeps until the call is due."""

    def __init__(self, stub: Stub) -> None:
        self._stub = stub

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        """Called by the one thread that takes calls in, in their order: here they queue up."""
        if details.method != CLASSIFY:
            return None
        token = str(dict(details.invocation_metadata or ()).get("oauth_token", ""))
        visit = self._stub.admit("grpc") if token.startswith("token-") else None
        return grpc.unary_unary_rpc_method_handler(
            functools.partial(self._classify, visit),
            request_deserializer=ClassificationRequest.FromString,
            response_serializer=ClassificationReply.SerializeToString,
        )

    def _classify(
        self, visit: Visit | None, request: ClassificationRequest, context: grpc.ServicerContext
    ) -> ClassificationReply:
        if visit is None:
            self._stub.count("refused")
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "Could not determine client")
        digit = digit_of_data(request.data.SerializeToString())
        reply = stub_answers.reply(request.meta.puid, stub_answers.scores_for(digit))
        time.sleep(max(visit.due - time.monotonic(), 0))
        self._stub.leave(visit)
        time.sleep(self._stub.network_s)
        context.send_initial_metadata((("x-gateway-timing", visit.gateway_timing),))
        context.set_trailing_metadata((("server-timing", visit.server_timing),))
        return reply


class PreciseSelector(selectors.DefaultSelector):
    """Wakes within microseconds: epoll itself waits for whole milliseconds."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None or timeout > 0:
            select.select([self.fileno()], [], [], timeout)
        return super().select(0)


async def serve(options: argparse.Namespace) -> None:
    """Serve for ever."""
    stub, departures = Stub(options), Departures()
    listener = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
    await asyncio.get_running_loop().create_server(
        lambda: HttpConnection(stub, departures), sock=listener, backlog=BACKLOG
    )
    server = grpc.server(ThreadPoolExecutor(GRPC_THREADS), handlers=[GrpcSide(stub)])
    grpc_port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(listener.getsockname()[1], grpc_port, flush=True)  # noqa: T201 - read by the test
    await asyncio.Event().wait()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--service-ms", type=float, default=5.0, help="of every request")
    parser.add_argument("--servers", type=int, default=1, help="that work side by side")
    parser.add_argument("--capacity", type=float, help="requests per second at most; others queue")
    parser.add_argument("--gateway-ms", type=float, default=0.0, help="before the queue")
    parser.add_argument("--server-ms", type=float, default=0.0, help="after the service")
    parser.add_argument("--network-ms", type=float, default=0.0, help="once the times are stated")
    return parser.parse_args()


if __name__ == "__main__":
    # Threads that wake must not wait 5 ms, Python's default, for one that is at work.
    sys.setswitchinterval(0.0001)
    with asyncio.Runner(
        loop_factory=lambda: asyncio.SelectorEventLoop(PreciseSelector())
    ) as runner:
        runner.run(serve(arguments()))
