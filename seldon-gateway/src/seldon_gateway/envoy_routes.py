"""Envoy's routes and clusters from clients and strategies. Pure.

A request costs one look-up in a hash map however many clients there are: the virtual host's matcher
maps the path, then the consumer key or the token's subject, to a route.
"""

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Any

import orjson

from seldon_gateway import api_errors, api_paths, envoy_headers, limits
from seldon_gateway.api_errors import ApiError
from seldon_gateway.envoy_replies import CHALLENGE
from seldon_gateway.registry import ServedClient
from seldon_gateway.strategies import Endpoint, Protocol, Variation

Json = dict[str, Any]

REST_ROUTES, GRPC_ROUTES = "rest", "grpc"
PROTOCOLS: tuple[Protocol, ...] = ("rest", "grpc")
CONTROL_PLANE = "control_plane"
# Not "grpc_": dashboards and rules take that for model servers.
GRPC_HEALTH = "health_check"
# Names of filters in the bootstrap that a route or virtual host configures.
HEALTH_FILTERS = ("envoy.filters.http.lua", "envoy.filters.http.grpc_http1_reverse_bridge")
CORS_FILTER = "envoy.filters.http.cors"

# Envoy's weights are integers: the smallest ratio is one millionth.
TOTAL_WEIGHT = 1_000_000

# Envoy's default of 1,024 overflows under load (503); these bound memory, not throughput.
_LIMITS = {
    "max_connections": 4096,
    "max_pending_requests": 16384,
    "max_requests": 16384,
    "max_retries": 256,
}
# Shorter than the idle timeout of the model servers, so that Envoy closes first.
_CONTROL_PLANE_TIMEOUT = f"{limits.CONTROL_PLANE_TIMEOUT_S}s"
_IDLE_TIMEOUT = "30s"
_CONNECT_TIMEOUT = "0.5s"
# Few streams per connection, so that load opens several connections, which spread over the
# processes that share one port.
_GRPC_STREAMS_PER_CONNECTION = 8

# Microseconds in the gateway before the upstream request, and then to the first response byte.
_TIMING = (
    "in=%COMMON_DURATION(DS_RX_BEG:US_TX_BEG:us)%, "
    "upstream=%COMMON_DURATION(US_TX_BEG:US_RX_BEG:us)%"
)

_TYPE = "type.googleapis.com/"
_OVERWRITE = 2  # OVERWRITE_IF_EXISTS_OR_ADD: by number, since it stands twice with every key


class Table(StrEnum):
    """One of Envoy's match maps, from a consumer key to a client's route."""

    JS_KEYS = REST_ROUTES + "-js"
    ALL_KEYS = REST_ROUTES
    GRPC = GRPC_ROUTES


TABLES: dict[str, tuple[Table, ...]] = {
    REST_ROUTES: (Table.JS_KEYS, Table.ALL_KEYS),
    GRPC_ROUTES: (Table.GRPC,),
}


@dataclass(frozen=True, slots=True)
class ClientRoutes:
    """One client's entries in the match maps.

    Attributes:
        entries: For each map, JSON of the client's entries without braces; "" for none.
        clusters: For REST_ROUTES and GRPC_ROUTES, the clusters that the entries send to.
    """

    entries: Mapping[Table, bytes]
    clusters: Mapping[str, frozenset[str]]


def client_routes(client: ServedClient, timeout_s: float) -> ClientRoutes:
    """One client's entries in each map.

    Args:
        client: An active one.
        timeout_s: Seconds that a prediction may take.
    """
    clusters: dict[str, frozenset[str]] = {}
    actions: dict[str, bytes] = {}
    for routes, protocol in zip((REST_ROUTES, GRPC_ROUTES), PROTOCOLS, strict=True):
        action = _action_of(client.strategy.of(protocol), protocol, timeout_s)
        clusters[routes] = action.clusters
        actions[routes] = client.name.encode().join(action.around_name)
    keys = {
        Table.JS_KEYS: (client.js_keys, REST_ROUTES),
        Table.ALL_KEYS: (client.all_keys, REST_ROUTES),
        Table.GRPC: (client.all_keys, GRPC_ROUTES),
    }
    return ClientRoutes(
        {
            table: b",".join(b'"%s":%s' % (key.encode(), actions[routes]) for key in of_client)
            for table, (of_client, routes) in keys.items()
        },
        clusters,
    )


