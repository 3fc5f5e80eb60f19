"""The requests that a worker's loop reads and answers by itself: plain predictions, all there.

Whatever is not plainly one of them (another path, a chunked body, `Expect`, a header twice, an
error) is left to gunicorn, in a thread: it knows all of HTTP, and refuses as it should.
"""

from typing import NamedTuple

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from serving_rest.app import JS_PREDICT, PREDICT, PREDICT_METHODS, Request

_PATHS = {path.encode(): path for path in (JS_PREDICT, PREDICT)}
_METHODS = {method.encode(): method for method in PREDICT_METHODS}
# RFC 3986: a target is visible ASCII; a server never sees a fragment.
_IN_QUERY = bytes(set(range(0x21, 0x7F)) - set(b"#"))
# What they mean here, as the fields of Request; the last three are for the loop. Any other header
# means nothing to a prediction, but for those that are not quick.
_MEANINGS = {
    b"x-seldon-client": "client",
    b"x-seldon-variation": "variation",
    b"x-envoy-expected-rq-timeout-ms": "deadline_ms",
    b"content-type": "content_type",
    b"content-encoding": "encoding",
    b"content-length": "length",
    b"connection": "connection",
    b"host": "host",
}
_NOT_QUICK = "not quick"
_MEANINGS |= dict.fromkeys((b"expect", b"upgrade", b"transfer-encoding", b"trailer"), _NOT_QUICK)


class Limits(NamedTuple):
    """Of one request; past them gunicorn's way refuses.

    Attributes:
        line: Bytes of the request line.
        headers: How many there may be.
        header: Bytes of one header.
        section: Bytes of all headers together.
        body: Bytes of the body.
    """

    line: int
    headers: int
    header: int
    section: int
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
    line_end = data.find(b"\r")
    head_end = data.find(b"\r\n\r\n", line_end)
    if head_end < 0:
        if len(data) > limits.line:
            raise NotQuick
        _check(data)  # what is wrong already need not be waited for
        return None
    method, path, query = _read_line(data[:line_end])
    # llhttp would go over the target byte by byte: of 10 KB that takes 20 us.
    _check(b"GET / HTTP/1.1" + data[line_end : head_end + 4])
    # All headers together are limited here as gunicorn limits each.
    lines = data[line_end + 2 : head_end].split(b"\r\n")
    if line_end > limits.line or head_end - line_end > limits.header or len(lines) > limits.headers:
        raise NotQuick
    fields, length, last = _read_headers(lines)
    if length > limits.body:
        raise NotQuick
    begin = head_end + 4
    end = begin + length
    if len(data) < end:
        return None
    request = Request(path, method, query, **fields)
    return Quick(request, data[begin:end], end, last)


def _check(head: bytes) -> None:
    try:
        HttpRequestParser(None).feed_data(head)
    except (HttpParserError, HttpParserUpgrade):
        raise NotQuick from None


def _read_line(line: bytes) -> tuple[str, str, str]:
    """Take the method, the path and the query out of a request line."""
    verb, _, rest = line.partition(b" ")
    target, _, version = rest.rpartition(b" ")
    path, _, query = target.partition(b"?")
    method = _METHODS.get(verb)
    if (
        method is None
        or path not in _PATHS
        or version != b"HTTP/1.1"
        or query.translate(None, _IN_QUERY)
    ):
        raise NotQuick
    return method, _PATHS[path], query.decode("ascii")


def _read_headers(lines: list[bytes]) -> tuple[dict[str, str], int, bool]:
    """What they say that means something here, the body's length, whether the connection ends.

    The parser has seen to it that each line is one header, and that no length is wrong.
    """
    fields: dict[str, str] = {}
    last = False
    for line in lines:
        name, _, value = line.partition(b":")
        meaning = _MEANINGS.get(name.lower())
        if meaning is None:
            continue
        text = value.strip(b" \t").decode("latin-1")
        if meaning == "connection":
            option = text.lower()
            if option not in ("close", "keep-alive"):
                raise NotQuick
            last = last or option == "close"
        elif meaning in fields or meaning is _NOT_QUICK:
            raise NotQuick
        else:
            fields[meaning] = text
    fields.pop("host", None)
    length = int(fields.pop("length", "0"))
    return fields, length, last
