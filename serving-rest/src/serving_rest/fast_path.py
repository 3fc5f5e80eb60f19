"""The fast path: parse a complete, plain prediction request from received bytes.

Every other request (another path, a chunked body, `Expect`, a repeated header, an error) falls back
to gunicorn in a thread, which implements HTTP/1.1 and refuses what is malformed.
"""

from typing import NamedTuple

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from serving_core.protocols.http import HttpRequest
from serving_rest.app import HttpCodec, codec_of

# RFC 3986: a target is visible ASCII; a server never receives a fragment.
_QUERY_BYTES = bytes(set(range(0x21, 0x7F)) - set(b"#"))
# Headers of interest: fields of HttpRequest, then three for the connection.
_HEADERS = {
    b"x-seldon-client": "client",
    b"x-seldon-variation": "variation",
    b"x-seldon-models": "models",
    b"x-envoy-expected-rq-timeout-ms": "deadline_ms",
    b"content-type": "content_type",
    b"content-encoding": "encoding",
    b"inference-header-content-length": "header_length",
    b"content-length": "length",
    b"connection": "connection",
    b"host": "host",
}
_UNSUPPORTED = "unsupported"
_HEADERS |= dict.fromkeys((b"expect", b"upgrade", b"transfer-encoding", b"trailer"), _UNSUPPORTED)


class Limits(NamedTuple):
    """Limits of one request; gunicorn refuses what exceeds them.

    Attributes:
        line: Bytes of the request line.
        headers: Number of headers.
        header: Bytes of one header.
        section: Bytes of all headers together.
        body: Bytes of the body.
    """

    line: int
    headers: int
    header: int
    section: int
    body: int


class ParsedRequest(NamedTuple):
    """A complete request of a protocol."""

    codec: HttpCodec
    request: HttpRequest
    consumed: int  # bytes of head and body
    close_after_response: bool


class NotOnFastPath(Exception):
    """The request is not a plain prediction, or is malformed; gunicorn handles it."""


def parse(data: bytes, limits: Limits) -> ParsedRequest | None:
    """Parse one request.

    Args:
        data: Received bytes, from the start of a request.
        limits: A request that exceeds one falls back to gunicorn.

    Returns:
        None while the request is incomplete.

    Raises:
        NotOnFastPath: The request is of another kind, or malformed.
    """
    line_end = data.find(b"\r")
    head_end = data.find(b"\r\n\r\n", line_end)
    if head_end < 0:
        if len(data) > limits.line:
            raise NotOnFastPath
        _validate(data)  # fail early: a malformed head needs no further bytes
        return None
    codec, method, path, query = _parse_request_line(data[:line_end])
    # llhttp scans the target byte by byte, 20 us for 10 KB: it gets a short one instead.
    _validate(b"GET / HTTP/1.1" + data[line_end : head_end + 4])
    # The limit of one header applies to the whole section here.
    lines = data[line_end + 2 : head_end].split(b"\r\n")
    if line_end > limits.line or head_end - line_end > limits.header or len(lines) > limits.headers:
        raise NotOnFastPath
    fields, length, close = _parse_headers(lines)
    if length > limits.body:
        raise NotOnFastPath
    begin = head_end + 4
    end = begin + length
    if len(data) < end:
        return None
    request = HttpRequest(path, method, query, body=data[begin:end], **fields)
    return ParsedRequest(codec, request, end, close)


def _validate(head: bytes) -> None:
    try:
        HttpRequestParser(None).feed_data(head)
    except (HttpParserError, HttpParserUpgrade):
        raise NotOnFastPath from None


def _parse_request_line(line: bytes) -> tuple[HttpCodec, str, str, str]:
    """Return the protocol, the method, the path and the query."""
    verb, _, rest = line.partition(b" ")
    target, _, version = rest.rpartition(b" ")
    path, _, query = target.partition(b"?")
    codec = codec_of(verb.decode("latin-1"), path.decode("latin-1"))
    if codec is None or version != b"HTTP/1.1" or query.translate(None, _QUERY_BYTES):
        raise NotOnFastPath
    return codec, verb.decode("ascii"), path.decode("ascii"), query.decode("ascii")


def _parse_headers(lines: list[bytes]) -> tuple[dict[str, str], int, bool]:
    """Return the fields of HttpRequest, the body's length and whether the connection closes.

    `_validate` guarantees one header per line and a decimal Content-Length.
    """
    fields: dict[str, str] = {}
    close = False
    for line in lines:
        name, _, value = line.partition(b":")
        field = _HEADERS.get(name.lower())
        if field is None:
            continue
        text = value.strip(b" \t").decode("latin-1")
        if field == "connection":
            option = text.lower()
            if option not in ("close", "keep-alive"):
                raise NotOnFastPath
            close = close or option == "close"
        elif field in fields or field is _UNSUPPORTED:
            raise NotOnFastPath
        else:
            fields[field] = text
    fields.pop("host", None)
    length = int(fields.pop("length", "0"))
    return fields, length, close