def route_configuration(
    name: str, clients: Iterable[ClientRoutes], cors_origins: tuple[str, ...] = ()
) -> bytes:
    """The routes of one listener, as JSON.

    Args:
        name: REST_ROUTES or GRPC_ROUTES.
        clients: Entries of every active client; their order is that of the output.
        cors_origins: Origins whose scripts may send requests, exact or "*".
    """
    clients = list(clients)
    entries = {
        table: b",".join(filter(None, (client.entries[table] for client in clients)))
        for table in TABLES[name]
    }
    filled = frozenset(table for table, text in entries.items() if text)
    parts: list[bytes] = []
    for part in _around_entries(name, filled, cors_origins):
        parts.append(entries[part] if isinstance(part, Table) else part)
    return b"".join(parts)


def clusters(client: ServedClient) -> dict[str, Json]:
    """One cluster, by name, for each set of replicas that a client's variations name."""
    return {
        name: cluster
        for protocol in PROTOCOLS
        for name, cluster in _clusters_of(client.strategy.of(protocol), protocol).items()
    }


def cluster_name(protocol: Protocol, endpoints: tuple[Endpoint, ...]) -> str:
    """A cluster is named by what it holds, so that it never changes under its name."""
    return f"{protocol}_" + "+".join(str(endpoint) for endpoint in sorted(endpoints))


def static_cluster(name: str, endpoints: Collection[Endpoint]) -> Json:
    """A plain HTTP/1.1 cluster that never changes."""
    return {
        "name": name,
        **_discovery(endpoints),
        "connect_timeout": _CONNECT_TIMEOUT,
        "load_assignment": _assignment(name, endpoints),
    }


# Matchers


# Placeholders for a client's name and a map's entries: neither names nor keys have braces.
_NAME = "{client}"
_ENTRIES = "{%s}"


@lru_cache
def _around_entries(
    name: str, filled: frozenset[Table], cors_origins: tuple[str, ...]
) -> tuple[bytes | Table, ...]:
    """A route configuration as JSON, with gaps for the entries of the maps that have any."""
    text = orjson.dumps(_document(name, filled, cors_origins)).decode()
    parts: list[bytes | Table] = []
    for table in sorted(filled, key=lambda table: text.index(_gap(table))):
        before, text = text.split(_gap(table))
        parts += [before.encode(), table]
    return (*parts, text.encode())


def _gap(table: Table) -> str:
    return orjson.dumps({_ENTRIES % table: None}).decode()[1:-1]


def _document(name: str, filled: frozenset[Table], cors_origins: tuple[str, ...]) -> Json:
    maps = {table: {_ENTRIES % table: None} if table in filled else {} for table in TABLES[name]}
    host: Json = {
        "name": name,
        "domains": ["*"],
        # Once here instead of with every key: Envoy parses many clients much faster.
        "retry_policy": _RETRIES,
        "request_headers_to_remove": list(envoy_headers.CREDENTIALS),
        "response_headers_to_add": [_header(envoy_headers.TIMING, _TIMING)],
    }
    if name == GRPC_ROUTES:
        host["matcher"] = _grpc_matcher(maps)
    else:
        host["matcher"] = _rest_matcher(maps, cors=bool(cors_origins))
        if cors_origins:
            host["typed_per_filter_config"] = {CORS_FILTER: _cors_policy(cors_origins)}
    return {
        "@type": _TYPE + "envoy.config.route.v3.RouteConfiguration",
        "name": name,
        "virtual_hosts": [host],
        # So that a route can remove a header that its virtual host adds.
        "most_specific_header_mutations_wins": True,
        # On first start a route may arrive before its cluster: respond 503, do not reject it.
        "validate_clusters": False,
    }


def _cors_policy(origins: tuple[str, ...]) -> Json:
    return {
        "@type": _TYPE + "envoy.extensions.filters.http.cors.v3.CorsPolicy",
        "allow_origin_string_match": [
            {"safe_regex": {"regex": ".*"}} if origin == "*" else {"exact": origin}
            for origin in origins
        ],
        "allow_methods": "GET, POST",
        "allow_headers": "authorization, content-type, inference-header-content-length",
        # The length of the JSON before binary tensors.
        "expose_headers": "inference-header-content-length",
        "max_age": "600",
    }


