"""How the loop treats peers of every kind, with an engine of its own and with a slow one."""

import contextlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from polling import eventually
from rest_loop import Serving, serving
from serving_core import MicroBatcher
from serving_core.testing import FakePredictor
from serving_rest.event_loop import EventLoop
from serving_rest.settings import Settings

DOCUMENT = json.dumps({"data": (np.arange(784) / 784).tolist()}).encode()
LIVE = b"GET /health/live HTTP/1.1\r\nHost: h\r\n\r\n"
SLOW_ENGINE, FAST_ENGINE = False, True
START = Callable[..., Serving]


@pytest.fixture
def predictor() -> FakePredictor:
    return FakePredictor()


@pytest.fixture
def start(predictor: FakePredictor) -> Iterator[START]:
    with contextlib.ExitStack() as stack:

        def start(fast: bool = FAST_ENGINE, max_queue: int = 256, **settings: Any) -> Serving:
            batcher = MicroBatcher(predictor, max_queue=max_queue)
            if not fast:
                batcher.start()
                stack.callback(batcher.close)
            stack.callback(predictor.gate.set)
            found = serving(batcher, Settings(Path("unused"), **settings), runs_engine=fast)
            return stack.enter_context(found)

        yield start


@pytest.fixture(params=[FAST_ENGINE, SLOW_ENGINE], ids=["fast engine", "slow engine"])
def server(start: START, request: pytest.FixtureRequest) -> Serving:
    return start(request.param)


def plain(puid: str, *lines: str, path: str = "/predict") -> bytes:
    head = [f"POST {path}?puid={puid} HTTP/1.1", "Host: h", f"Content-Length: {len(DOCUMENT)}"]
    return "\r\n".join([*head, *lines, "", ""]).encode() + DOCUMENT


def answer(caller: socket.socket, method: str = "GET") -> tuple[http.client.HTTPResponse, bytes]:
    """The next response; nothing after it may have arrived."""
    response = http.client.HTTPResponse(caller, method=method)
    response.begin()
    return response, response.read()


def puids(data: bytes) -> list[str]:
    """The puids of responses, one after the other."""
    found = []
    while data:
        head, _, rest = data.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].split()[0])
        found.append(json.loads(rest[:length])["meta"]["puid"])
        data = rest[length:]
    return found


def received(caller: socket.socket) -> bytes:
    """Everything until the server closes."""
    data = b""
    while piece := caller.recv(1 << 16):
        data += piece
    return data


def test_requests_sent_ahead_are_answered_in_order(server: Serving) -> None:
    with server.connect() as caller:
        for number in range(40):
            caller.sendall(plain(f"p{number}"))
        caller.sendall(plain("last", "Connection: close"))
        assert puids(received(caller)) == [*(f"p{number}" for number in range(40)), "last"]


def test_a_caller_that_has_sent_all_may_close_its_side(server: Serving) -> None:
    with server.connect() as caller:
        caller.sendall(plain("a") + plain("b"))
        caller.shutdown(socket.SHUT_WR)
        assert puids(received(caller)) == ["a", "b"]
    with server.connect() as caller:
        caller.sendall(LIVE)
        caller.shutdown(socket.SHUT_WR)
        assert received(caller).endswith(b'{"status":"live"}')


def test_a_body_that_ends_early_is_an_error_that_is_counted(server: Serving) -> None:
    with server.connect() as caller:
        caller.sendall(plain("a", path="/js/predict")[:-10].replace(b"puid", b"jsonpCallback"))
        caller.shutdown(socket.SHUT_WR)
        response, body = answer(caller)
    assert response.status == 200
    assert body.startswith(b"a(")
    assert json.loads(body[2:-1])["error_id"] == 38
    assert count(server, "400") == 1
    with server.connect() as caller:  # a head: nobody can be answered
        caller.sendall(plain("a")[:30])
        caller.shutdown(socket.SHUT_WR)
        assert received(caller) == b""


def test_a_caller_that_resets_the_connection_in_its_body_is_counted(server: Serving) -> None:
    with server.connect() as caller:
        caller.sendall(plain("a")[:-10])
        eventually(lambda: in_flight(server) == 1, "it is in flight")
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    eventually(lambda: server.connections == 0, "it is closed")
    assert in_flight(server) == 0
    assert count(server, "400") == 1


def count(server: Serving, code: str) -> float | None:
    labels = {"protocol": "rest", "client": "direct", "variation": "default", "code": code}
    return server.registry.get_sample_value("seldon_requests_total", labels)


def test_a_caller_that_waits_for_100_gets_it(server: Serving) -> None:
    request = plain("a", "Expect: 100-continue")
    head = len(request) - len(DOCUMENT)
    with server.connect() as caller:
        caller.sendall(request[:head])
        assert caller.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        caller.sendall(request[head:])
        assert answer(caller)[0].status == 200
        caller.sendall(request)  # it did not wait
        assert answer(caller)[0].status == 200
        caller.sendall(request.replace(b"100-continue", b"a miracle"))
        response, body = answer(caller)
        assert (response.status, json.loads(body)["error_id"]) == (417, 13)
        assert caller.recv(1) == b""


