"""A REST connection: sends requests and turns responses into outcomes.

Locust's FastHttpUser does bookkeeping within the measured time (0.4 ms per request). This module
uses its parser, geventhttpclient's, on a blocking socket.
"""

from __future__ import annotations

import socket
import time
from urllib.parse import urlsplit

from geventhttpclient._parser import HTTPParseError
from geventhttpclient.response import HTTPResponse

from loadtest import answers
from loadtest.answers import InvalidResponse
from loadtest.credentials import TokenRefused, TokenSource
from loadtest.payloads import Payload
from loadtest.recorder import Outcome
from loadtest.settings import PER_CALL, REQUEST_TIMEOUT_S, LoadTestSettings

RECEIVE_BYTES = 1 << 16
UNAUTHORIZED = 401


class ConnectionClosed(Exception):
    """The peer closed the connection before the response was complete."""


class RestRequests:
    """The packed requests of a run, without their puid and token."""

    def __init__(self, settings: LoadTestSettings, payload: Payload, tokens: TokenSource) -> None:
        """The requests are packed once, here."""
        target = urlsplit(settings.host)
        self.address = (target.hostname or "127.0.0.1", target.port or 80)
        self.per_call = settings.connections == PER_CALL
        self.payload = payload
        self.tokens = tokens if payload.needs_token else None
        self._parts = []  # before the puid, and after it
        self._id_at = 0  # in the body; 0: the puid ends the target
        headers = f" HTTP/1.1\r\nHost: {target.netloc}\r\nUser-Agent: loadtest\r\nAccept: */*\r\n"
        if self.per_call:
            headers += "Connection: close\r\n"
        for instance in range(len(payload)):
            method, path, body, id_at = payload.template(instance)
            of_body = "Content-Type: application/json\r\nContent-Length: "
            if id_at is not None:
                self._id_at = id_at
                self._parts.append((f"{method} {path}{headers}{of_body}".encode(), body))
                continue
            of_body = f"{of_body}{len(body)}\r\n" if body else ""
            rest = f"{headers}{of_body}\r\n".encode() + body
            self._parts.append((f"{method} {path}".encode(), rest))

    def request(self, instance: int, puid: str, token: str = "") -> bytes:
        before, after = self._parts[instance]
        if not self._id_at:
            return before + puid.encode() + after
        bearer = f"\r\nAuthorization: Bearer {token}" if token else ""
        head = f"{len(after) + len(puid)}{bearer}\r\n\r\n".encode()
        return before + head + after[: self._id_at] + puid.encode() + after[self._id_at :]


class RestConnection:
    """A connection that opens on demand."""

    def __init__(self, requests: RestRequests) -> None:
        """Does not connect."""
        self._requests = requests
        self._socket: socket.socket | None = None

    def open(self) -> None:
        if self._socket is None:
            self._socket = socket.create_connection(self._requests.address, REQUEST_TIMEOUT_S)
            # A request of several segments must not wait for an ACK.
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def predict(self, instance: int, puid: str, intended_ns: int | None = None) -> Outcome:
        """Send one request without retries; a failure is an outcome, not an exception."""
        failure, server, gateway, predicted, server_total_ms = None, None, None, None, None
        payload, tokens = self._requests.payload, self._requests.tokens
        started = time.perf_counter_ns()
        try:
            token = tokens.current() if tokens else ""
            request = self._requests.request(instance, puid, token)
            started = time.perf_counter_ns()
            response = self._exchange(request)
            if response.status_code == UNAUTHORIZED and tokens:
                # Once more with a new token, within the measured time.
                request = self._requests.request(instance, puid, tokens.renew(token))
                response = self._exchange(request)
            timing = response.text_of(answers.SERVER_TIMING)
            server_total_ms = answers.server_total_ms(timing)
            document = answers.from_jsonp(response.status_code, response.body)
            ended = time.perf_counter_ns()
            predicted = payload.judge_document(response.status_code, document, puid)
            server = answers.server_timing(timing)
            gateway = answers.gateway_timing(response.text_of(answers.GATEWAY_TIMING))
        except Exception as error:
            ended = time.perf_counter_ns()
            failure = reason(error)
            if not isinstance(error, InvalidResponse | TokenRefused):
                self.close()
        if self._requests.per_call:
            self.close()
        return Outcome(
            started, ended, failure, server, predicted, gateway, intended_ns, server_total_ms
        )

    def _exchange(self, request: bytes) -> Response:
        self.open()
        assert self._socket is not None  # noqa: S101  # just opened
        self._socket.sendall(request)
        response = Response()
        while not response.message_complete:
            data = self._socket.recv(RECEIVE_BYTES)
            if not data:
                raise ConnectionClosed
            response.feed(data)
        if response.should_close():
            self.close()
        return response


class Response(HTTPResponse):
    """A response, complete once enough data was fed."""

    @property
    def body(self) -> bytes:
        return bytes(self._body_buffer)

    def text_of(self, header: str) -> str | None:
        text = self.get(header)
        return text if isinstance(text, str) else None


def reason(error: Exception) -> str:
    """A short reason, equal for equal causes."""
    match error:
        case InvalidResponse():
            return str(error)
        case TokenRefused():
            return f"no token: {error}"
        case TimeoutError():
            return "timed out"
        case ConnectionRefusedError():
            return "connection refused"
        case ConnectionClosed() | ConnectionError():
            return "connection closed"
        case HTTPParseError():
            return "malformed HTTP response"
        case _:
            return type(error).__name__
