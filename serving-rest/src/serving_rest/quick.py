"""The requests that a worker's loop reads and answers by itself: plain predictions, all there.

Whatever is not plainly one of them (another path, a chunked body, `Expect`, a header twice, an
error) is left to gunicorn, in a thread: it knows all of HTTP, and refuses as it should.
"""

from collections.abc import Iterable
from typing import NamedTuple

import gunicorn_h1c  # type: ignore[import-untyped]

from serving_rest.app import JS_PREDICT, PREDICT, PREDICT_METHODS, Request

_PATHS = {path.encode(): path for path in (JS_PREDICT, PREDICT)}
_METHODS = {method.encode(): method for method in PREDICT_METHODS}
# What they mean here, as the fields of Request; any other header means nothing to a prediction.
_FIELDS = {
    b"x-seldon-client": "client",
    b"x-seldon-variation": "variation",
    b"x-envoy-expected-rq-timeout-ms": "deadline_ms",
    b"content-type": "content_type",
    b"content-encoding": "encoding",
}
_NOT_QUICK = frozenset({b"expect", b"upgrade", b"transfer-encoding", b"trailer"})


class Limits(NamedTuple):
    """As gunicorn's, by which its own way refuses."""

    line: int
    headers: int
    header: int
    body: int


class Quick(NamedTuple):
    """A request, its body, and how the connection goes on."""

    request: Request
    body: bytes
    length: int
    last: bool  # the caller wants the connection closed after the answer


class NotQuick(Exception):
    """The bytes are not what the loop answers; gunicorn's way takes them."""


def read(data: bytes, limits: Limits) -> Quick | None:
    """Read one request.

    Args:
        data: From the beginning of a request on.
        limits: Past them it is not quick.

    Returns:
        None where some of it is still to come.

    Raises:
        NotQuick: It is something else, or wrong.
    """
    try:
        head = gunicorn_h1c.parse_request(
            data,
            limit_request_line=limits.line,
            limit_request_fields=limits.headers,
            limit_request_field_size=limits.header,
        )
    except gunicorn_h1c.IncompleteError:
        if len(data) > limits.line:
            raise NotQuick from None
        return None
    except gunicorn_h1c.ParseError:
        raise NotQuick from None
    target: bytes = head["path"]
    path, _, query = target.partition(b"?")
    method = _METHODS.get(head["method"])
    fields, length, last = _read_headers(head["headers"])
    if (
        path not in _PATHS
        or method is None
        or head["minor_version"] != 1
        or length > limits.body
        or b"#" in query
        or not query.isascii()
        or data.startswith(b"\r\n")
    ):
        raise NotQuick
    begin: int = head["consumed"]
    end = begin + length
    if len(data) < end:
        return None
    request = Request(_PATHS[path], method, query.decode("ascii"), **fields)
    return Quick(request, data[begin:end], end, last)


def _read_headers(headers: Iterable[tuple[bytes, bytes]]) -> tuple[dict[str, str], int, bool]:
    """What they say that means something here, the body's length, whether the connection ends."""
    fields: dict[str, str] = {}
    length, last = 0, False
    for name, value in headers:
        name = name.lower()
        field = _FIELDS.get(name)
        if field is not None:
            if field in fields:
                raise NotQuick
            fields[field] = value.decode("latin-1")
        elif name == b"content-length":  # digits, and there once: the parser sees to it
            length = int(value)
        elif name == b"connection":
            option = value.lower()
            if option not in (b"close", b"keep-alive"):
                raise NotQuick
            last = last or option == b"close"
        elif name in _NOT_QUICK:
            raise NotQuick
    return fields, length, last
