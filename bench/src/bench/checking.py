"""Sends a few requests and checks the predictions."""

import http.client
import time
from collections.abc import Callable

import grpc

from bench.cases import Way
from bench.errors import BenchError
from bench.requesting import RequestSet, predicted_digit
from loadtest.wire import CHANNEL_OPTIONS

TIMEOUT_S = 10.0
CHECKED = 10  # requests checked before each case
LONGEST_SHOWN = 200


class NotAvailable(Exception):
    """The server is not reachable or not ready yet."""


class Caller:
    """A client with one persistent connection."""

    def __init__(self, request_set: RequestSet) -> None:
        """Connects on the first request."""
        self._request_set = request_set
        self._http: http.client.HTTPConnection | None = None
        self._channel: grpc.Channel | None = None
        self._send = self._over_grpc() if request_set.way is Way.GRPC else self._over_http()

    def __enter__(self) -> "Caller":
        return self

    def __exit__(self, *_: object) -> None:
        if self._http is not None:
            self._http.close()
        if self._channel is not None:
            self._channel.close()

    def ask(self, index: int) -> bytes:
        """Send request `index` and check the response.

        Raises:
            NotAvailable: The server is not ready yet.
            BenchError: The response is an error or a wrong prediction.
        """
        body = self._send(self._request_set.bodies[index])
        try:
            predicted = predicted_digit(self._request_set, body)
        except ValueError as error:
            raise BenchError(f"{self._request_set.url} returned {_start(body)}: {error}") from None
        expected = None if self._request_set.digits is None else self._request_set.digits[index]
        if expected is not None and predicted != expected:
            raise BenchError(
                f"the prediction of {self._request_set.url} is {predicted}, expected {expected}"
            )
        return body

    def _over_http(self) -> Callable[[bytes], bytes]:
        request_set = self._request_set
        self._http = connection = http.client.HTTPConnection(
            request_set.host, request_set.port, TIMEOUT_S
        )

        def ask(body: bytes) -> bytes:
            try:
                if request_set.way is Way.JSONP:
                    connection.request("GET", body.decode(), headers=dict(request_set.headers))
                else:
                    connection.request("POST", request_set.path, body, dict(request_set.headers))
                answer = connection.getresponse()
                content = answer.read()
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                raise NotAvailable(f"{type(error).__name__}: {error}") from None
            if answer.status in (404, 503):  # the gateway has no route, or the model is loading
                raise NotAvailable(f"HTTP status {answer.status}: {_start(content)}")
            if answer.status != 200:
                raise BenchError(
                    f"{request_set.url} returned status {answer.status}: {_start(content)}"
                )
            return content

        return ask

    def _over_grpc(self) -> Callable[[bytes], bytes]:
        request_set = self._request_set
        self._channel = channel = grpc.insecure_channel(
            f"{request_set.host}:{request_set.port}", options=CHANNEL_OPTIONS
        )
        call = channel.unary_unary(
            request_set.path, request_serializer=bytes, response_deserializer=bytes
        )
        metadata = tuple(request_set.headers.items())

        def ask(body: bytes) -> bytes:
            try:
                return bytes(call(body, timeout=TIMEOUT_S, metadata=metadata))
            except grpc.RpcError as error:
                status = f"{error.code().name}: {error.details()}"
                if error.code() is grpc.StatusCode.UNAVAILABLE:
                    raise NotAvailable(status) from None
                raise BenchError(f"{request_set.url} returned {status}") from None

        return ask


def wait_until_ready(
    request_set: RequestSet, patience_s: float, still_there: Callable[[], object] = lambda: None
) -> None:
    """Poll until the first correct prediction.

    Args:
        request_set: The requests.
        patience_s: The time limit, seconds.
        still_there: Called before each try; raises if the server has exited.

    Raises:
        BenchError: There is no correct prediction within the time limit.
    """
    deadline = time.monotonic() + patience_s
    while True:
        still_there()
        try:
            # A new connection each time, as a gRPC channel backs off for a second.
            with Caller(request_set) as caller:
                caller.ask(0)
        except NotAvailable as error:
            if time.monotonic() > deadline:
                raise BenchError(
                    f"{request_set.url} returned no prediction within {patience_s:g} s: {error}"
                ) from None
            time.sleep(0.005)
        else:
            return


def check(request_set: RequestSet) -> int:
    """Check a sample of the requests.

    Returns:
        The size of a response, bytes.

    Raises:
        BenchError: A response is missing or wrong.
    """
    step = max(1, len(request_set.bodies) // CHECKED)
    try:
        with Caller(request_set) as caller:
            sizes = [len(caller.ask(index)) for index in range(0, len(request_set.bodies), step)]
    except NotAvailable as error:
        raise BenchError(f"{request_set.url} returned no prediction: {error}") from None
    return sizes[0]


def _start(content: bytes) -> str:
    return repr(content[:LONGEST_SHOWN].decode(errors="replace"))
