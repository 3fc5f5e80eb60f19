"""Locust users for /js/predict."""

from __future__ import annotations

from locust.env import Environment

from loadtest.locustfiles.load_process import (
    ClosedLoopUser,
    OpenLoopUser,
    in_native_thread,
    process,
)
from loadtest.locustfiles.rest_connection import RestConnection, RestRequests
from loadtest.recorder import Outcome

requests = RestRequests(process.settings, process.credentials.js_key, process.payloads)


class RestUser(ClosedLoopUser):
    abstract = process.settings.open
    request_type = "GET"
    request_name = "/js/predict"

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self._connection = RestConnection(requests)

    def predict(self, instance: int, puid: str) -> Outcome:
        return in_native_thread(self._connection.predict, instance, puid)


class RestSchedule(OpenLoopUser):
    abstract = not process.settings.open
    request_type = "GET"
    request_name = "/js/predict"

    def new_connection(self) -> RestConnection:
        return RestConnection(requests)
