"""Envoy's bootstrap: listeners, and the control plane as source of routes and clusters. Pure."""

import json
from typing import Any

from seldon_gateway import api_errors, envoy_headers, tokens
from seldon_gateway.api_errors import ApiError
from seldon_gateway.envoy_routes import (
    CONTROL_PLANE,
    GRPC_ROUTES,
    REST_ROUTES,
    STREAM_IDLE_S,
    static_cluster,
)
from seldon_gateway.settings import GatewaySettings, in_url
from seldon_gateway.strategies import Endpoint

Json = dict[str, Any]

NODE_ID = "gateway"
MAX_BODY_BYTES = 1_048_576
MAX_HEADERS_KIB = 96  # 784 numbers in a URL
GRPC_AUTH_TEXT = "Could not determine client from oauth_token"  # the original's words

_MAX_CALLER_CONNECTIONS = 20_000
STATS_PATH = "/stats/prometheus"
_ADMIN = "admin"
# 50 us to 10 s, each a tenth or so longer than the one before; Envoy's own begin at 0.5 ms.
_STATS_BUCKETS_MS = [float(f"{0.05 * 1.15**n:.3g}") for n in range(88)]
_TYPE = "type.googleapis.com/"
_FILTERS = _TYPE + "envoy.extensions.filters."

# Query parameters arrive unescaped, so with any byte, and some bytes in a header fail the request.
# A key with characters that no key has is replaced by one that matches no client. An invalid
# callback is dropped here: the server sees it in the URL and reports what is wrong with it.
# Routes cannot match form fields, so a form POST to /js/predict without a key in its URL is parsed
# here; the buffer filter has its whole body by then.
_FORM_KEY_LUA = f"""
function envoy_on_request(handle)
  local headers = handle:headers()
  local callback = headers:get("{envoy_headers.CALLBACK}") or ""
  if #callback > {envoy_headers.CALLBACK_LENGTH} or callback:find("[^%w_.$]") then
    headers:remove("{envoy_headers.CALLBACK}")
    handle:clearRouteCache()
  end
  if (headers:get("{envoy_headers.CONSUMER_KEY}") or ""):find("[^%w_%-]") then
    headers:replace("{envoy_headers.CONSUMER_KEY}", "?")
    handle:clearRouteCache()
  end
  if headers:get(":method") ~= "POST" then return end
  if headers:get("{envoy_headers.PATH}") ~= "{envoy_headers.JS_PREDICT}" then return end
  local content_type = headers:get("content-type")
  if content_type == nil then return end
  if not content_type:lower():find("application/x-www-form-urlencoded", 1, true) then return end
  local body = handle:body(true)
  if body == nil then return end
  headers = handle:headers()  -- the first is invalid after the wait for the body
  local form = "&" .. body:getBytes(0, body:length()) .. "&"
  local function take(field, pattern, header)
    if (headers:get(header) or "") ~= "" then return end
    local value = form:match("&" .. field .. "=(" .. pattern .. ")&")
    if value ~= nil and value ~= "" and #value <= {envoy_headers.CALLBACK_LENGTH} then
      headers:replace(header, value)
    end
  end
  take("consumer_key", "[%w_%-]*", "{envoy_headers.CONSUMER_KEY}")
  take("jsonpCallback", "[%w_.$]*", "{envoy_headers.CALLBACK}")
  handle:clearRouteCache()
end
"""


def bootstrap(settings: GatewaySettings) -> Json:
    """Envoy's whole static configuration."""
    return {
        "node": {"id": NODE_ID, "cluster": NODE_ID},
        "admin": {"address": _address("127.0.0.1", settings.admin_port)},
        "dynamic_resources": {"cds_config": _control_plane_source(settings)},
        "static_resources": {
            "listeners": [
                _rest_listener(settings),
                _grpc_listener(settings),
                *([_stats_listener(settings)] if settings.stats_port else []),
            ],
            "clusters": [
                static_cluster(CONTROL_PLANE, [_control_plane(settings)]),
                static_cluster(_ADMIN, [Endpoint("127.0.0.1", settings.admin_port)]),
            ],
        },
        "stats_config": {
            "histogram_bucket_settings": [
                {"match": {"safe_regex": {"regex": ".*"}}, "buckets": _STATS_BUCKETS_MS}
            ]
        },
        "overload_manager": _overload_manager(settings),
        # Routes of 40,000 clients exceed Envoy's default limit of 32 MiB: it would abort the
        # response and poll again for ever. Responses of the control plane are trusted.
        "layered_runtime": {
            "layers": [
                {
                    "name": "static",
                    "static_layer": {
                        "http.async_response_buffer_limit": settings.envoy_heap_mib << 19
                    },
                }
            ]
        },
    }


