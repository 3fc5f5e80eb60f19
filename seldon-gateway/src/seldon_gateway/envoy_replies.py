"""Envoy's local replies as errors of the API that was called. Pure."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any

from seldon_gateway import api_errors, api_paths, envoy_headers
from seldon_gateway.api_errors import ApiError

Json = dict[str, Any]

GRPC_AUTH_TEXT = "Could not determine client from oauth_token"  # the original's words
CHALLENGE = 'Bearer realm="seldon"'

_TYPE = "type.googleapis.com/"
_JSON, _JAVASCRIPT, _TEXT = (
    "application/json",
    "application/javascript; charset=utf-8",
    "text/plain",
)


def _has(header: str) -> str:
    return f'"{header}" in request.headers'


def _value(header: str) -> str:
    return f'request.headers["{header}"]'


# Conditions in CEL. A missing header is an error, which counts as false.

_IF_OURS = 'response.code_details == "direct_response"'
_IF_EXPIRED = 'response.code_details.contains("Jwt_is_expired")'
_IF_MISSING = 'response.code_details.contains("Jwt_is_missing")'
_IF_REFUSED = 'response.code_details.contains("jwt_authn_access_denied")'
_IF_TO_CONTROL_PLANE = (
    f"{_has(envoy_headers.PATH)} && "
    f"{_value(envoy_headers.PATH)} in {json.dumps(list(api_paths.CONTROL_PLANE))}"
)


def _header_filter(header: str, **matcher: Any) -> Json:
    """A filter on a request header; it costs less than an expression."""
    return {"header_filter": {"header": {"name": header, **matcher}}}


def _expression(condition: str) -> Json:
    return {
        "extension_filter": {
            "name": "envoy.access_loggers.extension_filters.cel",
            "typed_config": {
                "@type": _TYPE + "envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter",
                "expression": condition,
            },
        }
    }


def _any(*filters: Json) -> Json:
    return {"or_filter": {"filters": list(filters)}}


def _all(*filters: Json) -> Json:
    return {"and_filter": {"filters": list(filters)}} if len(filters) > 1 else filters[0]


# Envoy verifies every token of a request and removes the valid ones; each leaves its subject.
# Filters try each value of a repeated header; expressions see them joined by commas, and so do
# both in the case of Authorization.
_BEARER = _header_filter(
    envoy_headers.AUTHORIZATION, string_match={"prefix": "Bearer ", "ignore_case": True}
)
_OAUTH_TOKEN = _header_filter(envoy_headers.OAUTH_TOKEN, present_match=True)
_QUERY_TOKEN = _header_filter(
    ":path", string_match={"safe_regex": {"regex": f".*[?&]{envoy_headers.OAUTH_TOKEN}=.*"}}
)
_SUBJECT = _header_filter(envoy_headers.SUBJECT, present_match=True)
_SEVERAL_SENT = _any(
    _SUBJECT,  # of another token, which is valid
    _header_filter(
        envoy_headers.AUTHORIZATION,
        string_match={"safe_regex": {"regex": "(?i).*, *bearer .*|bearer [^,]*, *[a-z]+ .*"}},
    ),
    _all(_OAUTH_TOKEN, _expression(f'{_value(envoy_headers.OAUTH_TOKEN)}.contains(",")')),
    _all(_BEARER, _any(_OAUTH_TOKEN, _QUERY_TOKEN)),
    _all(_OAUTH_TOKEN, _QUERY_TOKEN),
)
# Paths of the Open Inference Protocol and of TensorFlow Serving, and of Seldon Core.
_ERROR_TEXT_PATHS = _header_filter(envoy_headers.PATH, string_match=api_paths.ERROR_TEXT_PATHS)
_SELDON_CORE_PATHS = _header_filter(envoy_headers.PATH, string_match=api_paths.SELDON_CORE_PATHS)


@dataclass(frozen=True)
class _Case:
    """When a local reply is which error.

    Attributes:
        condition: In CEL.
        error: What it is.
        challenge: WWW-Authenticate; none by default.
        filters: Further conditions, which Envoy tries first.
    """

    condition: str
    error: ApiError
    challenge: str = ""
    filters: tuple[Json, ...] = ()


# Envoy's own challenge repeats the URL, which may hold a token. Source: RFC 6750, section 3.
_INVALID_TOKEN = f'{CHALLENGE}, error="invalid_token"'
_INVALID_REQUEST = f'{CHALLENGE}, error="invalid_request"'

# The details are a fixed word of Envoy, such as http1.invalid_url.
_MALFORMED = replace(
    api_errors.BAD_REQUEST,
    message=f"{api_errors.BAD_REQUEST.message} (%RESPONSE_CODE_DETAILS%)",
)

_SEVERAL_TOKENS = (
    _Case(_IF_REFUSED, api_errors.SEVERAL_TOKENS, _INVALID_REQUEST, (_SEVERAL_SENT,)),
    _Case(
        f'{_IF_OURS} && {_value(envoy_headers.SUBJECT)}.contains(",")',
        api_errors.SEVERAL_TOKENS,
        _INVALID_REQUEST,
        (_SUBJECT,),
    ),
)
_UNKNOWN_MODEL = _Case(
    'response.code_details == "lua_response"',
    replace(api_errors.NOT_FOUND, message="%LOCAL_REPLY_BODY%"),
)
_OURS = (
    _Case(f"{_IF_OURS} && response.code == 401", api_errors.NOT_AUTHORIZED, CHALLENGE),
    _Case(f"{_IF_OURS} && response.code == 503", api_errors.NO_STRATEGY),
)
_REST_CASES = (
    _Case(_IF_EXPIRED, api_errors.TOKEN_EXPIRED, _INVALID_TOKEN),
    _Case(_IF_MISSING, api_errors.TOKEN_MISSING, CHALLENGE),
    _Case(_IF_REFUSED, api_errors.TOKEN_UNKNOWN, _INVALID_TOKEN),
    _Case("response.code == 413", api_errors.BODY_TOO_LARGE),
    _Case('response.code_details.contains("too_many_headers")', api_errors.TOO_MANY_HEADERS),
    _Case("response.code == 431", api_errors.HEADERS_TOO_LARGE),
    _Case(
        'response.code_details == "request_header_timeout"',
        api_errors.HEADERS_TOO_SLOW,
    ),
    _Case("response.code == 408", api_errors.REQUEST_TOO_SLOW),
    _Case(
        f"response.code == 504 && {_IF_TO_CONTROL_PLANE}",
        api_errors.CONTROL_PLANE_TOO_SLOW,
    ),
    _Case("response.code == 504", api_errors.DEADLINE_PASSED),
    _Case("response.code == 404", api_errors.NOT_FOUND),
    _Case(
        f"response.code >= 500 && {_IF_TO_CONTROL_PLANE}",
        api_errors.CONTROL_PLANE_FAILED,
    ),
    # Envoy's parser refuses some requests with 501.
    _Case('response.code_details.startsWith("http1.")', _MALFORMED),
    _Case("response.code >= 500", api_errors.UPSTREAM_FAILED),
    _Case('response.code_details == "missing_host_header"', api_errors.HOST_MISSING),
    _Case("response.code >= 400", _MALFORMED),
)


def rest() -> list[Json]:
    """Errors of the REST listener, wrapped for JSONP callers."""
    callback = _has(envoy_headers.CALLBACK)
    value = _value(envoy_headers.CALLBACK)
    form = (
        f'{value}.matches("^{envoy_headers.CALLBACK_FORM}$") && '
        f"size({value}) <= {envoy_headers.CALLBACK_LENGTH}"
    )
    # Only there: elsewhere jsonpCallback is a parameter like any other.
    scripted = f'{callback} && {form} && {_value(envoy_headers.PATH)} == "{api_paths.JS_PREDICT}"'
    mappers = [
        *_standard(_ERROR_TEXT_PATHS, _error_text),
        *_standard(_SELDON_CORE_PATHS, _seldon_core),
    ]
    mappers += [_case(case, case.error.document()) for case in _SEVERAL_TOKENS]
    mappers += [
        _mapper(
            f"{_IF_OURS} && {scripted}", _wrapped("%LOCAL_REPLY_BODY%"), _JAVASCRIPT, status=200
        ),
        _mapper(_IF_OURS, "%LOCAL_REPLY_BODY%", _JSON),
    ]
    for case in _REST_CASES:
        legacy = json.dumps(case.error.document(legacy=True))
        mappers.append(
            _mapper(f"({case.condition}) && {scripted}", _wrapped(legacy), _JAVASCRIPT, status=200)
        )
        mappers.append(_case(case, case.error.document()))
    return mappers


def grpc() -> list[Json]:
    """The same as plain text, which Envoy sends as the message of the gRPC status."""
    auth = [
        *(
            (case.condition, "the call has several tokens, expected one", case.filters)
            for case in _SEVERAL_TOKENS
        ),
        (_IF_EXPIRED, "the token has expired", ()),
        (_IF_MISSING, "no token was sent", ()),
        (_IF_REFUSED, "the token is not valid", ()),
        (f"{_IF_OURS} && response.code == 401", "the client is disabled or removed", ()),
    ]
    return [
        *(
            _mapper(
                condition,
                f"{GRPC_AUTH_TEXT}: {text}",
                _TEXT,
                status=401,
                headers={"www-authenticate": CHALLENGE},
                filters=filters,
            )
            for condition, text, filters in auth
        ),
        _mapper(f"{_IF_OURS} && response.code == 404", api_errors.NOT_FOUND.message, _TEXT),
        _mapper(f"{_IF_OURS} && response.code == 503", api_errors.NO_STRATEGY.message, _TEXT),
        _mapper("response.code == 504", api_errors.DEADLINE_PASSED.message, _TEXT),
        _mapper(
            "response.code == 408",
            api_errors.REQUEST_TOO_SLOW.message,
            _TEXT,
            headers={"grpc-status": "4"},  # DEADLINE_EXCEEDED
        ),
        _mapper("response.code >= 500", api_errors.UPSTREAM_FAILED.message, _TEXT),
    ]


def _error_text(error: ApiError) -> Json:
    return {"error": error.message}


def _seldon_core(error: ApiError) -> Json:
    return {
        "status": {
            "code": error.status,
            "info": error.message,
            "reason": HTTPStatus(error.status).name,
            "status": "FAILURE",
        }
    }


def _standard(paths: Json, document: Callable[[ApiError], Json]) -> Iterable[Json]:
    """Errors of a standard protocol."""
    for case in (_UNKNOWN_MODEL, *_SEVERAL_TOKENS, *_OURS, *_REST_CASES):
        yield _case(replace(case, filters=(paths, *case.filters)), document(case.error))


def _case(case: _Case, document: Json) -> Json:
    return _mapper(
        case.condition,
        json.dumps(document),
        _JSON,
        status=case.error.status,
        headers={"www-authenticate": case.challenge} if case.challenge else {},
        filters=case.filters,
    )


def _wrapped(body: str) -> str:
    return f"%REQ({envoy_headers.CALLBACK})%({body})"


def _mapper(
    condition: str,
    body: str,
    content_type: str,
    *,
    status: int | None = None,
    headers: dict[str, str] | None = None,
    filters: tuple[Json, ...] = (),
) -> Json:
    mapper: Json = {
        "filter": _all(*filters, _expression(condition)),
        "body_format_override": {
            "text_format_source": {"inline_string": body},
            "content_type": content_type,
        },
        "headers_to_add": [
            {
                "header": {"key": name, "value": value},
                "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
            }
            for name, value in (headers or {}).items()
        ],
    }
    if status is not None:
        mapper["status_code"] = status
    return mapper
