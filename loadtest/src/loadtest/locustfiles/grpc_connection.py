"""One Classify call, made in a native thread, and how its answer becomes an outcome."""

from __future__ import annotations

import time

import grpc

from loadtest import answers, wire
from loadtest.answers import WrongAnswer
from loadtest.credentials import TokenRefused, TokenSource
from loadtest.payloads import Payloads
from loadtest.recorder import Outcome
from loadtest.settings import PER_CALL, REQUEST_TIMEOUT_S, LoadTestSettings
from seldon_pb2 import ClassificationReply

HEALTH = "/grpc.health.v1.Health/Check"
REFUSED = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)


class GrpcConnection:
    """Calls on one channel, so on one connection; or with connections per call, each on its own."""

    def __init__(
        self,
        settings: LoadTestSettings,
        payloads: Payloads,
        tokens: TokenSource,
        shared: grpc.Channel | None = None,
    ) -> None:
        """Nothing is connected yet; without a `shared` channel it has one to itself."""
        self._endpoint = settings.grpc_endpoint
        self._payloads = payloads
        self._tokens = tokens
        self._channel: grpc.Channel | None = None
        self._shared = shared is not None
        self._classify: wire.Classify | None = None
        if settings.connections != PER_CALL:
            self._channel = shared or wire.new_channel(self._endpoint)
            self._classify = wire.classify_on(self._channel)

    def open(self) -> None:
        """Connect: with a call that any server answers, if only by saying that it has no such."""
        if self._channel is not None:
            ask = self._channel.unary_unary(HEALTH, bytes, bytes)
            ask(b"", timeout=REQUEST_TIMEOUT_S, wait_for_ready=True)

    def close(self) -> None:
        if self._channel is not None and not self._shared:
            self._channel.close()

    def predict(self, instance: int, puid: str, intended_ns: int | None = None) -> Outcome:
        """Make one call; every failure is an outcome."""
        request = wire.with_puid(puid, self._payloads.request_data[instance])
        started = time.perf_counter_ns()
        try:
            token = self._tokens.current()
            call = self._call(request, token)
            started = call.started
            if call.refused:  # once more with a new token; the clock goes on
                call = self._call(request, self._tokens.other_than(token))
        except TokenRefused as error:
            ended = time.perf_counter_ns()
            return Outcome(started, ended, f"no token: {error}", intended_ns=intended_ns)
        told: tuple[int, ...] | None = None
        failure = None if call.error is None else reason(call.error)
        if call.reply is not None:
            try:
                told = answers.judge(answers.of_reply(call.reply), puid, self._payloads.images)
            except WrongAnswer as error:
                failure = str(error)
        return Outcome(
            started,
            call.ended,
            failure,
            call.server if failure is None else None,
            told,
            call.gateway if failure is None else None,
            intended_ns,
            call.answered_ms,
        )

    def _call(self, request: bytes, token: str) -> _Call:
        call = _Call()
        if self._classify is not None:
            call.make(self._classify, request, token)
        else:  # as the original: the channel is made before the clock starts, and connects after
            with wire.new_channel(self._endpoint) as channel:
                call.make(wire.classify_on(channel), request, token)
        return call


class _Call:
    def __init__(self) -> None:
        self.started = 0
        self.ended = 0
        self.reply: ClassificationReply | None = None
        self.server: answers.ServerTiming | None = None
        self.gateway: answers.GatewayTiming | None = None
        self.answered_ms: float | None = None
        self.error: Exception | None = None

    def make(self, classify: wire.Classify, request: bytes, token: str) -> None:
        self.started = time.perf_counter_ns()
        try:
            self.reply, call = classify.with_call(
                request, timeout=REQUEST_TIMEOUT_S, metadata=wire.oauth_metadata(token)
            )
            self.ended = time.perf_counter_ns()
            trailing, initial = call.trailing_metadata(), call.initial_metadata()
            timing = answers.in_metadata(trailing, answers.SERVER_TIMING)
            self.server = answers.server_timing(timing)
            self.answered_ms = answers.server_total_ms(timing)
            self.gateway = answers.gateway_timing(
                answers.in_metadata(initial, answers.GATEWAY_TIMING)
            )
        except Exception as error:
            self.ended = time.perf_counter_ns()
            self.error = error
            if isinstance(error, grpc.Call):
                timing = answers.in_metadata(error.trailing_metadata(), answers.SERVER_TIMING)
                self.answered_ms = answers.server_total_ms(timing)

    @property
    def refused(self) -> bool:
        return isinstance(self.error, grpc.RpcError) and self.error.code() in REFUSED


def reason(error: Exception) -> str:
    """The status code's name, the same for the same cause."""
    return error.code().name if isinstance(error, grpc.RpcError) else type(error).__name__
