"""/predict and /js/predict: JSON, forms and JSONP.

Every error on the wire is an `ErrorCode`; `CODE_OF_KIND` maps the kinds of ServingError.
"""

import json
import re
import secrets
from contextlib import suppress
from enum import Enum
from http import HTTPStatus
from typing import NamedTuple
from urllib.parse import parse_qsl

import orjson

from serving_core.batching import Computed
from serving_core.errors import ErrorKind, ServerFailed, ServingError
from serving_core.exchange import InferenceRequest, Served
from serving_core.predictor import ClassifierView, classifier_of
from serving_core.protocols.http import JSON, HttpRequest, HttpResponse
from serving_core.protocols.seldon.instances import parse_instances

JS_PREDICT, PREDICT = "/js/predict", "/predict"
METHODS = ("GET", "POST")
JAVASCRIPT = "application/javascript; charset=utf-8"
FORM = "application/x-www-form-urlencoded"

MAX_PUID = 256
# The web demo's object form as single parameters has 784.
MAX_PARAMETERS = 1024

# Escapes of the commas between 784 numbers, nearly all escapes of a request. Replacing them takes
# a tenth of the time of parse_qsl, which decodes the others. parse_qsl does not interpret comma or
# blank, and neither can form a new escape.
_MOST_ESCAPES = ((b"%2C%20", b", "), (b"%2C", b","), (b"%20", b" "))

_CALLBACK = re.compile(r"[A-Za-z0-9_.$]{1,128}")
_JSON_TYPES: dict[type, str] = {
    str: "a string",
    bool: "a boolean",
    int: "a number",
    float: "a number",
    type(None): "null",
    list: "a list",
    dict: "an object",
}


