"""Locust users over REST."""

from __future__ import annotations

from locust.env import Environment

from loadtest.credentials import TokenSource, fetch_token
from loadtest.locustfiles.load_process import (
    ClosedLoopUser,
    OpenLoopUser,
    in_native_thread,
    process,
)
from loadtest.locustfiles.rest_connection import RestConnection, RestRequests
from loadtest.recorder import Outcome

requests = RestRequests(
    process.settings,
    process.payload,
    TokenSource(lambda: fetch_token(process.settings.oauth_endpoint, process.credentials)),
)
first = process.payload.template(0)
name = first.target.partition("?")[0]


class RestUser(ClosedLoopUser):
    abstract = process.settings.open
    request_type = first.method
    request_name = name

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self._connection = RestConnection(requests)

    def predict(self, instance: int, puid: str) -> Outcome:
        return in_native_thread(self._connection.predict, instance, puid)


class RestSchedule(OpenLoopUser):
    abstract = not process.settings.open
    request_type = first.method
    request_name = name

    def new_connection(self) -> RestConnection:
        return RestConnection(requests)
