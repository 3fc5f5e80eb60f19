"""Locust users over gRPC."""

from __future__ import annotations

import itertools

from locust.env import Environment

from loadtest import wire
from loadtest.credentials import TokenSource, fetch_token
from loadtest.locustfiles.grpc_connection import GrpcConnection
from loadtest.locustfiles.load_process import (
    ClosedLoopUser,
    OpenLoopUser,
    in_native_thread,
    process,
)
from loadtest.recorder import Outcome

CHANNELS = 50  # per open-loop process; the gateway allows 100 concurrent streams on each

settings = process.settings
name = process.payload.method.rpartition("/")[2]
tokens = TokenSource(lambda: fetch_token(settings.oauth_endpoint, process.credentials))


class GrpcUser(ClosedLoopUser):
    abstract = settings.open
    request_type = "grpc"
    request_name = name

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self._connection = GrpcConnection(settings, process.payload, tokens)

    def predict(self, instance: int, puid: str) -> Outcome:
        return in_native_thread(self._connection.predict, instance, puid)


class GrpcSchedule(OpenLoopUser):
    abstract = not settings.open
    request_type = "grpc"
    request_name = name

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        # HTTP/2 multiplexing: when a server stalls, a thousand calls share these connections
        # instead of opening a thousand.
        self._channels = itertools.cycle(
            [wire.new_channel(settings.grpc_endpoint) for _ in range(CHANNELS)]
        )

    def new_connection(self) -> GrpcConnection:
        return GrpcConnection(settings, process.payload, tokens, next(self._channels))
