"""Envoy's bootstrap: listeners, and the control plane as source of routes and clusters. Pure."""

import base64
import copy
from collections.abc import Iterable
from typing import Any

from seldon_gateway import api_paths, envoy_headers, envoy_replies, limits, tokens
from seldon_gateway.envoy_routes import (
    CONTROL_PLANE,
    CORS_FILTER,
    GRPC_HEALTH,
    GRPC_ROUTES,
    HEALTH_FILTERS,
    REST_ROUTES,
    STREAM_IDLE_S,
    static_cluster,
)
from seldon_gateway.settings import GatewaySettings, in_url
from seldon_gateway.strategies import MAX_LABEL, Endpoint

Json = dict[str, Any]

NODE_ID = "gateway"

_MAX_CALLER_CONNECTIONS = 20_000
STATS_PATH = "/stats/prometheus"
_ADMIN = "admin"
# 50 us to 10 s, each a tenth or so longer than the one before; Envoy's own begin at 0.5 ms.
_STATS_BUCKETS_MS = [float(f"{0.05 * 1.15**n:.3g}") for n in range(88)]
_TYPE = "type.googleapis.com/"
_FILTERS = _TYPE + "envoy.extensions.filters."

_PROTOBUF = "application/x-protobuf"
_SERVING = b"\x08\x01"  # HealthCheckResponse(status=SERVING)

# A frame: 5 bytes before the message. HealthCheckRequest: tag, length, the service's name.
_HEALTH_LUA = f"""
local known = {{{", ".join(f'["{service}"] = true' for service in api_paths.HEALTH_SERVICES)}}}
function envoy_on_request(handle)
  local body = handle:body(true)
  local frame = body and body:getBytes(0, body:length()) or ""
  local service = ""
  if #frame > 5 then
    service = frame:byte(6) == 10 and #frame == 7 + frame:byte(7) and frame:sub(8) or "?"
  end
  if not known[service] then
    handle:respond(
      {{[":status"] = "404", ["grpc-status"] = "5"}}, "The service is unknown to the gateway"
    )
  end
end
"""

