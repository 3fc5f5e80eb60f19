"""Classify, with the values of the same instances.

The calls run in native threads, one per user, and the clock is read there. grpcio's own support
of gevent hands every event of a call to the one event loop: with 50 users that took the 99th
percentile of a server that does nothing from 4 ms to 175.
"""

from __future__ import annotations

import time

import grpc
from gevent.threadpool import ThreadPool  # type: ignore[import-untyped]  # it ships no types
from locust.env import Environment

from loadtest import answers, wire
from loadtest.answers import WrongAnswer
from loadtest.credentials import TokenRefused, TokenSource, fetch_token
from loadtest.locustfiles.load_process import PredictionUser, process
from loadtest.recorder import Outcome
from loadtest.settings import PER_CALL, REQUEST_TIMEOUT_S
from seldon_pb2 import ClassificationReply

REFUSED = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)

settings = process.settings
threads = ThreadPool(-(-settings.users // settings.processes))
tokens = TokenSource(lambda: fetch_token(settings.oauth_endpoint, process.credentials))


class Call:
    """One call, made in a native thread; what it left is read in the user's own."""

    def __init__(self) -> None:
        self.started = 0
        self.ended = 0
        self.reply: ClassificationReply | None = None
        self.server: answers.ServerTiming | None = None
        self.error: Exception | None = None

    def make(self, classify: wire.Classify, request: bytes, token: str) -> None:
        self.started = time.perf_counter_ns()
        try:
            self.reply, call = classify.with_call(
                request, timeout=REQUEST_TIMEOUT_S, metadata=wire.oauth_metadata(token)
            )
            self.ended = time.perf_counter_ns()
            self.server = answers.of_metadata(call.trailing_metadata())
        except Exception as error:
            self.ended = time.perf_counter_ns()
            self.error = error

    def make_on_new_channel(self, request: bytes, token: str) -> None:
        """As the original: the channel is made before the clock starts, and connects after."""
        with wire.new_channel(settings.grpc_endpoint) as channel:
            self.make(wire.classify_on(channel), request, token)

    @property
    def refused(self) -> bool:
        return isinstance(self.error, grpc.RpcError) and self.error.code() in REFUSED


class GrpcUser(PredictionUser):
    request_type = "grpc"
    request_name = "Classify"

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self._classify: wire.Classify | None = None
        if settings.connections != PER_CALL:
            self._channel = wire.new_channel(settings.grpc_endpoint)
            self._classify = wire.classify_on(self._channel)

    def predict(self, instance: int, puid: str) -> Outcome:
        request = wire.with_puid(puid, process.payloads.request_data[instance])
        started = time.perf_counter_ns()
        try:
            token = tokens.current()
            call = self._call(request, token)
            started = call.started
            if call.refused:  # once more with a new token; the clock goes on
                call = self._call(request, tokens.other_than(token))
        except TokenRefused as error:
            return Outcome(started, time.perf_counter_ns(), f"no token: {error}")
        if call.error is not None:
            return Outcome(started, call.ended, reason(call.error))
        try:
            assert call.reply is not None  # noqa: S101
            told = answers.judge(answers.of_reply(call.reply), puid)
        except WrongAnswer as error:
            return Outcome(started, call.ended, str(error))
        return Outcome(started, call.ended, None, call.server, told)

    def _call(self, request: bytes, token: str) -> Call:
        call = Call()
        if self._classify is None:
            threads.apply(call.make_on_new_channel, (request, token))
        else:
            threads.apply(call.make, (self._classify, request, token))
        return call


def reason(error: Exception) -> str:
    """The status code's name, the same for the same cause."""
    return error.code().name if isinstance(error, grpc.RpcError) else type(error).__name__
