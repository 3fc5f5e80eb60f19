"""Clients and strategies become Envoy's routes and clusters. Pure: values in, values out.

A request costs one look-up in a hash map however many clients there are: the virtual host's matcher
maps the path, then the consumer key or the token's subject, to a route.
"""

import json
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from seldon_gateway import api_errors, envoy_headers
from seldon_gateway.api_errors import ApiError
from seldon_gateway.registry import ServedClient
from seldon_gateway.strategies import Endpoint, Protocol, Variation

Json = dict[str, Any]

REST_ROUTES, GRPC_ROUTES = "rest", "grpc"
CONTROL_PLANE = "control_plane"

# Shares are whole numbers to Envoy: a ratio of a millionth still counts.
TOTAL_WEIGHT = 1_000_000

# Envoy's defaults of 1,024 answer 503 under load; these bound memory, not throughput.
_LIMITS = {
    "max_connections": 4096,
    "max_pending_requests": 16384,
    "max_requests": 16384,
    "max_retries": 256,
}
# A model server closes idle connections after a longer time: Envoy must be first.
_IDLE_TIMEOUT = "30s"
_CONNECT_TIMEOUT = "0.5s"
# Few streams on each connection, so that load opens several and they spread over the processes
# that share one port.
_GRPC_STREAMS_PER_CONNECTION = 8

# Microseconds in the gateway before the request went on, and from then to the answer's first byte.
_TIMING = (
    "in=%COMMON_DURATION(DS_RX_BEG:US_TX_BEG:us)%, "
    "upstream=%COMMON_DURATION(US_TX_BEG:US_RX_BEG:us)%"
)

_TYPE = "type.googleapis.com/"
_CHALLENGE = 'Bearer realm="seldon"'


def route_configuration(name: str, clients: Iterable[ServedClient], timeout_s: float) -> Json:
    """The routes of one listener.

    Args:
        name: REST_ROUTES or GRPC_ROUTES.
        clients: Every active client.
        timeout_s: Seconds that a prediction may take.
    """
    matcher = (
        _rest_matcher(clients, timeout_s)
        if name == REST_ROUTES
        else _grpc_matcher(clients, timeout_s)
    )
    return {
        "@type": _TYPE + "envoy.config.route.v3.RouteConfiguration",
        "name": name,
        "virtual_hosts": [{"name": name, "domains": ["*"], "matcher": matcher}],
        # A route may come before its cluster on a first start: that is a 503, not a refusal.
        "validate_clusters": False,
    }


def clusters(clients: Iterable[ServedClient]) -> list[Json]:
    """One cluster for each set of replicas that any client's variations name."""
    wanted: dict[str, Json] = {}
    for client in clients:
        for protocol in ("rest", "grpc"):
            for variation in client.strategy.of(protocol):
                name = cluster_name(protocol, variation.endpoints)
                wanted.setdefault(name, _cluster(name, protocol, variation.endpoints))
    return [wanted[name] for name in sorted(wanted)]


def cluster_name(protocol: Protocol, endpoints: tuple[Endpoint, ...]) -> str:
    """A cluster is named by what it holds, so that it never changes under its name."""
    return f"{protocol}_" + "+".join(str(endpoint) for endpoint in sorted(endpoints))


def referenced_clusters(configuration: Mapping[str, Any]) -> set[str]:
    """The clusters of model servers that a route configuration sends requests to."""
    found: set[str] = set()

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            if "weighted_clusters" in value:
                found.update(c["name"] for c in value["weighted_clusters"]["clusters"])
            for item in value.values():
                walk(item)
        elif isinstance(value, list):
            for item in value:
                walk(item)

    walk(configuration)
    return found


def static_cluster(name: str, endpoints: Collection[Endpoint]) -> Json:
    """A plain HTTP/1.1 cluster that never changes."""
    return {
        "name": name,
        **_discovery(endpoints),
        "connect_timeout": _CONNECT_TIMEOUT,
        "load_assignment": _assignment(name, endpoints),
    }


# Matchers