def _rest_listener(settings: GatewaySettings) -> Json:
    manager = _connection_manager(
        settings,
        REST_ROUTES,
        {
            "codec_type": "AUTO",
            "common_http_protocol_options": {
                "idle_timeout": "300s",
                "headers_with_underscores_action": "REJECT_REQUEST",
            },
            "early_header_mutation_extensions": [
                _early_mutation(
                    {
                        envoy_headers.PATH: "%PATH(NQ:PATH)%",
                        envoy_headers.CONSUMER_KEY: "%QUERY_PARAM(consumer_key)%",
                        envoy_headers.CALLBACK: "%QUERY_PARAM(jsonpCallback)%",
                    }
                )
            ],
            "local_reply_config": {"mappers": _rest_replies()},
            "http_filters": [
                _jwt_filter(settings, envoy_headers.PREDICT, query_parameter=True),
                {
                    "name": "envoy.filters.http.buffer",
                    "typed_config": {
                        "@type": _FILTERS + "http.buffer.v3.Buffer",
                        "max_request_bytes": MAX_BODY_BYTES,
                    },
                },
                {
                    "name": "envoy.filters.http.lua",
                    "typed_config": {
                        "@type": _FILTERS + "http.lua.v3.Lua",
                        "default_source_code": {"inline_string": _FORM_KEY_LUA},
                    },
                },
                _router(),
            ],
        },
    )
    return _listener("rest", settings.bind, settings.rest_port, manager)


def _grpc_listener(settings: GatewaySettings) -> Json:
    manager = _connection_manager(
        settings,
        GRPC_ROUTES,
        {
            "codec_type": "HTTP2",
            "common_http_protocol_options": {
                "idle_timeout": "3600s",
                # The metadata key oauth_token has one.
                "headers_with_underscores_action": "ALLOW",
            },
            "early_header_mutation_extensions": [_early_mutation({})],
            "local_reply_config": {"mappers": _grpc_replies()},
            "http_filters": [
                _jwt_filter(settings, envoy_headers.GRPC_SERVICE_PREFIX, query_parameter=False),
                _router(),
            ],
        },
    )
    return _listener("grpc", settings.bind, settings.grpc_port, manager)


def _stats_listener(settings: GatewaySettings) -> Json:
    """Serves Envoy's statistics to Prometheus; the administration interface stays on loopback."""
    routes = [
        {
            "match": {
                "path": STATS_PATH,
                "headers": [{"name": ":method", "string_match": {"exact": "GET"}}],
            },
            "route": {"cluster": _ADMIN},
        },
        {"match": {"prefix": "/"}, "direct_response": {"status": 404}},
    ]
    manager = {
        "@type": _FILTERS + "network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "stats",
        "route_config": {"virtual_hosts": [{"name": "stats", "domains": ["*"], "routes": routes}]},
        "http_filters": [_router()],
    }
    return _listener("stats", settings.bind, settings.stats_port or 0, manager)


def _connection_manager(settings: GatewaySettings, routes: str, own: Json) -> Json:
    """Settings of both listeners. Source of the limits: Envoy, "Configuring as an edge proxy"."""
    return {
        "@type": _FILTERS + "network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": routes,
        "rds": {"route_config_name": routes, "config_source": _control_plane_source(settings)},
        "use_remote_address": True,
        "generate_request_id": False,
        "normalize_path": True,
        "merge_slashes": True,
        "path_with_escaped_slashes_action": "REJECT_REQUEST",
        "max_request_headers_kb": MAX_HEADERS_KIB,
        "request_headers_timeout": "10s",
        "request_timeout": "30s",
        "stream_idle_timeout": f"{STREAM_IDLE_S}s",
        "http2_protocol_options": {
            "max_concurrent_streams": 100,
            "initial_stream_window_size": 65536,
            "initial_connection_window_size": 1048576,
        },
        "access_log": [_failures_log(grpc=routes == GRPC_ROUTES)],
        **own,
    }


def _listener(name: str, host: str, port: int, manager: Json) -> Json:
    return {
        "name": name,
        "address": _address(host, port),
        "per_connection_buffer_limit_bytes": 32768,
        "filter_chains": [
            {
                "filters": [
                    {
                        "name": "envoy.filters.network.http_connection_manager",
                        "typed_config": manager,
                    }
                ]
            }
        ],
    }


def _early_mutation(values: dict[str, str]) -> Json:
    """Remove our internal headers from a request, then set them from its path and query."""
    mutations: list[Json] = [{"remove": header} for header in envoy_headers.ALL]
    mutations += [
        {
            "append": {
                "header": {"key": header, "value": value},
                "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
            }
        }
        for header, value in values.items()
    ]
    kind = "http.early_header_mutation.header_mutation"
    return {
        "name": f"envoy.{kind}",
        "typed_config": {
            "@type": _TYPE + f"envoy.extensions.{kind}.v3.HeaderMutation",
            "mutations": mutations,
        },
    }


