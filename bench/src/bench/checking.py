"""A few predictions, one after the other, and whether they are right."""

import http.client
import time
from collections.abc import Callable

import grpc

from bench.asking import Asking, digit_told
from bench.cases import Way
from bench.errors import BenchError
from loadtest.wire import CHANNEL_OPTIONS

TIMEOUT_S = 10.0
CHECKED = 10  # of each case, before it is measured
LONGEST_SHOWN = 200


class NoAnswer(Exception):
    """No connection, or an answer that says that there will be one later."""


class Caller:
    """One kept connection."""

    def __init__(self, asking: Asking) -> None:
        """Connects with the first request."""
        self._asking = asking
        self._http: http.client.HTTPConnection | None = None
        self._channel: grpc.Channel | None = None
        self._ask = self._over_grpc() if asking.way is Way.GRPC else self._over_http()

    def __enter__(self) -> "Caller":
        return self

    def __exit__(self, *_: object) -> None:
        if self._http is not None:
            self._http.close()
        if self._channel is not None:
            self._channel.close()

    def ask(self, index: int) -> bytes:
        """The answer to request `index`, checked.

        Raises:
            NoAnswer: None yet.
            BenchError: It is refused or wrong.
        """
        body = self._ask(self._asking.bodies[index])
        try:
            told = digit_told(self._asking, body)
        except ValueError as error:
            raise BenchError(f"{self._asking.url} answers {_start(body)}: {error}") from None
        expected = None if self._asking.digits is None else self._asking.digits[index]
        if expected is not None and told != expected:
            raise BenchError(f"{self._asking.url} takes a {expected} for a {told}")
        return body

    def _over_http(self) -> Callable[[bytes], bytes]:
        asking = self._asking
        self._http = connection = http.client.HTTPConnection(asking.host, asking.port, TIMEOUT_S)

        def ask(body: bytes) -> bytes:
            try:
                if asking.way is Way.JSONP:
                    connection.request("GET", body.decode(), headers=dict(asking.headers))
                else:
                    connection.request("POST", asking.path, body, dict(asking.headers))
                answer = connection.getresponse()
                content = answer.read()
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                raise NoAnswer(f"{type(error).__name__}: {error}") from None
            if answer.status in (404, 503):  # of a gateway, or of a model that is still loaded
                raise NoAnswer(f"HTTP status {answer.status}: {_start(content)}")
            if answer.status != 200:
                raise BenchError(
                    f"{asking.url} answers with status {answer.status}: {_start(content)}"
                )
            return content

        return ask

    def _over_grpc(self) -> Callable[[bytes], bytes]:
        asking = self._asking
        self._channel = channel = grpc.insecure_channel(
            f"{asking.host}:{asking.port}", options=CHANNEL_OPTIONS
        )
        call = channel.unary_unary(
            asking.path, request_serializer=bytes, response_deserializer=bytes
        )
        metadata = tuple(asking.headers.items())

        def ask(body: bytes) -> bytes:
            try:
                return bytes(call(body, timeout=TIMEOUT_S, metadata=metadata))
            except grpc.RpcError as error:
                said = f"{error.code().name}: {error.details()}"
                if error.code() is grpc.StatusCode.UNAVAILABLE:
                    raise NoAnswer(said) from None
                raise BenchError(f"{asking.url} answers {said}") from None

        return ask


def first_answer(
    asking: Asking, patience_s: float, still_there: Callable[[], object] = lambda: None
) -> None:
    """Ask until the first right answer.

    Args:
        asking: What and where.
        patience_s: For how long.
        still_there: Called between two tries; raises when there is nobody to wait for.

    Raises:
        BenchError: No right answer within that time.
    """
    deadline = time.monotonic() + patience_s
    while True:
        still_there()
        try:
            # A new connection each time: a gRPC channel that was refused waits for a second.
            with Caller(asking) as caller:
                caller.ask(0)
        except NoAnswer as error:
            if time.monotonic() > deadline:
                raise BenchError(
                    f"{asking.url} gives no prediction within {patience_s:g} s: {error}"
                ) from None
            time.sleep(0.005)
        else:
            return


def check(asking: Asking) -> int:
    """Ask for some predictions, spread over all that will be sent.

    Returns:
        Bytes of an answer.

    Raises:
        BenchError: One is not answered, or wrong.
    """
    step = max(1, len(asking.bodies) // CHECKED)
    try:
        with Caller(asking) as caller:
            sizes = [len(caller.ask(index)) for index in range(0, len(asking.bodies), step)]
    except NoAnswer as error:
        raise BenchError(f"{asking.url} gives no prediction: {error}") from None
    return sizes[0]


def _start(content: bytes) -> str:
    return repr(content[:LONGEST_SHOWN].decode(errors="replace"))
