"""Decode requests and encode responses of the API: JSON, forms and JSONP.

Every error on the wire is an `ErrorCode`; `CODE_OF_KIND` maps the kinds of ServingError.
"""

import json
import re
import secrets
from collections.abc import Sequence
from enum import Enum
from http import HTTPStatus
from typing import NamedTuple
from urllib.parse import parse_qsl

import numpy as np
import orjson
from numpy.typing import NDArray

from serving_core import ErrorKind

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
    ErrorKind.NOT_READY: ErrorCode.NOT_READY,
    ErrorKind.OVERLOADED: ErrorCode.OVERLOADED,
    ErrorKind.DEADLINE_EXCEEDED: ErrorCode.DEADLINE_PASSED,
    ErrorKind.INTERNAL: ErrorCode.GENERIC,
}


class RequestRefused(Exception):
    """The request is invalid; `str(error)` is safe to return to the caller."""

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


def reply(
    scores: NDArray[np.float32],
    classes: Sequence[str],
    model_name: str,
    puid: str,
    variation: str,
) -> bytes:
    """Encode the response to a prediction.

    Each score reads back as the float32 widened to a double, as over gRPC.

    Args:
        scores: Shape (classes,), or (instances, classes) for several instances.
        classes: Names in the order of the scores.
        model_name: For meta.modelName.
        puid: For meta.puid.
        variation: For meta.variation.
    """
    labels = tuple(classes) * (scores.size // len(classes))
    return orjson.dumps(
        {
            "meta": {"puid": puid, "modelName": model_name, "variation": variation},
            "predictions": [
                {"prediction": value, "predictedClass": name, "confidence": value}
                for name, value in zip(labels, scores.ravel().tolist(), strict=True)
            ],
            "custom": None,
        }
    )


def server_timing(total_s: float, queue_s: float | None, compute_s: float | None) -> str:
    """The Server-Timing header: milliseconds with three decimals."""
    if queue_s is None or compute_s is None:
        return f"total;dur={total_s * 1e3:.3f}"
    return (
        f"queue;dur={queue_s * 1e3:.3f}, compute;dur={compute_s * 1e3:.3f}, "
        f"total;dur={total_s * 1e3:.3f}"
    )


def _type_name(value: object) -> str:
    return _JSON_TYPES.get(type(value), "another type")
