"""The preflight request: one real request that turns set-up problems into one clear error."""

from __future__ import annotations

import grpc
import requests

from loadtest import answers, wire
from loadtest.answers import InvalidResponse
from loadtest.credentials import Credentials, TokenRefused, TokenUnreachable, fetch_token
from loadtest.errors import PreflightFailed
from loadtest.payloads import Payloads
from loadtest.settings import LoadTestSettings

TIMEOUT_S = 2.0
PUID = "preflight"

_START = "check the stack with make status, start it with make deploy"
_REFUSED = (3, 7, 8, 15, 16, 20)  # error ids about keys and tokens
_NO_MODEL = (37, 41)


def check(settings: LoadTestSettings, credentials: Credentials) -> None:
    """Send one request as the load test does.

    Raises:
        PreflightFailed: The response is missing or invalid; the message has the next step.
    """
    if settings.protocol == "rest" and not credentials.js_key:
        raise PreflightFailed(f'the JS key of client "{settings.client}" is missing')
    if settings.protocol == "grpc" and not (credentials.oauth_key and credentials.oauth_secret):
        raise PreflightFailed(f'the OAuth key or secret of client "{settings.client}" is missing')
    sent = settings.build_payloads()
    try:
        if settings.protocol == "rest":
            _check_rest(settings, credentials, sent)
        else:
            _check_grpc(settings, credentials, sent)
    except InvalidResponse as error:
        raise PreflightFailed(
            f"the preflight response of {settings.endpoint} is invalid: {error}"
        ) from error


def _check_rest(settings: LoadTestSettings, credentials: Credentials, sent: Payloads) -> None:
    method, target, body = wire.rest_request(settings.rest_form, credentials.js_key, sent, 0)
    url = f"{settings.host}{target}{PUID}"
    headers = {"Content-Type": "application/json"} if body else {}
    with requests.Session() as session:
        session.trust_env = False  # no proxy
        try:
            answer = session.request(
                method, url, data=body, headers=headers, timeout=TIMEOUT_S, allow_redirects=False
            )
        except requests.Timeout:
            raise PreflightFailed(
                f"{settings.host} did not respond within {TIMEOUT_S:g} s; {_START}"
            ) from None
        except requests.RequestException:
            raise PreflightFailed(
                f"{settings.host} is not reachable; {_START}, or set --host"
            ) from None
    document = answers.from_jsonp(answer.status_code, answer.content)
    if isinstance(document, dict) and "error_id" in document:
        _explain(settings, int(document["error_id"]), str(document.get("error_msg")))
    answers.judge(answers.of_document(answer.status_code, document), PUID, sent.images)


def _explain(settings: LoadTestSettings, error_id: int, message: str) -> None:
    if error_id in _REFUSED:
        raise _refused(settings, message)
    if error_id in _NO_MODEL:
        raise _no_model(settings, message)


def _check_grpc(settings: LoadTestSettings, credentials: Credentials, sent: Payloads) -> None:
    try:
        token, _ = fetch_token(settings.oauth_endpoint, credentials)
    except TokenUnreachable:
        raise PreflightFailed(
            f"{settings.oauth_endpoint}/token is not reachable; {_START}, or set "
            "--seldon-oauth-endpoint"
        ) from None
    except TokenRefused as error:
        raise _refused(settings, str(error)) from None
    request = wire.with_puid(PUID, sent.request_data[0])
    with wire.new_channel(settings.grpc_endpoint) as channel:
        try:
            reply = wire.classify_on(channel)(
                request, timeout=TIMEOUT_S, metadata=wire.oauth_metadata(token)
            )
        except grpc.RpcError as error:
            raise _explained(settings, error) from None
    answers.judge(answers.of_reply(reply), PUID, sent.images)


def _explained(settings: LoadTestSettings, error: grpc.RpcError) -> PreflightFailed:
    code, details = error.code(), " ".join((error.details() or "").split())
    refused = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
    if code in refused:
        return _refused(settings, details)
    if code == grpc.StatusCode.UNAVAILABLE and _not_reached(details):
        return PreflightFailed(
            f"{settings.grpc_endpoint} is not reachable; {_START}, or set --seldon-grpc-endpoint"
        )
    if code == grpc.StatusCode.UNAVAILABLE:
        return _no_model(settings, details)
    if code == grpc.StatusCode.DEADLINE_EXCEEDED:
        return PreflightFailed(
            f"{settings.grpc_endpoint} did not respond within {TIMEOUT_S:g} s; {_START}"
        )
    return PreflightFailed(
        f"the preflight call to {settings.grpc_endpoint} failed with {code.name}: {details}"
    )


def _not_reached(details: str) -> bool:
    """Whether gRPC itself reports a failed connection."""
    return "failed to connect" in details.lower() or "dns resolution" in details.lower()


def _refused(settings: LoadTestSettings, message: str) -> PreflightFailed:
    return PreflightFailed(
        f'the key of client "{settings.client}" was rejected ({message}); '
        f"list the known keys with seldon-cli keys --client-name {settings.client}"
    )


def _no_model(settings: LoadTestSettings, message: str) -> PreflightFailed:
    kind = "rest" if settings.protocol == "rest" else "rpc"
    return PreflightFailed(
        f'no model serves {settings.test_type} for client "{settings.client}" ({message}); '
        f"start one with start-microservice --type prediction --client {settings.client} "
        f"-p NAME FOLDER {kind} 1.0"
    )