def _rest_matcher(clients: Iterable[ServedClient], timeout_s: float) -> Json:
    by_js_key: dict[str, Json] = {}
    by_all_key: dict[str, Json] = {}
    for client in clients:
        action = _client_action(client, "rest", timeout_s)
        by_js_key.update(dict.fromkeys(client.js_keys, action))
        by_all_key.update(dict.fromkeys(client.all_keys, action))
    control_plane = _action(
        {"match": {"prefix": "/"}, "route": {"cluster": CONTROL_PLANE, "timeout": "5s"}}
    )
    ready = _action(
        {
            "match": {"prefix": "/"},
            "direct_response": {"status": 200, "body": {"inline_string": '{"status": "ready"}'}},
            "response_headers_to_add": [_header("content-type", "application/json")],
        }
    )
    paths = {
        envoy_headers.JS_PREDICT: _by_header(envoy_headers.CONSUMER_KEY, by_js_key, _js_refusal()),
        envoy_headers.PREDICT: _by_header(
            envoy_headers.SUBJECT, by_all_key, _refusal(api_errors.NOT_AUTHORIZED, challenge=True)
        ),
        "/token": control_plane,
        "/version": control_plane,
        "/.well-known/jwks.json": control_plane,
        "/health/live": ready,
        "/health/ready": ready,
    }
    return _by_header(envoy_headers.PATH, paths, _refusal(api_errors.NOT_FOUND))["matcher"]  # type: ignore[no-any-return]


def _grpc_matcher(clients: Iterable[ServedClient], timeout_s: float) -> Json:
    by_all_key: dict[str, Json] = {}
    for client in clients:
        action = _client_action(client, "grpc", timeout_s)
        by_all_key.update(dict.fromkeys(client.all_keys, action))
    classify = _by_header(envoy_headers.SUBJECT, by_all_key, _refusal(api_errors.NOT_AUTHORIZED))
    paths = {envoy_headers.CLASSIFY: classify}
    return _by_header(":path", paths, _refusal(api_errors.NOT_FOUND))["matcher"]  # type: ignore[no-any-return]


def _by_header(header: str, actions: dict[str, Json], otherwise: Json) -> Json:
    """One look-up of a header's value; Envoy refuses an empty map."""
    if not actions:
        return otherwise
    return {
        "matcher": {
            "matcher_tree": {
                "input": _header_input(header),
                "exact_match_map": {"map": actions},
            },
            "on_no_match": otherwise,
        }
    }


def _js_refusal() -> Json:
    """No client has the key: is there a key at all, and does a script wait for the answer?"""
    return _if_header(
        envoy_headers.CALLBACK,
        envoy_headers.CALLBACK_FORM,
        _if_header(
            envoy_headers.CONSUMER_KEY,
            ".+",
            _refusal(api_errors.NOT_AUTHORIZED, legacy=True),
            _refusal(api_errors.KEY_MISSING, legacy=True),
        ),
        _if_header(
            envoy_headers.CONSUMER_KEY,
            ".+",
            _refusal(api_errors.NOT_AUTHORIZED, challenge=True),
            _refusal(api_errors.KEY_MISSING, challenge=True),
        ),
    )


def _if_header(header: str, form: str, then: Json, otherwise: Json) -> Json:
    return {
        "matcher": {
            "matcher_list": {
                "matchers": [
                    {
                        "predicate": {
                            "single_predicate": {
                                "input": _header_input(header),
                                "value_match": {"safe_regex": {"google_re2": {}, "regex": form}},
                            }
                        },
                        "on_match": then,
                    }
                ]
            },
            "on_no_match": otherwise,
        }
    }


def _header_input(header: str) -> Json:
    return {
        "name": "header",
        "typed_config": {
            "@type": _TYPE + "envoy.type.matcher.v3.HttpRequestHeaderMatchInput",
            "header_name": header,
        },
    }


# Actions


def _client_action(client: ServedClient, protocol: Protocol, timeout_s: float) -> Json:
    variations = client.strategy.of(protocol)
    if not variations:
        return _refusal(api_errors.NO_STRATEGY)
    timeout = f"{timeout_s:g}s"
    route: Json = {
        "weighted_clusters": {"clusters": _weighted(variations, protocol)},
        "timeout": timeout,
        # A prediction is pure: to ask again when a server died under it is safe.
        "retry_policy": {
            "retry_on": "connect-failure,refused-stream,reset",
            "num_retries": 2,
            # Not where it died, while there is another replica.
            "retry_host_predicate": [
                {
                    "name": "envoy.retry_host_predicates.previous_hosts",
                    "typed_config": {
                        "@type": _TYPE
                        + "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
                    },
                }
            ],
            "host_selection_retry_max_attempts": 5,
            "retry_back_off": {"base_interval": "0.025s", "max_interval": "0.25s"},
        },
    }
    if protocol == "grpc":
        # The caller's own deadline counts where it is shorter.
        route["max_stream_duration"] = {"grpc_timeout_header_max": timeout}
    return _action(
        {
            "match": {"prefix": "/"},
            "route": route,
            "request_headers_to_add": [_header(envoy_headers.CLIENT, client.name)],
            "request_headers_to_remove": list(envoy_headers.CREDENTIALS),
            "response_headers_to_add": [_header(envoy_headers.TIMING, _TIMING)],
        }
    )


