"""A client's keys and access tokens."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

from loadtest.errors import CredentialsMissing

JS_KEY = "SELDON_JS_KEY"
OAUTH_KEY = "SELDON_OAUTH_KEY"
OAUTH_SECRET = "SELDON_OAUTH_SECRET"  # noqa: S105 - the variable's name
VARIABLES = (JS_KEY, OAUTH_KEY, OAUTH_SECRET)
JS, ALL = "js", "all"  # scopes: of JSONP requests, and of access tokens
NO_GATEWAY = "none"  # in place of a token endpoint

CLI_TIMEOUT_S = 30.0
TOKEN_TIMEOUT_S = 2.0
REFRESH_AHEAD_S = 60.0
RETRY_S = 5.0


@dataclass(frozen=True)
class Credentials:
    """The keys of one client; never printed or stored."""

    js_key: str = field(default="", repr=False)
    oauth_key: str = field(default="", repr=False)
    oauth_secret: str = field(default="", repr=False)

    def environment(self) -> dict[str, str]:
        """Variables for a Locust process, as other users can read command lines."""
        return {
            JS_KEY: self.js_key,
            OAUTH_KEY: self.oauth_key,
            OAUTH_SECRET: self.oauth_secret,
        }

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Credentials:
        return cls(*(environ.get(variable, "") for variable in VARIABLES))


def load(
    client: str,
    scopes: Collection[str] = (JS, ALL),
    environ: Mapping[str, str] = os.environ,
) -> Credentials:
    """The keys of `client`: from the environment, else from `seldon-cli keys`.

    Args:
        client: The client's name.
        scopes: JS needs the JS key, ALL the OAuth key and secret.
        environ: SELDON_JS_KEY, SELDON_OAUTH_KEY and SELDON_OAUTH_SECRET override the command.

    Raises:
        CredentialsMissing: A key or secret is unknown on this machine.
    """
    found = Credentials.from_environment(environ)
    js_key, oauth_key, oauth_secret = found.js_key, found.oauth_key, found.oauth_secret
    if JS in scopes and not js_key:
        js_key = _key_of(client, JS, environ)["key"]
    if ALL in scopes and not (oauth_key and oauth_secret):
        row = _key_of(client, ALL, environ)
        oauth_key, oauth_secret = row["key"], row.get("secret") or ""
        if not oauth_secret:
            raise CredentialsMissing(
                f'the secret of client "{client}" is not on this machine; '
                f"set {OAUTH_KEY} and {OAUTH_SECRET}, or create a secret with seldon-cli keys "
                f"--action update --client-name {client} --scope all --key KEY --secret SECRET"
            )
    return Credentials(js_key, oauth_key, oauth_secret)


def _key_of(client: str, scope: str, environ: Mapping[str, str]) -> dict[str, Any]:
    rows = _seldon_cli(client, scope, environ)
    usable = [row for row in rows if row.get("key") and row.get("active", True)]
    if not usable:
        raise CredentialsMissing(
            f'client "{client}" has no active key of scope {scope}; create one with '
            f"seldon-cli client --action setup --db-name ClientDB --client-name {client}"
        )
    return usable[0]


def _seldon_cli(client: str, scope: str, environ: Mapping[str, str]) -> list[dict[str, Any]]:
    beside = Path(sys.executable).with_name("seldon-cli")
    program = (
        str(beside) if beside.exists() else shutil.which("seldon-cli", path=environ.get("PATH"))
    )
    if program is None:
        raise CredentialsMissing(
            f"seldon-cli is not installed; set {', '.join(VARIABLES)} in the environment"
        )
    command = [program, "--quiet", "keys", "--client-name", client, "--scope", scope]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=CLI_TIMEOUT_S,
            env=dict(environ),
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CredentialsMissing(f"seldon-cli keys failed: {error}") from error
    if done.returncode != 0:
        reason = " ".join(done.stderr.split()).removeprefix("error: ")
        raise CredentialsMissing(
            f'the keys of client "{client}" are not readable: {reason or "seldon-cli failed"}; '
            "list the clients with seldon-cli client --action list, add one with "
            f"seldon-cli client --action setup --db-name ClientDB --client-name {client}"
        )
    try:
        rows = json.loads(done.stdout)
        return [row for row in rows if isinstance(row, dict)]
    except (ValueError, TypeError) as error:
        raise CredentialsMissing(
            f"the output of seldon-cli keys is not a JSON array: {error}"
        ) from error


class TokenRefused(Exception):
    """There is no token; `str(error)` says why, without key or secret."""


class TokenUnreachable(TokenRefused):
    """The token endpoint is not reachable."""


def fetch_token(endpoint: str, credentials: Credentials) -> tuple[str, float]:
    """Fetch an access token and its lifetime in seconds; none is needed without a gateway.

    Raises:
        TokenUnreachable: The endpoint is not reachable.
        TokenRefused: The response has no token.
    """
    if endpoint == NO_GATEWAY:
        return "", math.inf
    with requests.Session() as session:
        session.trust_env = False  # a proxy would be measured too
        try:
            answer = session.get(
                f"{endpoint}/token",
                params={
                    "consumer_key": credentials.oauth_key,
                    "consumer_secret": credentials.oauth_secret,
                },
                timeout=TOKEN_TIMEOUT_S,
            )
        except requests.RequestException as error:
            # Its text holds the URL, and so the secret.
            raise TokenUnreachable(f"not reachable ({type(error).__name__})") from None
    try:
        document = answer.json()
    except ValueError:
        raise TokenRefused(f"HTTP status {answer.status_code} without JSON") from None
    try:
        return str(document["access_token"]), float(document.get("expires_in", 6000))
    except (KeyError, TypeError, ValueError, AttributeError):
        reason = document.get("error_msg") if isinstance(document, dict) else None
        raise TokenRefused(reason or f"HTTP status {answer.status_code} without a token") from None


class TokenSource:
    """Caches a token; fetches another when it is rejected or about to expire."""

    def __init__(
        self,
        fetch: Callable[[], tuple[str, float]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`fetch` returns a token and its lifetime in seconds."""
        self._fetch = fetch
        self._clock = clock
        self._lock = threading.Lock()
        self._token: str | None = None
        self._refresh_at = 0.0

    def current(self) -> str:
        """A valid token; while one caller fetches, others get the previous one.

        Raises:
            TokenRefused: There is no token.
        """
        token = self._token
        if token is not None and self._clock() < self._refresh_at:
            return token
        if token is None:
            return self.renew(None)
        if self._lock.locked():
            return token
        try:
            return self.renew(token)
        except TokenRefused:
            self._refresh_at = self._clock() + RETRY_S  # the current one has not expired yet
            return token

    def renew(self, refused: str | None) -> str:
        """Replace the `refused` token, unless another caller already did."""
        with self._lock:
            if self._token is None or self._token == refused:
                self._token, life_s = self._fetch()
                self._refresh_at = self._clock() + max(life_s - REFRESH_AHEAD_S, life_s / 2)
            return self._token