def test_an_old_caller_gets_its_own_version_and_may_keep_the_connection(server: Serving) -> None:
    with server.connect() as caller:
        for last in (False, True):
            line = b"" if last else b"Connection: Keep-Alive\r\n"
            for target in (b"/health/live", b"/js/predict?json=" + DOCUMENT.replace(b" ", b"")):
                caller.sendall(b"GET %b HTTP/1.0\r\n%b\r\n" % (target, line))
                response, _ = answer(caller)
                assert (response.version, response.status) == (10, 200)
                expected = "close" if last else "keep-alive"
                assert response.headers["Connection"] == expected
                if last:
                    break
        assert caller.recv(1) == b""


def test_head_has_the_length_and_no_body(server: Serving) -> None:
    with server.connect() as caller:
        query = b"?json=" + DOCUMENT.replace(b" ", b"")
        for target in (b"/health/live", b"/js/predict" + query, b"/nothing"):
            lengths = []
            for method in ("HEAD", "GET"):
                caller.sendall(b"%b %b HTTP/1.1\r\nHost: h\r\n\r\n" % (method.encode(), target))
                response, body = answer(caller, method)
                lengths.append(int(response.headers["Content-Length"]))
                assert len(body) == (0 if method == "HEAD" else lengths[1])
            assert abs(lengths[0] - lengths[1]) < 100


def test_the_wsgi_app_gets_a_body_however_it_comes(server: Serving) -> None:
    with server.connect() as caller:
        head = b"PUT /predict HTTP/1.1\r\nHost: h\r\n"
        for body in (b"Content-Length: 3\r\n\r\nabc", b"Transfer-Encoding: chunked\r\n\r\n3\r\n"):
            caller.sendall(head + body)
            if body.endswith(b"\r\n"):
                time.sleep(0.05)
                caller.sendall(b"abc\r\n0\r\n\r\n")
            response, document = answer(caller)
            assert (response.status, json.loads(document)["error_id"]) == (405, 11)
            assert set(response.headers["Allow"].split(", ")) >= {"GET", "POST"}
        caller.sendall(head + b"Transfer-Encoding: chunked\r\n\r\nno number\r\n")
        assert answer(caller)[0].status == 400
        assert caller.recv(1) == b""


def metrics_ahead(caller: socket.socket, requests: int) -> None:
    """Ask for far more than the sockets' buffers hold."""
    caller.sendall(b"GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n" * requests)
    caller.sendall(b"GET /health/live HTTP/1.1\r\nConnection: close\r\n\r\n")


def slow_caller(server: Serving) -> socket.socket:
    caller = socket.socket()
    caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    caller.settimeout(20)
    caller.connect(("127.0.0.1", server.port))
    return caller


def test_a_caller_that_reads_slowly_gets_all_of_its_answers(start: START) -> None:
    server = start(read_timeout_s=0.5)
    with slow_caller(server) as caller:
        metrics_ahead(caller, 600)
        # Longer in all than the time that a caller may stall.
        size = 0
        tail = b""
        began = time.monotonic()
        while piece := caller.recv(50_000 if time.monotonic() - began < 1.5 else 1 << 20):
            size += len(piece)
            tail = (tail + piece)[-20:]
            if time.monotonic() - began < 1.5:
                time.sleep(0.02)
                with server.connect() as other:  # nobody else waits
                    other.sendall(plain("a"))
                    assert answer(other)[0].status == 200
        assert tail.endswith(b'{"status":"live"}')
        assert size > 6_000_000
        assert time.monotonic() - began > 1.5


def test_a_caller_that_reads_nothing_is_let_go(start: START) -> None:
    server = start(read_timeout_s=0.3)
    with slow_caller(server) as caller:
        metrics_ahead(caller, 600)
        eventually(lambda: server.connections == 1, "it is connected")
        eventually(lambda: server.connections == 0, "it is let go")


def test_an_idle_connection_is_kept_and_a_stalled_one_is_not(start: START) -> None:
    server = start(read_timeout_s=0.2)
    with server.connect() as idle, server.connect() as in_head, server.connect() as in_body:
        in_head.sendall(LIVE[:20])
        in_body.sendall(b"PUT /nothing HTTP/1.1\r\nContent-Length: 9\r\n\r\n{")
        response, body = answer(in_body)
        assert (response.status, json.loads(body)["error_id"]) == (408, 43)
        assert in_head.recv(1) == b""
        idle.sendall(LIVE)
        assert answer(idle)[0].status == 200
        time.sleep(0.4)
        idle.sendall(LIVE)
        assert answer(idle)[0].status == 200


# A slow engine


