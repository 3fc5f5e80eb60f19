"""Requests on the wire, shared by the preflight request and the users.

Its Seldon protocol is that of the original's client.
"""

from __future__ import annotations

from typing import Any, TypeAlias
from urllib.parse import quote

import grpc

from loadtest.answers import CALLBACK
from loadtest.payloads import Payload, Payloads
from seldon_pb2 import ClassificationRequest

CLASSIFY = "/io.seldon.api.rpc.Seldon/Classify"

# A connection per channel, no transparent retries, no proxy.
CHANNEL_OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
    ("grpc.enable_http_proxy", 0),
)

Predict: TypeAlias = "grpc.UnaryUnaryMultiCallable[bytes, Any]"


def predict_on(channel: grpc.Channel, payload: Payload) -> Predict:
    """The payload's method for serialised requests."""
    return channel.unary_unary(
        payload.method, request_serializer=bytes, response_deserializer=payload.reply
    )


def new_channel(endpoint: str) -> grpc.Channel:
    return grpc.insecure_channel(endpoint, options=CHANNEL_OPTIONS)


def oauth_metadata(token: str) -> tuple[tuple[str, str], ...]:
    return (("oauth_token", token),) if token else ()


def with_puid(puid: str, request_data: bytes) -> bytes:
    """Add `puid` to a serialised request.

    Protobuf fields may come in any order, so two concatenated messages with different fields are
    one message with both.
    """
    request = ClassificationRequest()
    request.meta.puid = puid
    return request.SerializeToString() + request_data


JSONP_GET = "jsonp-get"
JSON_POST = "json-post"
REST_FORMS = (JSONP_GET, JSON_POST)


def rest_request(
    form: str, js_key: str, payloads: Payloads, instance: int
) -> tuple[str, str, bytes]:
    """One REST request without its puid, which the caller appends to the target.

    Args:
        form: One of REST_FORMS.
        js_key: The client's key.
        payloads: The instances.
        instance: The index of the instance.

    Returns:
        Method, target and body.
    """
    before, after = rest_path(js_key)
    if form == JSONP_GET:
        return "GET", before + payloads.url_json[instance] + after, b""
    target = before.removesuffix("&json=") + "&puid="
    return "POST", target, payloads.documents[instance].encode()


def rest_path(js_key: str) -> tuple[str, str]:
    """The JSONP path before the JSON, and the path after it up to the puid."""
    key = quote(js_key, safe="")
    return f"/js/predict?consumer_key={key}&json=", f"&jsonpCallback={CALLBACK}&puid="
