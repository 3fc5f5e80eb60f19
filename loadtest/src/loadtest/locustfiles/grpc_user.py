"""Classify, with the values of the same instances."""

from __future__ import annotations

from gevent import monkey  # type: ignore[import-untyped]  # it ships no types
from locust.env import Environment

from loadtest.credentials import TokenSource, fetch_token
from loadtest.locustfiles.grpc_connection import GrpcConnection
from loadtest.locustfiles.load_process import (
    ClosedLoopUser,
    OpenLoopUser,
    in_a_thread,
    process,
)
from loadtest.recorder import Outcome

settings = process.settings
tokens = TokenSource(
    lambda: fetch_token(settings.oauth_endpoint, process.credentials),
    # One that native threads may wait for, too.
    lock=monkey.get_original("threading", "Lock")(),
)


def new_connection() -> GrpcConnection:
    return GrpcConnection(settings, process.payloads, tokens)


class GrpcUser(ClosedLoopUser):
    abstract = settings.open
    request_type = "grpc"
    request_name = "Classify"

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self._connection = new_connection()

    def predict(self, instance: int, puid: str) -> Outcome:
        return in_a_thread(self._connection.predict, instance, puid)


class GrpcSchedule(OpenLoopUser):
    abstract = not settings.open
    request_type = "grpc"
    request_name = "Classify"

    def new_connection(self) -> GrpcConnection:
        return new_connection()