def _weighted(variations: tuple[Variation, ...], protocol: Protocol) -> list[Json]:
    return [
        {
            "name": cluster_name(protocol, variation.endpoints),
            "weight": max(1, round(variation.ratio * TOTAL_WEIGHT)),
            "request_headers_to_add": [_header(envoy_headers.VARIATION, variation.label)],
        }
        for variation in variations
    ]


def _refusal(error: ApiError, *, challenge: bool = False, legacy: bool = False) -> Json:
    headers = [_header("content-type", "application/json")]
    if challenge:
        headers.append(_header("www-authenticate", _CHALLENGE))
    body = json.dumps(error.document(legacy=legacy))
    return _action(
        {
            "match": {"prefix": "/"},
            "direct_response": {"status": error.status, "body": {"inline_string": body}},
            "response_headers_to_add": headers,
        }
    )


def _action(route: Json) -> Json:
    return {
        "action": {
            "name": "route",
            "typed_config": {"@type": _TYPE + "envoy.config.route.v3.Route", **route},
        }
    }


def _header(name: str, value: str) -> Json:
    return {
        "header": {"key": name, "value": value},
        "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
    }


# Clusters


def _cluster(name: str, protocol: str, endpoints: tuple[Endpoint, ...]) -> Json:
    protocol_options: Json = (
        {"http_protocol_options": {}}
        if protocol == "rest"
        else {
            "http2_protocol_options": {
                "max_concurrent_streams": _GRPC_STREAMS_PER_CONNECTION,
                "initial_stream_window_size": 65536,
                "initial_connection_window_size": 1048576,
            }
        }
    )
    cluster: Json = {
        "@type": _TYPE + "envoy.config.cluster.v3.Cluster",
        "name": name,
        # Envoy takes what follows a dot in a cluster's name for the name of the statistic.
        "alt_stat_name": re.sub(r"\W", "_", name),
        **_discovery(endpoints),
        "connect_timeout": _CONNECT_TIMEOUT,
        "lb_policy": "LEAST_REQUEST",
        "load_assignment": _assignment(name, endpoints),
        "circuit_breakers": {"thresholds": [_LIMITS]},
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": _TYPE + "envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "common_http_protocol_options": {"idle_timeout": _IDLE_TIMEOUT},
                "explicit_http_config": protocol_options,
            }
        },
    }
    if len(endpoints) > 1:
        # With one replica there is nowhere else to go.
        cluster["outlier_detection"] = {
            "consecutive_gateway_failure": 3,
            "consecutive_5xx": 1000,
            "interval": "1s",
            "base_ejection_time": "2s",
            "max_ejection_percent": 50,
        }
    return cluster


def _assignment(name: str, endpoints: Iterable[Endpoint]) -> Json:
    return {
        "cluster_name": name,
        "endpoints": [
            {
                "lb_endpoints": [
                    {
                        "endpoint": {
                            "address": {
                                "socket_address": {
                                    "address": endpoint.host.strip("[]"),
                                    "port_value": endpoint.port,
                                }
                            }
                        }
                    }
                    for endpoint in endpoints
                ]
            }
        ],
    }


def _discovery(endpoints: Iterable[Endpoint]) -> Json:
    if all(_is_address(endpoint.host) for endpoint in endpoints):
        return {"type": "STATIC"}
    # By default Envoy tries nothing but IPv6 where a name has both; our servers listen on 0.0.0.0.
    return {"type": "STRICT_DNS", "dns_lookup_family": "V4_PREFERRED"}


def _is_address(host: str) -> bool:
    return host.startswith("[") or host.replace(".", "").isdigit()
