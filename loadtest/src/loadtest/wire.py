"""How requests are sent: the same by the first request and by every user."""

from __future__ import annotations

from typing import TypeAlias
from urllib.parse import quote

import grpc

from loadtest.answers import CALLBACK
from loadtest.payloads import Payloads
from seldon_pb2 import ClassificationReply, ClassificationRequest

CLASSIFY = "/io.seldon.api.rpc.Seldon/Classify"

# Each channel has its own connection; nothing is sent twice in silence, or through a proxy.
CHANNEL_OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
    ("grpc.enable_http_proxy", 0),
)

Classify: TypeAlias = "grpc.UnaryUnaryMultiCallable[bytes, ClassificationReply]"


def classify_on(channel: grpc.Channel) -> Classify:
    """Classify of requests that are serialised already."""
    return channel.unary_unary(
        CLASSIFY, request_serializer=bytes, response_deserializer=ClassificationReply.FromString
    )


def new_channel(endpoint: str) -> grpc.Channel:
    return grpc.insecure_channel(endpoint, options=CHANNEL_OPTIONS)


def oauth_metadata(token: str) -> tuple[tuple[str, str], ...]:
    return (("oauth_token", token),)


def with_puid(puid: str, request_data: bytes) -> bytes:
    """The serialised request of `request_data` under the name `puid`.

    Fields of a protobuf message may come in any order, so two serialised messages of different
    fields, one after the other, are the message of both.
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
    """One REST request but for its puid, which ends the target.

    Args:
        form: One of REST_FORMS.
        js_key: The client's.
        payloads: What is sent.
        instance: Which of them.

    Returns:
        Method, target and body.
    """
    before, after = rest_path(js_key)
    if form == JSONP_GET:
        return "GET", before + payloads.url_json[instance] + after, b""
    target = before.removesuffix("&json=") + "&puid="
    return "POST", target, payloads.documents[instance].encode()


def rest_path(js_key: str) -> tuple[str, str]:
    """What is asked of REST, but the JSON, which goes between, and the puid, which ends it."""
    key = quote(js_key, safe="")
    return f"/js/predict?consumer_key={key}&json=", f"&jsonpCallback={CALLBACK}&puid="