def _rest_matcher(maps: Mapping[Table, Json], *, cors: bool) -> Json:
    control_plane = _action(
        {
            "match": {"prefix": "/"},
            "route": {
                "cluster": CONTROL_PLANE,
                "timeout": _CONTROL_PLANE_TIMEOUT,
                "retry_policy": {},
            },
            "response_headers_to_remove": [envoy_headers.TIMING],
        }
    )
    ready = _direct_response(
        200, '{"status": "ready"}', [_header("content-type", "application/json")]
    )
    paths = {
        api_paths.JS_PREDICT: _by_header(
            envoy_headers.CONSUMER_KEY, maps[Table.JS_KEYS], _js_refusal()
        ),
        **dict.fromkeys(api_paths.CONTROL_PLANE, control_plane),
        **dict.fromkeys(api_paths.HEALTH, ready),
    }
    refusal = _refusal(api_errors.NOT_AUTHORIZED, challenge=True)
    with_token = _by_header(
        envoy_headers.SUBJECT,
        maps[Table.ALL_KEYS],
        _awaiting_token(refusal) if cors else refusal,
    )
    # One node for all these paths, so that each client's entry is there once.
    others = _if(
        envoy_headers.PATH, api_paths.PREDICTIONS, with_token, _refusal(api_errors.NOT_FOUND)
    )
    return _by_header(envoy_headers.PATH, paths, others)["matcher"]  # type: ignore[no-any-return]


def _awaiting_token(refusal: Json) -> Json:
    """The route of a browser's request before its token is verified, or of a preflight.

    The CORS filter requires a cluster, and responds to a preflight without it. A request whose
    token has no subject would get 503, since there is no such cluster; we sign no such token.
    """
    awaiting = _action({"match": {"prefix": "/"}, "route": {"cluster": "awaiting_token"}})
    present = [api_paths.regex(".+")]
    return _if(envoy_headers.SUBJECT, present, refusal, _if("origin", present, awaiting, refusal))


def _grpc_matcher(maps: Mapping[Table, Json]) -> Json:
    refusal = _refusal(api_errors.NOT_AUTHORIZED)
    with_token = _by_header(envoy_headers.SUBJECT, maps[Table.GRPC], refusal)
    others = _if(":path", api_paths.CALLS, with_token, _refusal(api_errors.NOT_FOUND))
    paths = {api_paths.HEALTH_CHECK: _health_check()}
    return _by_header(":path", paths, others)["matcher"]  # type: ignore[no-any-return]


def _health_check() -> Json:
    enabled = {"@type": _TYPE + "envoy.config.route.v3.FilterConfig", "config": {}}
    return _action(
        {
            "match": {"prefix": "/"},
            "route": {"cluster": GRPC_HEALTH, "retry_policy": {}},
            "typed_per_filter_config": dict.fromkeys(HEALTH_FILTERS, enabled),
            "response_headers_to_remove": [envoy_headers.TIMING],
        }
    )


def _by_header(header: str, actions: Json, otherwise: Json) -> Json:
    """One look-up by a header's value; Envoy rejects an empty map."""
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
    """The error for an unknown or missing consumer key, wrapped for JSONP callers."""
    script = [api_paths.regex(envoy_headers.CALLBACK_FORM)]
    key = [api_paths.regex(".+")]
    return _if(
        envoy_headers.CALLBACK,
        script,
        _if(
            envoy_headers.CONSUMER_KEY,
            key,
            _refusal(api_errors.NOT_AUTHORIZED, legacy=True),
            _refusal(api_errors.KEY_MISSING, legacy=True),
        ),
        _if(
            envoy_headers.CONSUMER_KEY,
            key,
            _refusal(api_errors.NOT_AUTHORIZED, challenge=True),
            _refusal(api_errors.KEY_MISSING, challenge=True),
        ),
    )


