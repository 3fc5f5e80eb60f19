"""A null upstream: an Envoy with direct responses, to measure a gateway alone."""

import base64
import json
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

from google.protobuf.json_format import MessageToDict

from bench.servers import HOST, Plan, Ports
from loadtest.answers import CLASSES
from seldon_gateway.processes import envoy_binary
from seldon_gateway.settings import GatewaySettings
from seldon_pb2 import ClassificationReply, ClassificationReplyMeta, ClassificationResult

Json = dict[str, Any]

_KIND = "type.googleapis.com/envoy.extensions.filters"
_PLAIN = "application/x-protobuf"


def plan(ports: Ports, digit: int, threads: int, folder: Path) -> Plan:
    """Respond with the prediction `digit`, in the servers' format and size, on their ports.

    Raises:
        EnvoyMissing: Envoy is not installed.
    """
    configuration = folder / "null-upstream.json"
    configuration.write_text(json.dumps(_bootstrap(ports, digit, folder / "null-upstream")))
    return Plan(command(configuration, threads), dict(os.environ), ports.rest)


def command(configuration: Path, threads: int) -> tuple[str, ...]:
    """The command of an Envoy with a static configuration.

    Raises:
        EnvoyMissing: Envoy is not installed.
    """
    binary = envoy_binary(GatewaySettings.from_env(os.environ))
    own = ("--disable-hot-restart", "--log-level", "error", "--use-dynamic-base-id")
    return (str(binary), "--config-path", str(configuration), "--concurrency", str(threads), *own)


def answering(name: str, address: Json, body: bytes, content_type: str) -> Json:
    """A listener that responds to every request with `body`."""
    answer = {
        "match": {"prefix": "/"},
        "direct_response": {
            "status": 200,
            "body": {"inline_bytes": base64.b64encode(body).decode()},
        },
        "response_headers_to_add": [
            {
                "header": {"key": "content-type", "value": content_type},
                "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
            }
        ],
    }
    return _listener(name, address, answer)


def socket_address(host: str, port: int) -> Json:
    """An Envoy socket address."""
    return {"socket_address": {"address": host, "port_value": port}}


def _bootstrap(ports: Ports, digit: int, pipe: Path) -> Json:
    scores = [0.91 if label == CLASSES[digit] else 0.01 for label in CLASSES]
    reply = ClassificationReply(
        meta=ClassificationReplyMeta(
            puid="0" * 26, modelName="tensorflow-deep-mnist", variation="default"
        ),
        predictions=[
            ClassificationResult(prediction=score, predictedClass=label, confidence=score)
            for label, score in zip(CLASSES, scores, strict=True)
        ],
    )
    document = MessageToDict(reply, preserving_proto_field_name=True) | {"custom": None}
    # Envoy's direct responses to gRPC requests are always errors. So the gRPC listener forwards to
    # a plain one over a Unix socket, and the bridge filter turns its response into a gRPC message.
    bridge = {
        "name": "envoy.filters.http.grpc_http1_reverse_bridge",
        "typed_config": {
            "@type": f"{_KIND}.http.grpc_http1_reverse_bridge.v3.FilterConfig",
            "content_type": _PLAIN,
            "withhold_grpc_frames": True,
        },
    }
    to_plain = {"match": {"prefix": "/"}, "route": {"cluster": "plain"}}
    return {
        "static_resources": {
            "listeners": [
                answering(
                    "rest",
                    socket_address(HOST, ports.rest),
                    json.dumps(document).encode(),
                    "application/json",
                ),
                _listener("grpc", socket_address(HOST, ports.grpc), to_plain, [bridge]),
                answering(
                    "plain", {"pipe": {"path": str(pipe)}}, reply.SerializeToString(), _PLAIN
                ),
            ],
            "clusters": [
                {
                    "name": "plain",
                    "type": "STATIC",
                    "load_assignment": {
                        "cluster_name": "plain",
                        "endpoints": [
                            {
                                "lb_endpoints": [
                                    {"endpoint": {"address": {"pipe": {"path": str(pipe)}}}}
                                ]
                            }
                        ],
                    },
                }
            ],
        }
    }


def _listener(name: str, address: Json, route: Json, filters: Collection[Json] = ()) -> Json:
    manager = {
        "@type": f"{_KIND}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        "route_config": {"virtual_hosts": [{"name": name, "domains": ["*"], "routes": [route]}]},
        "http_filters": [
            *filters,
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{_KIND}.http.router.v3.Router"},
            },
        ],
    }
    connections = {
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": manager,
    }
    return {"name": name, "address": address, "filter_chains": [{"filters": [connections]}]}
