"""GET /js/predict, as a browser of the original's demo asks it."""

from __future__ import annotations

import socket

from gevent import monkey  # type: ignore[import-untyped]  # it ships no types
from locust.env import Environment

from loadtest.locustfiles.load_process import (
    ClosedLoopUser,
    OpenLoopUser,
    in_a_thread,
    process,
)
from loadtest.locustfiles.rest_connection import RestConnection, RestRequests
from loadtest.recorder import Outcome

requests = RestRequests(process.settings, process.credentials.js_key, process.payloads)
NativeSocket: type[socket.socket] = monkey.get_original("socket", "socket")


def native_socket(address: tuple[str, int], timeout_s: float) -> socket.socket:
    """One that blocks its thread, not a greenlet."""
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    connection = NativeSocket(family, socket.SOCK_STREAM)
    connection.settimeout(timeout_s)
    connection.connect(address)
    return connection


class RestUser(ClosedLoopUser):
    abstract = process.settings.open
    request_type = "GET"
    request_name = "/js/predict"

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self._connection = RestConnection(requests, native_socket)

    def predict(self, instance: int, puid: str) -> Outcome:
        return in_a_thread(self._connection.predict, instance, puid)


class RestSchedule(OpenLoopUser):
    abstract = not process.settings.open
    request_type = "GET"
    request_name = "/js/predict"

    def new_connection(self) -> RestConnection:
        return RestConnection(requests, native_socket)
