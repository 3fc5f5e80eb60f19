"""The undocumented parts of gunicorn that worker.py replaces or calls are there.

pyproject.toml bounds gunicorn to the versions whose parts these are; that they work together is
what test_server.py shows.
"""

import inspect
import socket
from collections.abc import Iterator
from functools import partial
from importlib.metadata import version
from typing import Any

import pytest
from gunicorn.config import Config
from gunicorn.http import errors, wsgi
from gunicorn.workers.gthread import TConn, ThreadWorker

from serving_rest.fast_path import Limits
from serving_rest.server import MAX_HEADER_BYTES, MAX_HEADERS
from serving_rest.worker import Connection, LimitedRequest, Worker

LIMITS = Limits(line=20_000, headers=MAX_HEADERS, header=MAX_HEADER_BYTES, section=400, body=100)
IN_EVERY_TURN = (
    "is_parent_alive",
    "murder_keepalived",
    "notify",
    "set_accept_enabled",
    "wait_for_and_dispatch_events",
)
OF_A_WORKER = (
    *("age", "alive", "app", "cfg", "keepalived_conns", "log", "method_queue", "nr_conns"),
    *("poller", "sockets", "worker_connections"),
)
OF_A_CONNECTION = ("client", "data_ready", "server", "sock", "timeout")


def changed(what: str) -> str:
    found = version("gunicorn")
    return f"gunicorn {found} has changed {what}; adapt worker.py, then raise the bound"


def replaced(ours: type) -> list[str]:
    """The methods that gunicorn is to call."""
    return [
        name
        for name, value in vars(ours).items()
        if inspect.isfunction(value) and (name == "__init__" or not name.startswith("_"))
    ]


@pytest.mark.parametrize("name", replaced(Worker))
def test_gunicorns_worker_has_the_methods_that_ours_replaces(name: str) -> None:
    theirs = getattr(ThreadWorker, name, None)
    assert theirs is not None, changed(f"ThreadWorker.{name}")
    if name != "__init__":
        ours = inspect.signature(getattr(Worker, name))
        assert len(inspect.signature(theirs).parameters) == len(ours.parameters), changed(
            f"the parameters of ThreadWorker.{name}"
        )


@pytest.mark.parametrize("name", IN_EVERY_TURN)
def test_gunicorns_loop_calls_what_ours_replaces(name: str) -> None:
    assert name in ThreadWorker.run.__code__.co_names, changed(f"ThreadWorker.run: no {name}")


def test_a_worker_has_the_attributes_that_ours_uses() -> None:
    worker = ThreadWorker(1, 1, [], None, 1, Config(), None)
    worker.tmp.close()  # the file by which the master sees that a worker lives
    for name in OF_A_WORKER:
        assert hasattr(worker, name), changed(f"ThreadWorker.{name}")
    for name in ("defer", "run_callbacks"):
        assert hasattr(worker.method_queue, name), changed(f"ThreadWorker.method_queue.{name}")
    for name in ("append", "remove", "rotate", "popleft"):
        assert hasattr(worker.keepalived_conns, name), changed(f"keepalived_conns.{name}")
    assert hasattr(ThreadWorker, "enqueue_req"), changed("ThreadWorker.enqueue_req")


@pytest.fixture
def connection() -> Iterator[Connection]:
    """Its caller sends one byte more than a test hands over, then nothing."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"y")
        theirs.shutdown(socket.SHUT_WR)
        yield Connection(Config(), ours, ("127.0.0.1", 1), ("127.0.0.1", 2))


def received(connection: Connection, data: bytes) -> LimitedRequest:
    """What gunicorn reads where a worker hands a request over to it."""
    for name in ("init", "set_timeout", "close"):
        assert hasattr(TConn, name), changed(f"TConn.{name}")
    connection.init()
    for name in OF_A_CONNECTION:
        assert hasattr(connection, name), changed(f"TConn.{name}")
    parser: Any = getattr(connection, "parser", None)
    assert hasattr(parser, "mesg_class"), changed("TConn.parser.mesg_class")
    assert hasattr(parser.unreader, "unread"), changed("TConn.parser.unreader.unread")
    parser.mesg_class = partial(LimitedRequest, LIMITS)
    parser.unreader.unread(data)
    request: LimitedRequest = next(parser)
    return request


def test_gunicorn_reads_what_was_received_before(connection: Connection) -> None:
    request = received(connection, b"GET /predict?a=1 HTTP/1.1\r\nHost: h\r\n\r\n")
    assert isinstance(request, LimitedRequest), changed("Parser.mesg_class")
    assert request.version == (1, 1), changed("Request.version")
    assert request.should_close() is False, changed("Request.should_close")
    _, environ = wsgi.create(
        request, connection.sock, connection.client, connection.server, connection.cfg
    )
    assert environ["QUERY_STRING"] == "a=1", changed("what wsgi.create returns")


@pytest.mark.parametrize(
    ("line", "header", "refusal", "part"),
    [
        (19_900, 10, None, ""),
        (20_001, 10, errors.LimitRequestLine, "Request.limit_request_line"),
        (10, 8_000, errors.LimitRequestHeaders, "Request.max_buffer_headers"),
    ],
)
def test_the_limits_beyond_gunicorns_settings_hold(
    connection: Connection,
    line: int,
    header: int,
    refusal: type[Exception] | None,
    part: str,
) -> None:
    connection.cfg.set("limit_request_line", 0)
    connection.cfg.set("limit_request_field_size", MAX_HEADER_BYTES)
    head = b"GET /" + b"x" * line + b" HTTP/1.1\r\nA: " + b"y" * header
    if refusal is None:
        assert received(connection, head + b"\r\n\r\n").path == "/" + "x" * line
        return
    try:
        received(connection, head)
    except refusal:
        return
    except Exception as error:
        raise AssertionError(changed(part)) from error
    raise AssertionError(changed(part))