class ErrorCode(Enum):
    """Errors of the API: the id on the wire and the HTTP status."""

    METHOD_NOT_ALLOWED = (11, HTTPStatus.METHOD_NOT_ALLOWED)
    GENERIC = (13, HTTPStatus.INTERNAL_SERVER_ERROR)
    NOT_FOUND = (21, HTTPStatus.NOT_FOUND)
    BROKEN_JSON = (38, HTTPStatus.BAD_REQUEST)
    WRONG_DATA = (40, HTTPStatus.BAD_REQUEST)
    NOT_READY = (41, HTTPStatus.SERVICE_UNAVAILABLE)
    OVERLOADED = (42, HTTPStatus.TOO_MANY_REQUESTS)
    DEADLINE_PASSED = (43, HTTPStatus.GATEWAY_TIMEOUT)
    BODY_TIMEOUT = (43, HTTPStatus.REQUEST_TIMEOUT)
    TOO_LARGE = (44, HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
    CONTENT_TYPE = (45, HTTPStatus.UNSUPPORTED_MEDIA_TYPE)
    CALLBACK = (46, HTTPStatus.BAD_REQUEST)

    def __init__(self, error_id: int, status: HTTPStatus) -> None:
        """Unpack the value into two attributes."""
        self.error_id = error_id
        self.status = status


CODE_OF_KIND = {
    ErrorKind.INVALID_ARGUMENT: ErrorCode.WRONG_DATA,
    ErrorKind.NOT_FOUND: ErrorCode.NOT_FOUND,
    ErrorKind.NOT_READY: ErrorCode.NOT_READY,
    ErrorKind.OVERLOADED: ErrorCode.OVERLOADED,
    ErrorKind.DEADLINE_EXCEEDED: ErrorCode.DEADLINE_PASSED,
    ErrorKind.INTERNAL: ErrorCode.GENERIC,
}


# As the original API words them.
MESSAGES = {
    ErrorCode.METHOD_NOT_ALLOWED: "Used Http Method is not supported for the required action",
    ErrorCode.GENERIC: "A generic error occurred",
    ErrorCode.NOT_FOUND: "Requested resource not found",
}
NO_DOCUMENT = (
    f"json is missing, expected the parameter json or a body of JSON with Content-Type {JSON}"
)


class RequestRefused(ServingError):
    """The request is invalid in a way that this API distinguishes."""

    kind = ErrorKind.INVALID_ARGUMENT

    def __init__(self, code: ErrorCode, message: str) -> None:
        """`message` names the field and the limit."""
        super().__init__(message)
        self.code = code


def error_document(error_id: int, message: str, status: int) -> bytes:
    """Encode an error response."""
    return orjson.dumps({"error_id": error_id, "error_msg": message, "http_response": status})


def parse_parameters(raw: bytes) -> dict[str, str]:
    """Parse a query string or a form body; the first value of a repeated name counts.

    Raises:
        RequestRefused: Not UTF-8, or too many parameters.
    """
    if not raw:
        return {}
    if b"%" in raw:
        for escape, characters in _MOST_ESCAPES:
            raw = raw.replace(escape, characters)
    parameters: dict[str, str] = {}
    try:
        pairs = parse_qsl(
            raw.decode(), keep_blank_values=True, errors="strict", max_num_fields=MAX_PARAMETERS
        )
    except UnicodeDecodeError:
        raise RequestRefused(ErrorCode.BROKEN_JSON, "the parameters are not UTF-8") from None
    except ValueError:
        message = f"the request has more than {MAX_PARAMETERS} parameters, the limit"
        raise RequestRefused(ErrorCode.WRONG_DATA, message) from None
    for name, value in pairs:
        parameters.setdefault(name, value)
    return parameters


class Document(NamedTuple):
    """A decoded request document; `puid` is None if it has none."""

    data: object
    puid: str | None
    may_hold_booleans: bool


def parse_document(text: str | bytes, field: str) -> Document:
    """Decode a request document.

    Args:
        text: JSON, `{"data": …, "meta": {"puid": …}}`; meta is optional.
        field: The document's name in errors: "json" or "the body".

    Returns:
        `data`, for parse_instances, and the puid.

    Raises:
        RequestRefused: Not JSON, a duplicate key in an object, no `data`, an invalid `meta`.
    """
    if not text:
        raise RequestRefused(ErrorCode.BROKEN_JSON, f"{field} is empty, expected a JSON object")
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        place = f"at line {error.lineno} column {error.colno}"
        raise RequestRefused(ErrorCode.BROKEN_JSON, f"Invalid JSON: {error.msg} {place}") from None
    if type(document) is not dict:
        raise RequestRefused(
            ErrorCode.WRONG_DATA, f"{field} is {_type_name(document)}, expected an object"
        )
    _refuse_duplicate_keys(text, document)
    meta = document.get("meta")
    if meta is not None and type(meta) is not dict:
        raise RequestRefused(
            ErrorCode.WRONG_DATA, f"meta is {_type_name(meta)}, expected an object"
        )
    if "data" not in document:
        raise RequestRefused(ErrorCode.WRONG_DATA, "data is missing, expected a list of numbers")
    # Searching for one letter takes a tenth of the time of the whole word.
    true, false = ("r", "l") if isinstance(text, str) else (b"r", b"l")
    booleans = true in text or false in text  # type: ignore[operator]  # both texts, or both bytes
    return Document(document["data"], _puid_of(meta) if meta else None, booleans)


def _puid_of(meta: dict[str, object]) -> str | None:
    puid = meta.get("puid")
    if puid is not None and type(puid) is not str:
        raise RequestRefused(
            ErrorCode.WRONG_DATA, f"meta.puid is {_type_name(puid)}, expected a string"
        )
    return puid


def _refuse_duplicate_keys(text: str | bytes, document: dict[str, object]) -> None:
    """Refuse duplicate keys, of which orjson silently keeps the last.

    Each key has one colon. If the text has as many colons as the result has keys, no key was lost;
    counting one character settles nearly every request. With more colons, which may stand in
    strings or nested objects, the slow parser decides.
    """
    colons = text.count(":") if isinstance(text, str) else text.count(b":")
    keys = len(document) + sum(len(v) for v in document.values() if type(v) is dict)
    if colons == keys:
        return
    try:
        json.loads(text, object_pairs_hook=_object_without_duplicates)
    except RecursionError:
        raise RequestRefused(
            ErrorCode.BROKEN_JSON, "Invalid JSON: nested deeper than the parser's limit"
        ) from None


def _object_without_duplicates(pairs: list[tuple[str, object]]) -> None:
    seen = set()
    for key, _ in pairs:
        if key in seen:
            message = f"Invalid JSON: the key {key[:32]!r} appears twice in one object"
            raise RequestRefused(ErrorCode.BROKEN_JSON, message)
        seen.add(key)


def choose_puid(parameter: str, in_document: str | None) -> str:
    """Choose the puid: the parameter, the document's, or a new one of 40 hex digits.

    Raises:
        RequestRefused: Longer than MAX_PUID characters.
    """
    puid = parameter or in_document
    if not puid:
        return secrets.token_hex(20)
    if len(puid) > MAX_PUID:
        field = "puid" if parameter else "meta.puid"
        raise RequestRefused(
            ErrorCode.WRONG_DATA, f"{field} has {len(puid)} characters, limit {MAX_PUID}"
        )
    return puid


def check_callback(name: str) -> str:
    """Check that the callback is a function name.

    Raises:
        RequestRefused: Invalid characters, or too long.
    """
    if name and not _CALLBACK.fullmatch(name):
        raise RequestRefused(
            ErrorCode.CALLBACK, "jsonpCallback must be 1 to 128 of the characters A-Z a-z 0-9 _ . $"
        )
    return name


def wrap(callback: str, document: bytes) -> bytes:
    """Wrap a document as JSONP."""
    # JSON allows these two raw; JavaScript before 2019 treats them as line ends.
    document = document.replace(b"\xe2\x80\xa8", b"\\u2028").replace(b"\xe2\x80\xa9", b"\\u2029")
    return b"%b(%b)" % (callback.encode(), document)


def decode(message: HttpRequest, served: Served) -> InferenceRequest:
    """Decode a request of either path; its id is the puid.

    Raises:
        RequestRefused: Invalid parameters, body or document.
        InvalidInput: Invalid instances.
    """
    parameters = parse_parameters(message.query.encode("latin-1"))
    callback = ""
    jsonp = message.path == JS_PREDICT
    if jsonp:
        callback = check_callback(parameters.get("jsonpCallback", ""))
    text: str | bytes | None = parameters.get("json")
    field = "json"
    if message.method == "POST":
        if message.encoding.lower() not in ("", "identity"):
            raise RequestRefused(
                ErrorCode.CONTENT_TYPE,
                f"Content-Encoding is {message.encoding[:32]!r}, expected none",
            )
        if message.body and _is_form(message.content_type):
            parameters = parse_parameters(message.body) | parameters
            text = parameters.get("json")
            if jsonp:
                callback = check_callback(parameters.get("jsonpCallback", ""))
        elif message.body and text is None:
            text, field = message.body, "the body"
    if text is None:
        raise RequestRefused(ErrorCode.WRONG_DATA, NO_DOCUMENT)
    view = classifier_of(served.model)
    document = parse_document(text, field)
    puid = choose_puid(parameters.get("puid", ""), document.puid)
    inputs = view.inputs(parse_instances(document.data, view.features, document.may_hold_booleans))
    return InferenceRequest(inputs, len(inputs[view.input]), puid, (view, callback))


def encode(
    message: HttpRequest, request: InferenceRequest, computed: Computed, served: Served
) -> HttpResponse:
    """Encode the response; each score reads back as the float32 widened to a double."""
    view: ClassifierView
    view, callback = request.options
    scores = view.scores(computed.outputs)
    labels = view.classes * len(scores)
    body = orjson.dumps(
        {
            "meta": {
                "puid": request.id,
                "modelName": served.model.name,
                "variation": served.variation,
            },
            "predictions": [
                {"prediction": value, "predictedClass": name, "confidence": value}
                for name, value in zip(labels, scores.ravel().tolist(), strict=True)
            ],
            "custom": None,
        }
    )
    if callback:
        return HttpResponse(wrap(callback, body), HTTPStatus.OK, JAVASCRIPT)
    return HttpResponse(body, HTTPStatus.OK)


def refuse(message: HttpRequest, error: ServingError) -> HttpResponse:
    """Encode an error, in the request's callback if it has a valid one."""
    code = error.code if isinstance(error, RequestRefused) else CODE_OF_KIND[error.kind]
    text = MESSAGES[code] if isinstance(error, ServerFailed) else str(error)
    body = error_document(code.error_id, text, code.status)
    headers = (("Retry-After", "1"),) if code is ErrorCode.OVERLOADED else ()
    if message.path == JS_PREDICT and (callback := _find_callback(message)):
        # A script tag ignores other statuses; the document has the error's.
        wrapped = wrap(callback, body)
        return HttpResponse(wrapped, HTTPStatus.OK, JAVASCRIPT, headers, outcome=code.status)
    return HttpResponse(body, code.status, JSON, headers)


def _find_callback(message: HttpRequest) -> str:
    """The callback of a request that may be invalid elsewhere; the query comes before a form."""
    callback = ""
    with suppress(ServingError):
        parameters = parse_parameters(message.query.encode("latin-1"))
        callback = check_callback(parameters.get("jsonpCallback", ""))
        if not callback and message.method == "POST" and _is_form(message.content_type):
            parameters = parse_parameters(message.body)
            callback = check_callback(parameters.get("jsonpCallback", ""))
    return callback


def _is_form(content_type: str) -> bool:
    """Whether the body is a form; otherwise it is JSON, or refused."""
    content_type = content_type.partition(";")[0].strip().lower()
    if content_type == FORM:
        return True
    # Without a Content-Type the body is most likely JSON.
    if content_type in ("", JSON) or content_type.endswith("+json"):
        return False
    message = f"Content-Type is {content_type[:64]!r}, expected {JSON} or {FORM}"
    raise RequestRefused(ErrorCode.CONTENT_TYPE, message)


def _type_name(value: object) -> str:
    return _JSON_TYPES.get(type(value), "another type")
