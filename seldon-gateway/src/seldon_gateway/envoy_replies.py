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

# Envoy verifies every token of a request, joins their subjects, and removes the tokens that are
# valid. It joins the values of a repeated header too.
_BEARER = (
    f"({_has(envoy_headers.AUTHORIZATION)} && "
    f'{_value(envoy_headers.AUTHORIZATION)}.matches("(?i)^bearer "))'
)
_OAUTH_TOKEN = _has(envoy_headers.OAUTH_TOKEN)
_QUERY_TOKEN = f'request.path.matches("[?&]{envoy_headers.OAUTH_TOKEN}=")'
_SEVERAL = " || ".join(
    (
        f"({_has(envoy_headers.SUBJECT)})",  # of another token, which is valid
        f"({_has(envoy_headers.AUTHORIZATION)} && {_value(envoy_headers.AUTHORIZATION)}"
        '.matches("(?i), *bearer |^bearer [^,]*, *[a-z]+ "))',
        f'({_OAUTH_TOKEN} && {_value(envoy_headers.OAUTH_TOKEN)}.contains(","))',
        f"({_BEARER} && ({_OAUTH_TOKEN} || {_QUERY_TOKEN}))",
        f"({_OAUTH_TOKEN} && {_QUERY_TOKEN})",
    )
)
_IF_SEVERAL_REFUSED = f"{_IF_REFUSED} && ({_SEVERAL})"
_IF_SEVERAL_VALID = (
    f"{_IF_OURS} && response.code == 401 && {_has(envoy_headers.SUBJECT)} && "
    f'{_value(envoy_headers.SUBJECT)}.contains(",")'
)


@dataclass(frozen=True)
class _Case:
    """When a local reply is which error; `challenge` is its WWW-Authenticate."""

    condition: str
    error: ApiError
    challenge: str = ""


# Envoy's own challenge repeats the URL, which may hold a token. Source: RFC 6750, section 3.
_INVALID_TOKEN = f'{CHALLENGE}, error="invalid_token"'
_INVALID_REQUEST = f'{CHALLENGE}, error="invalid_request"'

# The details are a fixed word of Envoy, such as http1.invalid_url.
_MALFORMED = replace(
    api_errors.BAD_REQUEST,
    message=f"{api_errors.BAD_REQUEST.message} (%RESPONSE_CODE_DETAILS%)",
)

_SEVERAL_TOKENS = (
    _Case(_IF_SEVERAL_REFUSED, api_errors.SEVERAL_TOKENS, _INVALID_REQUEST),
    _Case(_IF_SEVERAL_VALID, api_errors.SEVERAL_TOKENS, _INVALID_REQUEST),
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
    mappers = [_mapper('response.code_details == "lua_response"', "%LOCAL_REPLY_BODY%", _JSON)]
    for paths, document in (
        (api_paths.OPEN_INFERENCE_PATHS, _open_inference),
        (api_paths.TENSORFLOW_SERVING_PATHS, _open_inference),
        (api_paths.SELDON_CORE_PATHS, _seldon_core),
    ):
        mappers += _standard(paths, document)
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
            (case.condition, "the call has several tokens, expected one")
            for case in _SEVERAL_TOKENS
        ),
        (_IF_EXPIRED, "the token has expired"),
        (_IF_MISSING, "no token was sent"),
        (_IF_REFUSED, "the token is not valid"),
        (f"{_IF_OURS} && response.code == 401", "the client is disabled or removed"),
    ]
    return [
        *(
            _mapper(
                condition,
                f"{GRPC_AUTH_TEXT}: {text}",
                _TEXT,
                status=401,
                headers={"www-authenticate": CHALLENGE},
            )
            for condition, text in auth
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


def _open_inference(error: ApiError) -> Json:
    """Also that of TensorFlow Serving."""
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
    for case in (*_SEVERAL_TOKENS, *_OURS, *_REST_CASES):
        yield _case(case, document(case.error), paths)


def _case(case: _Case, document: Json, paths: Json | None = None) -> Json:
    return _mapper(
        case.condition,
        json.dumps(document),
        _JSON,
        status=case.error.status,
        headers={"www-authenticate": case.challenge} if case.challenge else {},
        paths=paths,
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
    paths: Json | None = None,
) -> Json:
    expression = {
        "extension_filter": {
            "name": "envoy.access_loggers.extension_filters.cel",
            "typed_config": {
                "@type": _TYPE + "envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter",
                "expression": condition,
            },
        }
    }
    path = {"header_filter": {"header": {"name": envoy_headers.PATH, "string_match": paths}}}
    mapper: Json = {
        # The path first: it costs less than an expression.
        "filter": {"and_filter": {"filters": [path, expression]}} if paths else expression,
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
