"""A gRPC connection: makes calls and turns replies into outcomes."""

from __future__ import annotations

import time
from typing import Any

import grpc

from loadtest import answers, wire
from loadtest.answers import InvalidResponse
from loadtest.credentials import TokenRefused, TokenSource
from loadtest.payloads import Payload
from loadtest.recorder import Outcome
from loadtest.settings import PER_CALL, REQUEST_TIMEOUT_S, LoadTestSettings

HEALTH = "/grpc.health.v1.Health/Check"
REFUSED = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)


class GrpcConnection:
    """Calls on one channel; with connections per call, each on a channel of its own."""

    def __init__(
        self,
        settings: LoadTestSettings,
        payload: Payload,
        tokens: TokenSource,
        shared: grpc.Channel | None = None,
    ) -> None:
        """Does not connect; without a `shared` channel it creates its own."""
        self._endpoint = settings.grpc_endpoint
        self._payload = payload
        self._tokens = tokens
        self._channel: grpc.Channel | None = None
        self._shared = shared is not None
        self._predict: wire.Predict | None = None
        if settings.connections != PER_CALL:
            self._channel = shared or wire.new_channel(self._endpoint)
            self._predict = wire.predict_on(self._channel, payload)

    def open(self) -> None:
        """Connect with a health check, which any server answers, if only with UNIMPLEMENTED."""
        if self._channel is not None:
            check = self._channel.unary_unary(HEALTH, bytes, bytes)
            check(b"", timeout=REQUEST_TIMEOUT_S, wait_for_ready=True)

    def close(self) -> None:
        if self._channel is not None and not self._shared:
            self._channel.close()

    def predict(self, instance: int, puid: str, intended_ns: int | None = None) -> Outcome:
        """Make one call; a failure is an outcome, not an exception."""
        request = self._payload.message(instance, puid)
        started = time.perf_counter_ns()
        try:
            token = self._tokens.current()
            call = self._call(request, token)
            started = call.started
            if call.refused:  # retry once with a new token, within the measured time
                call = self._call(request, self._tokens.renew(token))
        except TokenRefused as error:
            ended = time.perf_counter_ns()
            return Outcome(started, ended, f"no token: {error}", intended_ns=intended_ns)
        predicted: tuple[int, ...] | None = None
        failure = None if call.error is None else reason(call.error)
        if call.reply is not None:
            try:
                predicted = self._payload.judge_reply(call.reply, puid)
            except InvalidResponse as error:
                failure = str(error)
        return Outcome(
            started,
            call.ended,
            failure,
            call.server if failure is None else None,
            predicted,
            call.gateway if failure is None else None,
            intended_ns,
            call.server_total_ms,
        )

    def _call(self, request: bytes, token: str) -> _Call:
        call = _Call()
        if self._predict is not None:
            call.make(self._predict, request, token)
        else:  # as in the original: the channel connects within the measured time
            with wire.new_channel(self._endpoint) as channel:
                call.make(wire.predict_on(channel, self._payload), request, token)
        return call


class _Call:
    def __init__(self) -> None:
        self.started = 0
        self.ended = 0
        self.reply: Any = None
        self.server: answers.ServerTiming | None = None
        self.gateway: answers.GatewayTiming | None = None
        self.server_total_ms: float | None = None
        self.error: Exception | None = None

    def make(self, predict: wire.Predict, request: bytes, token: str) -> None:
        self.started = time.perf_counter_ns()
        try:
            self.reply, call = predict.with_call(
                request, timeout=REQUEST_TIMEOUT_S, metadata=wire.oauth_metadata(token)
            )
            self.ended = time.perf_counter_ns()
            trailing, initial = call.trailing_metadata(), call.initial_metadata()
            timing = answers.in_metadata(trailing, answers.SERVER_TIMING)
            self.server = answers.server_timing(timing)
            self.server_total_ms = answers.server_total_ms(timing)
            self.gateway = answers.gateway_timing(
                answers.in_metadata(initial, answers.GATEWAY_TIMING)
            )
        except Exception as error:
            self.ended = time.perf_counter_ns()
            self.error = error
            if isinstance(error, grpc.Call):
                timing = answers.in_metadata(error.trailing_metadata(), answers.SERVER_TIMING)
                self.server_total_ms = answers.server_total_ms(timing)

    @property
    def refused(self) -> bool:
        return isinstance(self.error, grpc.RpcError) and self.error.code() in REFUSED


def reason(error: Exception) -> str:
    """A short reason, equal for equal causes."""
    return error.code().name if isinstance(error, grpc.RpcError) else type(error).__name__
