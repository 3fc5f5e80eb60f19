"""The preflight request: one real request that turns set-up problems into one clear error."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import grpc
import requests

from loadtest import answers, wire
from loadtest.answers import InvalidResponse
from loadtest.credentials import (
    ALL,
    JS,
    Credentials,
    TokenRefused,
    TokenUnreachable,
    fetch_token,
)
from loadtest.dialects import payload_of
from loadtest.errors import PreflightFailed
from loadtest.payloads import DIGITS
from loadtest.settings import LoadTestSettings
from open_inference_pb2 import ModelMetadataRequest
from open_inference_pb2_grpc import GRPCInferenceServiceStub
from serving_core.protocols.open_inference.client import signature_of
from serving_core.tensors import Signature

TIMEOUT_S = 2.0
PUID = "preflight"

_START = "check the stack with make status, start it with make deploy"
_REFUSED = (3, 7, 8, 15, 16, 20)  # error ids about keys and tokens
_NO_MODEL = (37, 41)


def check(settings: LoadTestSettings, credentials: Credentials) -> Signature | None:
    """Send one request as the load test does.

    Returns:
        The model's signature; None for digits.

    Raises:
        PreflightFailed: The response is missing or invalid; the message has the next step.
        SettingInvalid: The payload does not suit the model.
    """
    if JS in settings.scopes and not credentials.js_key:
        raise PreflightFailed(f'the JS key of client "{settings.client}" is missing')
    token = _token(settings, credentials) if ALL in settings.scopes else ""
    run = _check_rest if settings.protocol == "rest" else _check_grpc
    try:
        return run(settings, credentials, token)
    except InvalidResponse as error:
        raise PreflightFailed(
            f"the preflight response of {settings.endpoint} is invalid: {error}"
        ) from error


def _token(settings: LoadTestSettings, credentials: Credentials) -> str:
    if not (credentials.oauth_key and credentials.oauth_secret):
        raise PreflightFailed(f'the OAuth key or secret of client "{settings.client}" is missing')
    try:
        return fetch_token(settings.oauth_endpoint, credentials)[0]
    except TokenUnreachable:
        raise PreflightFailed(
            f"{settings.oauth_endpoint}/token is not reachable; {_START}, or set "
            "--seldon-oauth-endpoint"
        ) from None
    except TokenRefused as error:
        raise _refused(settings, str(error)) from None


def _check_rest(
    settings: LoadTestSettings, credentials: Credentials, token: str
) -> Signature | None:
    with requests.Session() as session:
        session.trust_env = False  # no proxy
        if token:
            session.headers["Authorization"] = f"Bearer {token}"

        def send(method: str, target: str, body: bytes = b"") -> requests.Response:
            headers = {"Content-Type": "application/json"} if body else {}
            try:
                return session.request(
                    method,
                    f"{settings.host}{target}",
                    data=body,
                    headers=headers,
                    timeout=TIMEOUT_S,
                    allow_redirects=False,
                )
            except requests.Timeout:
                raise PreflightFailed(
                    f"{settings.host} did not respond within {TIMEOUT_S:g} s; {_START}"
                ) from None
            except requests.RequestException:
                raise PreflightFailed(
                    f"{settings.host} is not reachable; {_START}, or set --host"
                ) from None

        signature = None
        if settings.payload != DIGITS:
            answer = send("GET", f"/v2/models/{quote(settings.model_name, safe='')}")
            document = answers.from_jsonp(answer.status_code, answer.content)
            _explain_status(settings, answer.status_code, document)
            signature = _signature(document)
        payload = payload_of(settings, credentials.js_key, signature)
        answer = send(*payload.template(0).completed(PUID))
    document = answers.from_jsonp(answer.status_code, answer.content)
    if isinstance(document, dict) and "error_id" in document:
        _explain(settings, int(document["error_id"]), str(document.get("error_msg")))
    payload.judge_document(answer.status_code, document, PUID)
    return signature


def _explain(settings: LoadTestSettings, error_id: int, message: str) -> None:
    if error_id in _REFUSED:
        raise _refused(settings, message)
    if error_id in _NO_MODEL:
        raise _no_model(settings, message)


def _explain_status(settings: LoadTestSettings, status: int, document: object) -> None:
    """Raise the error of a request for the model's metadata."""
    message = document.get("error") if isinstance(document, dict) else document
    if status in (401, 403):
        raise _refused(settings, str(message))
    if status == 503:
        raise _no_model(settings, str(message))
    if status == 404:
        raise _another_name(str(message))
    if status != 200:
        raise InvalidResponse(f"HTTP status {status}: {message}")


def _signature(metadata: Any) -> Signature:
    try:
        return signature_of(metadata)
    except ValueError as error:
        raise InvalidResponse(str(error)) from None


def _check_grpc(
    settings: LoadTestSettings, credentials: Credentials, token: str
) -> Signature | None:
    how: Any = {"timeout": TIMEOUT_S, "metadata": wire.oauth_metadata(token)}
    signature = None
    with wire.new_channel(settings.grpc_endpoint) as channel:
        try:
            if settings.payload != DIGITS:
                stub = GRPCInferenceServiceStub(channel)
                described = stub.ModelMetadata(
                    ModelMetadataRequest(name=settings.model_name), **how
                )
                signature = _signature(described)
            payload = payload_of(settings, signature=signature)
            reply = wire.predict_on(channel, payload)(payload.message(0, PUID), **how)
        except grpc.RpcError as error:
            raise _explained(settings, error) from None
    payload.judge_reply(reply, PUID)
    return signature


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
    if code == grpc.StatusCode.NOT_FOUND:
        return _another_name(details)
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


def _another_name(message: str) -> PreflightFailed:
    return PreflightFailed(f"{message}; name the model with --model-name or MODEL_NAME=")