def test_a_slow_engine_needs_no_thread_per_request(start: START, predictor: FakePredictor) -> None:
    server = start(SLOW_ENGINE)
    predictor.gate.clear()
    with contextlib.ExitStack() as stack:
        callers = [stack.enter_context(server.connect()) for _ in range(100)]
        for number, caller in enumerate(callers):
            caller.sendall(plain(f"p{number}"))
        eventually(lambda: in_flight(server) == 100, "all are in flight")
        assert threading.active_count() < 20
        with server.connect() as other:  # which does not wait for the engine
            other.sendall(LIVE)
            assert answer(other)[0].status == 200
        predictor.gate.set()
        for number, caller in enumerate(callers):
            response, body = answer(caller)
            assert response.status == 200
            assert json.loads(body)["meta"]["puid"] == f"p{number}"
    assert count(server, "200") == 100
    assert in_flight(server) == 0


def in_flight(server: Serving) -> float | None:
    return server.registry.get_sample_value("seldon_requests_in_flight", {"protocol": "rest"})


def test_deadlines_pass_while_a_slow_engine_computes(
    start: START, predictor: FakePredictor
) -> None:
    server = start(SLOW_ENGINE)
    predictor.gate.clear()
    with contextlib.ExitStack() as stack:
        callers = {}
        for ms in (60_000, 150, 50, 100):
            caller = callers[ms] = stack.enter_context(server.connect())
            # What it has sent ahead is answered after its response.
            caller.sendall(plain("a", f"x-envoy-expected-rq-timeout-ms: {ms}") + LIVE)
            eventually(lambda: predictor.computing, "the engine computes the first")
        ended = []
        for ms in (50, 100, 150):
            assert callers[ms].recv(100).startswith(b"HTTP/1.1 504 ")
            ended.append(time.monotonic())
        assert ended == sorted(ended)
        assert count(server, "504") == 3
        assert in_flight(server) == 1
        predictor.gate.set()
        assert callers[60_000].recv(100).startswith(b"HTTP/1.1 200 ")
        for caller in callers.values():
            caller.shutdown(socket.SHUT_WR)
            assert received(caller).endswith(b'{"status":"live"}')
    assert predictor.batches == [1]


def test_a_full_queue_refuses_at_once(start: START, predictor: FakePredictor) -> None:
    server = start(SLOW_ENGINE, max_queue=1)
    predictor.gate.clear()
    with server.connect() as first, server.connect() as second, server.connect() as third:
        first.sendall(plain("a"))
        eventually(lambda: predictor.computing, "the engine computes")
        second.sendall(plain("b"))
        eventually(lambda: in_flight(server) == 2, "the second is queued")
        third.sendall(plain("c"))
        assert answer(third)[0].status == 429
        predictor.gate.set()
        assert answer(first)[0].status == answer(second)[0].status == 200


def test_a_caller_that_leaves_while_the_engine_computes_harms_nobody(
    start: START, predictor: FakePredictor
) -> None:
    server = start(SLOW_ENGINE)
    predictor.gate.clear()
    for _ in range(5):
        with server.connect() as caller:
            caller.sendall(plain("gone") * 2)
            caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    eventually(lambda: in_flight(server) == 5, "all are in flight")
    predictor.gate.set()
    eventually(lambda: server.connections == 0, "their connections are closed")
    eventually(lambda: in_flight(server) == 0, "nothing is in flight")


# Connections


def test_new_connections_wait_while_there_are_too_many(
    start: START, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving_rest.server.MAX_CONNECTIONS", 3)
    server = start()
    with contextlib.ExitStack() as stack:
        callers = [stack.enter_context(server.connect()) for _ in range(5)]
        for caller in callers:
            caller.sendall(LIVE)
        for caller in callers[:3]:
            assert answer(caller)[0].status == 200
        assert server.connections == 3
        for left, waiting in zip(callers[:2], callers[3:], strict=True):
            left.close()
            assert answer(waiting)[0].status == 200


def test_an_error_of_accept_is_logged_and_later_connections_are_accepted(
    start: START, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    server = start()
    accept = socket.socket.accept
    errors = [OSError(24, "Too many open files")]

    def fails_once(listener: socket.socket) -> object:
        if errors:
            raise errors.pop()
        return accept(listener)

    monkeypatch.setattr(socket.socket, "accept", fails_once)
    with server.connect() as caller:
        caller.sendall(LIVE)
        assert answer(caller)[0].status == 200
    assert "cannot accept a connection: [Errno 24] Too many open files" in caplog.text


def test_an_error_in_the_loop_closes_one_connection(
    start: START, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    server = start()

    def fails(*_: object) -> None:
        raise RuntimeError("unexpected")

    with monkeypatch.context() as patched:
        patched.setattr(EventLoop, "_handle", fails)
        with server.connect() as caller:
            caller.sendall(LIVE)
            assert caller.recv(1) == b""
    assert "unexpected error in the event loop" in caplog.text
    with server.connect() as caller:
        caller.sendall(LIVE)
        assert answer(caller)[0].status == 200