# Query parameters arrive unescaped, so with any byte, and some bytes in a header fail the request.
# A key with characters that no key has is replaced by one that matches no client. An invalid
# callback is dropped here: the server sees it in the URL and reports what is wrong with it.
# Routes cannot match form fields, so a form POST to /js/predict without a key in its URL is parsed
# here; the buffer filter has its whole body by then.
# A client's route is named by its models: a request for another one is refused.
_REQUEST_LUA = f"""
local function refuses_model(handle, model, models)
  if #model > {MAX_LABEL} or model:find("[^%w_.%-]") then
    model = "invalid"
  elseif ("," .. models .. ","):find("," .. model .. ",", 1, true) then
    return false
  end
  handle:respond(
    {{[":status"] = "404"}},
    "The model is " .. model .. ", expected one of " .. models:gsub(",", ", ")
  )
  return true
end

function envoy_on_request(handle)
  local headers = handle:headers()
  local path = headers:get("{envoy_headers.PATH}") or ""
  local deployment = path:match("{api_paths.DEPLOYMENT_PATTERN}")
    or path:match("{api_paths.DEPLOYMENT_IN_NAMESPACE_PATTERN}")
  local model = deployment or path:match("{api_paths.MODEL_PATTERN}")
  local models = model and handle:streamInfo():routeName() or ""
  local callback = headers:get("{envoy_headers.CALLBACK}") or ""
  if #callback > {envoy_headers.CALLBACK_LENGTH} or callback:find("[^%w_.$]") then
    headers:remove("{envoy_headers.CALLBACK}")
    handle:clearRouteCache()
  end
  if (headers:get("{envoy_headers.CONSUMER_KEY}") or ""):find("[^%w_%-]") then
    headers:replace("{envoy_headers.CONSUMER_KEY}", "?")
    handle:clearRouteCache()
  end
  if models ~= "" and refuses_model(handle, model, models) then return end
  if deployment then headers:replace(":path", "{api_paths.SELDON_CORE}") end
  if models ~= "" then return end
  if headers:get(":method") ~= "POST" then return end
  if path ~= "{api_paths.JS_PREDICT}" then return end
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
                _health_listener(),
                *([_stats_listener(settings)] if settings.stats_port else []),
            ],
            "clusters": [
                static_cluster(CONTROL_PLANE, [_control_plane(settings)]),
                static_cluster(_ADMIN, [Endpoint("127.0.0.1", settings.admin_port)]),
                _health_cluster(),
            ],
        },
        "bootstrap_extensions": [
            {
                "name": "envoy.bootstrap.internal_listener",
                "typed_config": {
                    "@type": _TYPE
                    + "envoy.extensions.bootstrap.internal_listener.v3.InternalListener"
                },
            }
        ],
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
                "max_headers_count": limits.MAX_HEADERS,
                # A model server may read x_seldon_client as x-seldon-client.
                "headers_with_underscores_action": "DROP_HEADER",
            },
            "http_protocol_options": {
                "accept_http_10": True,
                "default_host_for_http_10": "seldon",
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
            "local_reply_config": {"mappers": envoy_replies.rest()},
            "http_filters": [
                _cors_filter(),
                _jwt_filter(settings, api_paths.TOKEN_PATHS, query_parameter=True),
                {
                    "name": "envoy.filters.http.buffer",
                    "typed_config": {
                        "@type": _FILTERS + "http.buffer.v3.Buffer",
                        "max_request_bytes": limits.MAX_BODY_BYTES,
                    },
                },
                {
                    "name": "envoy.filters.http.lua",
                    "typed_config": {
                        "@type": _FILTERS + "http.lua.v3.Lua",
                        "default_source_code": {"inline_string": _REQUEST_LUA},
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
                "max_headers_count": limits.MAX_METADATA,
                # The metadata key oauth_token has one.
                "headers_with_underscores_action": "ALLOW",
            },
            "early_header_mutation_extensions": [_early_mutation({})],
            "local_reply_config": {"mappers": envoy_replies.grpc()},
            "http_filters": [
                _jwt_filter(settings, api_paths.TOKEN_CALLS, query_parameter=False),
                *_health_filters(),
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


def _health_listener() -> Json:
    """Responds to health checks of gRPC inside Envoy, so whether or not anything else runs."""
    manager = {
        "@type": _FILTERS + "network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": GRPC_HEALTH,
        "route_config": {
            "virtual_hosts": [
                {
                    "name": GRPC_HEALTH,
                    "domains": ["*"],
                    "routes": [
                        {
                            "match": {"prefix": "/"},
                            "direct_response": {
                                "status": 200,
                                "body": {"inline_bytes": base64.b64encode(_SERVING).decode()},
                            },
                            "response_headers_to_add": [
                                {
                                    "header": {"key": "content-type", "value": _PROTOBUF},
                                    "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
                                }
                            ],
                        }
                    ],
                }
            ]
        },
        "http_filters": [_router()],
    }
    return {
        "name": GRPC_HEALTH,
        "internal_listener": {},
        "filter_chains": [_filter_chain(manager)],
    }


def _health_cluster() -> Json:
    address = {"envoy_internal_address": {"server_listener_name": GRPC_HEALTH}}
    return {
        "name": GRPC_HEALTH,
        "load_assignment": {
            "cluster_name": GRPC_HEALTH,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
    }


def _health_filters() -> list[Json]:
    """Of health checks alone, whose route enables them: other calls do not pass through them.

    Lua refuses unknown services. The bridge makes a gRPC response of the listener's.
    """
    return [
        {
            "name": HEALTH_FILTERS[0],
            "disabled": True,
            "typed_config": {
                "@type": _FILTERS + "http.lua.v3.Lua",
                "default_source_code": {"inline_string": _HEALTH_LUA},
            },
        },
        {
            "name": HEALTH_FILTERS[1],
            "disabled": True,
            "typed_config": {
                "@type": _FILTERS + "http.grpc_http1_reverse_bridge.v3.FilterConfig",
                "content_type": _PROTOBUF,
                "withhold_grpc_frames": True,
            },
        },
    ]


def _connection_manager(settings: GatewaySettings, routes: str, own: Json) -> Json:
    """Settings of both listeners."""
    return {
        "@type": _FILTERS + "network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": routes,
        "rds": {"route_config_name": routes, "config_source": _control_plane_source(settings)},
        "use_remote_address": True,
        "generate_request_id": False,
        "normalize_path": True,
        "merge_slashes": True,
        # Routes match whole paths, so a path with %2F is unknown: 404.
        "path_with_escaped_slashes_action": "KEEP_UNCHANGED",
        "max_request_headers_kb": limits.MAX_HEADERS_KIB,
        "request_headers_timeout": f"{limits.HEADERS_TIMEOUT_S}s",
        "request_timeout": f"{limits.REQUEST_TIMEOUT_S}s",
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
        "filter_chains": [_filter_chain(manager)],
    }


def _filter_chain(manager: Json) -> Json:
    name = "envoy.filters.network.http_connection_manager"
    return {"filters": [{"name": name, "typed_config": manager}]}


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


def _jwt_filter(settings: GatewaySettings, paths: Iterable[Json], *, query_parameter: bool) -> Json:
    """Verifies the tokens of requests to these paths.

    The scheme of Authorization is case-insensitive and Envoy's `value_prefix` is not, so the rules
    look for the scheme, and the first provider takes what follows the space.
    """
    oauth_token: Json = {"from_headers": [{"name": envoy_headers.OAUTH_TOKEN}]}
    if query_parameter:
        oauth_token["from_params"] = [envoy_headers.OAUTH_TOKEN]
    with_bearer = copy.deepcopy(oauth_token)
    with_bearer["from_headers"].append({"name": envoy_headers.AUTHORIZATION, "value_prefix": " "})
    has_bearer = {
        "name": envoy_headers.AUTHORIZATION,
        "string_match": {"prefix": "Bearer ", "ignore_case": True},
    }
    common = _jwt_provider(settings)
    return {
        "name": "envoy.filters.http.jwt_authn",
        "typed_config": {
            "@type": _FILTERS + "http.jwt_authn.v3.JwtAuthentication",
            "providers": {
                "bearer": {**common, **with_bearer},
                "oauth_token": {**common, **oauth_token},
            },
            "rules": [
                rule
                for path in paths
                for rule in (
                    {
                        "match": {**path, "headers": [has_bearer]},
                        "requires": {"provider_name": "bearer"},
                    },
                    {"match": path, "requires": {"provider_name": "oauth_token"}},
                )
            ],
        },
    }


def _jwt_provider(settings: GatewaySettings) -> Json:
    return {
        "issuer": tokens.ISSUER,
        "audiences": [tokens.AUDIENCE],
        "require_expiration": True,
        "clock_skew_seconds": 1,
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


def _cors_filter() -> Json:
    """Before the JWT filter, since a preflight has no token. Its policy is in the routes."""
    return {
        "name": CORS_FILTER,
        "typed_config": {"@type": _FILTERS + "http.cors.v3.Cors"},
    }


def _router() -> Json:
    return {
        "name": "envoy.filters.http.router",
        "typed_config": {
            "@type": _FILTERS + "http.router.v3.Router",
            "suppress_envoy_headers": False,
        },
    }


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