def _jwt_filter(settings: GatewaySettings, prefix: str, *, query_parameter: bool) -> Json:
    provider: Json = {
        "issuer": tokens.ISSUER,
        "audiences": [tokens.AUDIENCE],
        "require_expiration": True,
        "clock_skew_seconds": 1,
        "from_headers": [
            {"name": "authorization", "value_prefix": "Bearer "},
            {"name": "oauth_token"},
        ],
        "claim_to_headers": [{"header_name": envoy_headers.SUBJECT, "claim_name": "sub"}],
        "clear_route_cache": True,
        "jwt_cache_config": {"jwt_cache_size": 1000},
        "remote_jwks": {
            "http_uri": {
                "uri": f"http://{_control_plane(settings)}/.well-known/jwks.json",
                "cluster": CONTROL_PLANE,
                "timeout": "1s",
            },
            "cache_duration": f"{settings.jwks_cache_s:g}s",
            # Fetched in the background: the old keys stay valid while the control plane is down.
            "async_fetch": {"failed_refetch_duration": "1s"},
        },
    }
    if query_parameter:
        provider["from_params"] = ["oauth_token"]
    return {
        "name": "envoy.filters.http.jwt_authn",
        "typed_config": {
            "@type": _FILTERS + "http.jwt_authn.v3.JwtAuthentication",
            "providers": {"seldon": provider},
            "rules": [{"match": {"prefix": prefix}, "requires": {"provider_name": "seldon"}}],
        },
    }


def _router() -> Json:
    return {
        "name": "envoy.filters.http.router",
        "typed_config": {
            "@type": _FILTERS + "http.router.v3.Router",
            "suppress_envoy_headers": False,
        },
    }


# Local replies

_IF_OURS = 'response.code_details == "direct_response"'
_IF_EXPIRED = 'response.code_details.contains("Jwt_is_expired")'
_IF_MISSING = 'response.code_details.contains("Jwt_is_missing")'
_IF_REFUSED = 'response.code_details.contains("jwt_authn_access_denied")'

_REST_CASES: list[tuple[str, ApiError]] = [
    (_IF_EXPIRED, api_errors.TOKEN_EXPIRED),
    (_IF_MISSING, api_errors.TOKEN_MISSING),
    (_IF_REFUSED, api_errors.TOKEN_UNKNOWN),
    ("response.code == 413", api_errors.BODY_TOO_LARGE),
    ("response.code == 431", api_errors.HEADERS_TOO_LARGE),
    ("response.code == 504 || response.code == 408", api_errors.DEADLINE_PASSED),
    ("response.code == 404", api_errors.NOT_FOUND),
    ("response.code >= 500", api_errors.UPSTREAM_FAILED),
    ("response.code >= 400", api_errors.BAD_REQUEST),
]


def _rest_replies() -> list[Json]:
    """Envoy's local replies as the API's error object, wrapped for JSONP callers."""
    callback = f'"{envoy_headers.CALLBACK}" in request.headers'
    value = f'request.headers["{envoy_headers.CALLBACK}"]'
    form = (
        f'{value}.matches("^{envoy_headers.CALLBACK_FORM}$") && '
        f"size({value}) <= {envoy_headers.CALLBACK_LENGTH}"
    )
    # Only there: elsewhere jsonpCallback is a parameter like any other.
    scripted = (
        f"{callback} && {form} && "
        f'request.headers["{envoy_headers.PATH}"] == "{envoy_headers.JS_PREDICT}"'
    )
    mappers = [
        _mapper(f"{_IF_OURS} && {scripted}", 200, _wrapped("%LOCAL_REPLY_BODY%"), _JAVASCRIPT),
        _mapper(_IF_OURS, None, "%LOCAL_REPLY_BODY%", _JSON),
    ]
    for condition, error in _REST_CASES:
        legacy = json.dumps(error.document(legacy=True))
        mappers.append(_mapper(f"({condition}) && {scripted}", 200, _wrapped(legacy), _JAVASCRIPT))
        mappers.append(_mapper(condition, error.status, json.dumps(error.document()), _JSON))
    return mappers


