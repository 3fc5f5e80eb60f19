"""GET /js/predict, as a browser of the original's demo asks it.

Locust's FastHttpUser keeps books within the time it measures (0.4 ms a request). What it stands
on, geventhttpclient's connections and parser, is used here as it is.
"""

from __future__ import annotations

import time
from urllib.parse import urlsplit

import gevent.socket  # type: ignore[import-untyped]  # it ships no types
from geventhttpclient.connectionpool import ConnectionPool
from geventhttpclient.response import (
    HTTPConnectionClosed,
    HTTPParseError,
    HTTPSocketPoolResponse,
)
from locust.env import Environment

from loadtest import answers, wire
from loadtest.answers import WrongAnswer
from loadtest.locustfiles.load_process import PredictionUser, process
from loadtest.recorder import Outcome
from loadtest.settings import PER_CALL, REQUEST_TIMEOUT_S

settings = process.settings
target = urlsplit(settings.host)
host, port = target.hostname or "127.0.0.1", target.port or 80

path_start, path_end = wire.rest_path(process.credentials.js_key)
head_end = (
    f" HTTP/1.1\r\nHost: {target.netloc}\r\nUser-Agent: loadtest\r\nAccept: */*\r\n"
    + ("Connection: close\r\n" if settings.connections == PER_CALL else "")
    + "\r\n"
).encode()
# The whole request but the puid, once for each instance.
heads = [f"GET {path_start}{text}{path_end}".encode() for text in process.payloads.url_json]


class Connections(ConnectionPool):
    """One user's connection; opened when there is none, by the request that needs it."""

    def __init__(self) -> None:
        super().__init__(
            host,
            port,
            host,
            port,
            size=1,
            connection_timeout=REQUEST_TIMEOUT_S,
            network_timeout=REQUEST_TIMEOUT_S,
        )

    def after_connect(self, sock: gevent.socket.socket) -> None:
        # A request of several segments must not wait for the acknowledgement of the first.
        sock.setsockopt(gevent.socket.IPPROTO_TCP, gevent.socket.TCP_NODELAY, 1)


class RestUser(PredictionUser):
    request_type = "GET"
    request_name = "/js/predict"

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self._connections = Connections()

    def predict(self, instance: int, puid: str) -> Outcome:
        if settings.connections == PER_CALL:
            self._connections = Connections()
        request = heads[instance] + puid.encode() + head_end
        server = None
        failure = None
        told = None
        started = time.perf_counter_ns()
        try:
            response = self._send(request)
            document = answers.from_jsonp(response.status_code, response.read())
            ended = time.perf_counter_ns()
            told = answers.judge(answers.of_document(response.status_code, document), puid)
            timing = response.get("server-timing")
            server = answers.server_timing(timing if isinstance(timing, str) else None)
        except Exception as error:
            ended = time.perf_counter_ns()
            failure = reason(error)
        finally:
            if settings.connections == PER_CALL:
                self._connections.close()
        return Outcome(started, ended, failure, server, told)

    def _send(self, request: bytes) -> HTTPSocketPoolResponse:
        """Send once. geventhttpclient's own client would send again when a connection breaks."""
        connection = self._connections.get_socket()
        try:
            connection.sendall(request)
        except BaseException:
            self._connections.release_socket(connection)
            raise
        return HTTPSocketPoolResponse(connection, self._connections)


def reason(error: Exception) -> str:
    """A few words for what went wrong, the same for the same cause."""
    match error:
        case WrongAnswer():
            return str(error)
        case TimeoutError():
            return "timed out"
        case ConnectionRefusedError():
            return "connection refused"
        case HTTPConnectionClosed() | ConnectionError():
            return "connection closed"
        case HTTPParseError():
            return "broken HTTP answer"
        case _:
            return type(error).__name__