def _if(header: str, forms: Sequence[Json], then: Json, otherwise: Json) -> Json:
    """Whether a header's value matches one of the string matchers."""
    predicates = [
        {"single_predicate": {"input": _header_input(header), "value_match": form}}
        for form in forms
    ]
    predicate = predicates[0] if len(predicates) == 1 else {"or_matcher": {"predicate": predicates}}
    return {
        "matcher": {
            "matcher_list": {"matchers": [{"predicate": predicate, "on_match": then}]},
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


@dataclass(frozen=True, slots=True)
class _ClientAction:
    """The action of a client's requests: JSON, split where the client's name goes."""

    around_name: tuple[bytes, ...]
    clusters: frozenset[str]


@lru_cache(maxsize=4096)
def _action_of(
    variations: tuple[Variation, ...], protocol: Protocol, timeout_s: float
) -> _ClientAction:
    """Cached, since clients with the same variations share it: rendering takes most time."""
    if not variations:
        return _ClientAction((orjson.dumps(_refusal(api_errors.NO_STRATEGY)),), frozenset())
    around_name = orjson.dumps(_client_action(variations, protocol, timeout_s))
    return _ClientAction(
        tuple(around_name.split(_NAME.encode())),
        frozenset(cluster_name(protocol, variation.endpoints) for variation in variations),
    )


def _client_action(variations: tuple[Variation, ...], protocol: Protocol, timeout_s: float) -> Json:
    timeout = f"{timeout_s:g}s"
    models = ",".join(variation.label for variation in variations)
    headers = [_header(envoy_headers.CLIENT, _NAME)]
    route: Json = {"timeout": timeout}
    if timeout_s >= STREAM_IDLE_S:
        # A request that waits for its prediction sends no bytes.
        route["idle_timeout"] = f"{timeout_s + _BEYOND_TIMEOUT_S:g}s"
    if len(variations) == 1:
        # The common case, in half of the bytes of a list with one entry.
        route["cluster"] = cluster_name(protocol, variations[0].endpoints)
        headers.append(_header(envoy_headers.VARIATION, variations[0].label))
    else:
        route["weighted_clusters"] = {"clusters": _weighted(variations, protocol)}
        headers.append(_header(envoy_headers.MODELS, models))
    if protocol == "grpc":
        # The caller's deadline applies if it is shorter.
        route["max_stream_duration"] = {"grpc_timeout_header_max": timeout}
    return _action(
        {
            # By this name the REST listener recognises the models in a path; in a call of gRPC
            # the model is in the message.
            **({"name": models} if protocol == "rest" else {}),
            "match": {"prefix": "/"},
            "route": route,
            "request_headers_to_add": headers,
            # Not in the virtual host: token requests need it at the control plane.
            "request_headers_to_remove": [envoy_headers.AUTHORIZATION],
        }
    )


# Idle timeout of a stream; a route may set a longer one.
STREAM_IDLE_S = 60
_BEYOND_TIMEOUT_S = 10

# Predictions have no side effects, so a retry after a server's death is safe.
_RETRIES: Json = {
    "retry_on": "connect-failure,refused-stream,reset",
    "num_retries": 2,
    # Prefer another replica.
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
}


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
        headers.append(_header("www-authenticate", CHALLENGE))
    return _direct_response(error.status, json.dumps(error.document(legacy=legacy)), headers)


def _direct_response(status: int, body: str, headers: list[Json]) -> Json:
    return _action(
        {
            "match": {"prefix": "/"},
            "direct_response": {"status": status, "body": {"inline_string": body}},
            "response_headers_to_add": headers,
            "response_headers_to_remove": [envoy_headers.TIMING],
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
        "append_action": _OVERWRITE,
    }


# Clusters


@lru_cache(maxsize=4096)
def _clusters_of(variations: tuple[Variation, ...], protocol: Protocol) -> dict[str, Json]:
    endpoints = {cluster_name(protocol, v.endpoints): v.endpoints for v in variations}
    return {name: _cluster(name, protocol, of) for name, of in endpoints.items()}


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
        # Envoy treats a dot in a cluster's name as a separator in its statistics.
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
        # Ejecting the only replica would leave none.
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
    # By default Envoy uses IPv6 alone where a name has both; our servers listen on 0.0.0.0.
    return {"type": "STRICT_DNS", "dns_lookup_family": "V4_PREFERRED"}


def _is_address(host: str) -> bool:
    return host.startswith("[") or host.replace(".", "").isdigit()