def _grpc_replies() -> list[Json]:
    """The same as plain text, which Envoy sends as the message of the gRPC status."""
    return [
        _mapper(_IF_EXPIRED, 401, f"{GRPC_AUTH_TEXT}: the token has expired", _TEXT),
        _mapper(_IF_MISSING, 401, f"{GRPC_AUTH_TEXT}: no token was sent", _TEXT),
        _mapper(_IF_REFUSED, 401, f"{GRPC_AUTH_TEXT}: the token is not valid", _TEXT),
        _mapper(
            f"{_IF_OURS} && response.code == 401",
            401,
            f"{GRPC_AUTH_TEXT}: the client is disabled or removed",
            _TEXT,
        ),
        _mapper(f"{_IF_OURS} && response.code == 404", 404, api_errors.NOT_FOUND.message, _TEXT),
        _mapper(f"{_IF_OURS} && response.code == 503", 503, api_errors.NO_STRATEGY.message, _TEXT),
        _mapper("response.code == 504", 504, api_errors.DEADLINE_PASSED.message, _TEXT),
        _mapper("response.code >= 500", None, api_errors.UPSTREAM_FAILED.message, _TEXT),
    ]


_JSON, _JAVASCRIPT, _TEXT = (
    "application/json",
    "application/javascript; charset=utf-8",
    "text/plain",
)


def _wrapped(body: str) -> str:
    return f"%REQ({envoy_headers.CALLBACK})%({body})"


def _mapper(condition: str, status: int | None, body: str, content_type: str) -> Json:
    mapper: Json = {
        "filter": {
            "extension_filter": {
                "name": "envoy.access_loggers.extension_filters.cel",
                "typed_config": {
                    "@type": _TYPE
                    + "envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter",
                    "expression": condition,
                },
            }
        },
        "body_format_override": {
            "text_format_source": {"inline_string": body},
            "content_type": content_type,
        },
    }
    if status is not None:
        mapper["status_code"] = status
    return mapper


# Parts of the bootstrap


def _failures_log(*, grpc: bool) -> Json:
    """Access log of failed requests, without the query, which holds keys and tokens."""
    return {
        "name": "envoy.access_loggers.stderr",
        "filter": {
            "or_filter": {
                "filters": [
                    {
                        "status_code_filter": {
                            "comparison": {
                                "op": "GE",
                                "value": {"default_value": 400, "runtime_key": "log.status"},
                            }
                        }
                    },
                    {"response_flag_filter": {}},
                    *([{"grpc_status_filter": {"statuses": ["OK"], "exclude": True}}] * grpc),
                ]
            }
        },
        "typed_config": {
            "@type": _TYPE + "envoy.extensions.access_loggers.stream.v3.StderrAccessLog",
            "log_format": {
                "text_format_source": {
                    "inline_string": "[%START_TIME%] %REQ(:METHOD)% %PATH(NQ:PATH)% %PROTOCOL% "
                    "status %RESPONSE_CODE% grpc %GRPC_STATUS% flags %RESPONSE_FLAGS% "
                    "(%RESPONSE_CODE_DETAILS%) in %BYTES_RECEIVED% B out %BYTES_SENT% B "
                    "%DURATION% ms\n"
                }
            },
        },
    }


def _control_plane(settings: GatewaySettings) -> Endpoint:
    return Endpoint(in_url(settings.control_host), settings.control_port)


def _control_plane_source(settings: GatewaySettings) -> Json:
    return {
        "resource_api_version": "V3",
        "api_config_source": {
            "api_type": "REST",
            "transport_api_version": "V3",
            "cluster_names": [CONTROL_PLANE],
            "refresh_delay": f"{settings.poll_s:g}s",
            # Routes of many clients take long to transfer.
            "request_timeout": "5s",
        },
        "initial_fetch_timeout": "15s",
    }


def _overload_manager(settings: GatewaySettings) -> Json:
    heap = "envoy.resource_monitors.fixed_heap"
    connections = "envoy.resource_monitors.global_downstream_max_connections"

    def trigger(name: str, action: str, value: float) -> Json:
        return {"name": action, "triggers": [{"name": name, "threshold": {"value": value}}]}

    return {
        "refresh_interval": "0.25s",
        "resource_monitors": [
            {
                "name": heap,
                "typed_config": {
                    "@type": _TYPE
                    + "envoy.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig",
                    "max_heap_size_bytes": settings.envoy_heap_mib << 20,
                },
            },
            {
                "name": connections,
                "typed_config": {
                    "@type": _TYPE + "envoy.extensions.resource_monitors.downstream_connections"
                    ".v3.DownstreamConnectionsConfig",
                    "max_active_downstream_connections": _MAX_CALLER_CONNECTIONS,
                },
            },
        ],
        "actions": [
            trigger(heap, "envoy.overload_actions.shrink_heap", 0.9),
            trigger(heap, "envoy.overload_actions.stop_accepting_requests", 0.97),
        ],
    }


def _address(host: str, port: int) -> Json:
    return {"socket_address": {"address": host, "port_value": port}}
