"""Read HTTP/1.x requests, one after the other, from the bytes of a connection.

A `RequestReader` returns a request once its head and its body are complete, however many pieces
they arrive in. Most requests arrive in one piece and take the short way through `read`.
llhttp (httptools) checks the header section, and refuses what proxies could read in two ways.
"""

import re
from enum import Enum, auto
from http import HTTPStatus
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from serving_core.protocols.http import HttpRequest
from serving_core.protocols.seldon.rest import ErrorCode, RequestRefused

# Beyond this limit the rest of a body that is too large is not read: the connection closes.
MAX_DISCARDED_BYTES = 16 << 20

_MAX_TRAILERS_BYTES = 8 << 10
_MAX_LENGTH_DIGITS = 20

_METHODS = {name.encode(): name for name in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS")}
_METHOD = re.compile(rb"[A-Z0-9!$%&'*+.^_`|~-]{3,20}")
_VERSIONS = {b"HTTP/1.1": "1.1", b"HTTP/1.0": "1.0"}
# RFC 3986: a target is visible ASCII; a server never receives a fragment.
_TARGET_BYTES = bytes(set(range(0x21, 0x7F)) - set(b"#"))
_LINE_BYTES = bytes(range(0x20, 0x7F)) + b"\r"
_ABSOLUTE_FORM = re.compile(rb"https?://[^/?]+", re.IGNORECASE)
_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_EXTENSION = rb"[ \t]*;[ \t]*" + _TOKEN + rb"(?:=(?:" + _TOKEN + rb'|"[\t !#-[\]-~]*"))?'
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,16})(?:" + _EXTENSION + rb")*")
# Headers of interest: fields of HttpRequest, then those of the connection and the body.
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
    b"expect": "expect",
    b"host": "host",
    b"transfer-encoding": "coding",
}
_OWN = frozenset(("length", "connection", "expect", "host", "coding"))
_NOT_REPEATED = frozenset(("content_type", "length", "coding", "expect", "host"))


class Limits(NamedTuple):
    """Limits of one request.

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


class RequestMalformed(Exception):
    """The head is no HTTP/1.x or exceeds a limit; nothing after it can be read."""

    def __init__(self, status: HTTPStatus, code: ErrorCode, message: str) -> None:
        """`message` is safe to return to the caller; the status may differ from the code's."""
        super().__init__(message)
        self.status = status
        self.code = code


class ReceivedRequest:
    """A request with what the connection needs of it.

    Attributes:
        request: The request; with its body when it is complete.
        refusal: Why the body cannot be read.
        version: "1.1" or "1.0".
        lines: The header lines, for a WSGI environment.
        close: Whether the connection closes after the response.
        expects_continue: Whether the caller waits for the status 100 before it sends the body.
    """

    __slots__ = ("close", "expects_continue", "lines", "refusal", "request", "version")

    def __init__(self, request: HttpRequest, version: str, lines: list[bytes]) -> None:
        """A request without a body."""
        self.request = request
        self.version = version
        self.lines = lines
        self.close = False
        self.expects_continue = False
        self.refusal: RequestRefused | None = None


class _Body(Enum):
    """What comes next of an incomplete body."""

    BYTES = auto()
    CHUNK_SIZE = auto()
    CHUNK = auto()
    TRAILERS = auto()


class RequestReader:
    """Reads the requests of one connection.

    `pending` is the request whose head is complete and whose body is not.
    """

    __slots__ = (
        "_body",
        "_buffer",
        "_discarded",
        "_left",
        "_limits",
        "_line_end",
        "_may_begin_empty",
        "_next",
        "_seen",
        "_validator",
        "pending",
    )
    _body: bytearray | None
    _discarded: int
    _left: int
    _next: _Body
    _validator: HttpRequestParser | None

    def __init__(self, limits: Limits) -> None:
        """Start at the first byte of a request."""
        self._limits = limits
        self.pending: ReceivedRequest | None = None
        self._buffer: bytes | bytearray = b""
        self._may_begin_empty = True
        self._start_head()

    def _start_head(self) -> None:
        self._seen = 0  # bytes of a head without an end
        self._line_end = -1
        self._validator = None

    @property
    def started(self) -> bool:
        """Whether bytes of the next request have arrived."""
        return self.pending is not None or len(self._buffer) > 0

    def read(self, data: bytes) -> ReceivedRequest | None:
        """Read on.

        Args:
            data: The bytes received next; empty to read a request that has already arrived.

        Returns:
            The next request, or None while it is incomplete.

        Raises:
            RequestMalformed: The connection can be read no further.
        """
        buffer: bytes | bytearray = self._buffer
        if not buffer:
            buffer = data
        elif data:
            if isinstance(buffer, bytes):
                buffer = bytearray(buffer)
            buffer += data
        if self.pending is not None:
            self._buffer = buffer
            return self._read_body()
        seen = self._seen
        # Searching for one byte is much faster than for four.
        line_end = self._line_end if self._line_end >= 0 else buffer.find(b"\r", seen)
        if line_end == 0 and self._may_begin_empty and buffer.startswith(b"\r\n"):
            self._may_begin_empty = False  # RFC 9112, 2.2: one empty line is ignored
            self._buffer = buffer[2:]
            return self.read(b"")
        head_end = -1
        if line_end >= 0:
            begin = line_end if seen < 4 else max(line_end, seen - 3)
            head_end = buffer.find(b"\r\n\r\n", begin)
        if head_end < 0:
            if len(buffer) > 1:  # a single byte may begin that empty line
                self._check_incomplete_head(buffer)
            self._buffer = buffer
            return None
        self._may_begin_empty = True
        if seen:
            self._start_head()
        if not isinstance(buffer, bytes):
            buffer = bytes(buffer)
        found, length = parse_head(buffer, line_end, head_end, self._limits)
        begin = head_end + 4
        if length is not None and begin + length <= len(buffer) and length <= self._limits.body:
            end = begin + length
            self._buffer = buffer[end:]
            return found
        self._start_body(found, length)
        self._buffer = buffer[begin:]
        return self._read_body()

    def fail(self, code: ErrorCode, message: str) -> ReceivedRequest:
        """Return the pending request with the reason why its body cannot be read."""
        request = self.pending
        assert request is not None  # noqa: S101  # callers check it
        too_large = self._body is None
        request.refusal = self._too_large() if too_large else RequestRefused(code, message)
        request.close = True
        self.pending = None
        self._buffer = b""
        return request

    def _check_incomplete_head(self, buffer: bytes | bytearray) -> None:
        """Refuse a head that no further bytes can mend, in time linear in its length."""
        limits = self._limits
        seen, self._seen = self._seen, len(buffer)
        if self._line_end < 0:
            self._line_end = buffer.find(b"\r", seen)
            line = buffer if self._line_end < 0 else buffer[: self._line_end]
            if len(line) > limits.line:
                raise _line_too_long(limits)
            if self._line_end < 0:
                if buffer[seen:].translate(None, _LINE_BYTES):
                    raise _malformed("the request line has a byte that is no visible ASCII")
                return
            _parse_request_line(bytes(line))
            seen = self._line_end
            self._validator = HttpRequestParser(None)
            self._validator.feed_data(b"GET / HTTP/1.1")
        assert self._validator is not None  # noqa: S101
        if len(buffer) - self._line_end > limits.section:
            raise _headers_too_large(limits)
        _feed(self._validator, bytes(buffer[seen:]))

    def _start_body(self, request: ReceivedRequest, length: int | None) -> None:
        self.pending = request
        self._left = length or 0
        self._next = _Body.CHUNK_SIZE if length is None else _Body.BYTES
        # None for a body that is too large. It is read to its end nevertheless: most callers read
        # no response before they have sent it.
        self._body = bytearray() if self._left <= self._limits.body else None
        self._discarded = 0

    def _read_body(self) -> ReceivedRequest | None:
        request = self.pending
        assert request is not None  # noqa: S101
        try:
            self._check_discarded()
            if self._next is _Body.BYTES:
                self._buffer = self._buffer[self._take(0) :]
                complete = not self._left
            else:
                complete = self._read_chunks()
        except RequestRefused as error:
            return self.fail(error.code, str(error))
        if not complete:
            return None
        self.pending = None
        self._buffer = bytes(self._buffer)
        if self._body is None:
            request.refusal = self._too_large()
        else:
            request.request = request.request._replace(body=bytes(self._body))
        return request

    def _take(self, begin: int) -> int:
        """Take what has arrived of the `_left` bytes; return where it ends in the buffer."""
        end = min(begin + self._left, len(self._buffer))
        size = end - begin
        self._left -= size
        if self._body is not None and len(self._body) + size > self._limits.body:
            self._body = None
        if self._body is None:
            self._discarded += size
            self._check_discarded()
        else:
            self._body += memoryview(self._buffer)[begin:end]
        return end

    def _check_discarded(self) -> None:
        """Refuse a body that is too large and whose end is not worth waiting for."""
        if self._body is None and (
            self._discarded + self._left > MAX_DISCARDED_BYTES
            or (self.pending is not None and self.pending.expects_continue)
        ):
            raise self._too_large()

    def _read_chunks(self) -> bool:
        """Read chunks and trailers (RFC 9112, 7.1); return whether the last one is complete."""
        limits = self._limits
        data, at, complete = self._buffer, 0, False
        while True:
            if self._next is _Body.CHUNK:
                at = self._take(at)
                if self._left or len(data) - at < 2:
                    break
                if data[at : at + 2] != b"\r\n":
                    raise _unreadable("a chunk is longer than its size")
                at += 2
                self._next = _Body.CHUNK_SIZE
            elif self._next is _Body.CHUNK_SIZE:
                end = data.find(b"\r\n", at)
                if end < 0:
                    if len(data) - at > limits.header or b"\n" in data[at:]:
                        raise _unreadable("a chunk has no size")
                    break
                match = _CHUNK_SIZE.fullmatch(data, at, end)
                if match is None or end - at > limits.header:
                    raise _unreadable("a chunk's size is no hexadecimal number")
                self._left = int(match[1], 16)
                self._next = _Body.CHUNK if self._left else _Body.TRAILERS
                at = end + 2
            else:
                end = at - 2 if data[at : at + 2] == b"\r\n" else data.find(b"\r\n\r\n", at)
                if end < 0 and len(data) - at <= _MAX_TRAILERS_BYTES:
                    break
                if end < 0:
                    raise _unreadable("the trailers are too large")
                try:
                    _feed(HttpRequestParser(None), b"GET / HTTP/1.1\r\n" + data[at : end + 4])
                except RequestMalformed as error:
                    raise _unreadable(str(error)) from None
                at = end + 4
                complete = True
                break
        self._buffer = data[at:]
        return complete

    def _too_large(self) -> RequestRefused:
        message = f"the body exceeds the limit of {self._limits.body} bytes"
        return RequestRefused(ErrorCode.TOO_LARGE, message)


def parse_head(
    data: bytes, line_end: int, head_end: int, limits: Limits
) -> tuple[ReceivedRequest, int | None]:
    """Parse a complete head.

    Args:
        data: Received bytes, from the start of a request; the body may follow.
        line_end: Where the first CR is, which ends the request line.
        head_end: Where the empty line after the headers begins, with the CRLF before it.
        limits: The limits.

    Returns:
        The request, with what has arrived of its body, and the body's length; None if chunked.

    Raises:
        RequestMalformed: The head is malformed or exceeds a limit.
    """
    if line_end > limits.line:
        raise _line_too_long(limits)
    method, path, query, version = _parse_request_line(data[:line_end])
    section = data[line_end : head_end + 4]
    lines = section[2:-4].split(b"\r\n")
    if (
        len(lines) > limits.headers
        or len(section) > limits.section
        or (len(section) > limits.header and max(map(len, lines)) > limits.header)
    ):
        raise _headers_too_large(limits)
    # llhttp scans the target byte by byte, 20 us for 10 KB: it gets a short one instead.
    _feed(HttpRequestParser(None), b"GET / HTTP/1.1" + section)
    fields: dict[str, Any] = {}
    own: dict[str, str] = {}  # of the connection and the body
    for line in lines:  # llhttp guarantees one header in each
        name, _, value = line.partition(b":")
        field = _HEADERS.get(name.lower())
        if field is None:
            continue
        into = own if field in _OWN else fields
        text = value.strip(b" \t").decode("latin-1")
        if field in into:
            if field in _NOT_REPEATED:
                raise _malformed(f"the header {name.decode()} appears twice")
            text = f"{into[field]},{text}"
        into[field] = text
    digits = own.get("length", "0")
    if len(digits) > _MAX_LENGTH_DIGITS:
        raise _malformed(f"Content-Length has {len(digits)} digits")
    length = int(digits)
    body = data[head_end + 4 : head_end + 4 + length]
    request = ReceivedRequest(HttpRequest(path, method, query, body=body, **fields), version, lines)
    request.close = version == "1.0"
    coding = own.get("coding")
    if "connection" in own:
        options = [option.strip() for option in own["connection"].lower().split(",")]
        request.close = "close" in options or (request.close and "keep-alive" not in options)
    if "expect" in own:
        if own["expect"].lower() != "100-continue":
            raise RequestMalformed(
                HTTPStatus.EXPECTATION_FAILED,
                ErrorCode.GENERIC,
                f"Expect is {own['expect'][:32]!r}, expected 100-continue",
            )
        request.expects_continue = version == "1.1"
    if coding is None:
        return request, length
    if version == "1.0":
        raise _malformed("Transfer-Encoding in HTTP/1.0")
    if coding.lower() != "chunked":
        raise _unsupported_coding(coding)
    return request, None


def _parse_request_line(line: bytes) -> tuple[str, str, str, str]:
    """Return the method, the path, the query and the version."""
    verb, _, rest = line.partition(b" ")
    target, _, protocol = rest.rpartition(b" ")
    method = _METHODS.get(verb)
    if method is None:
        if not _METHOD.fullmatch(verb):
            raise _malformed("the request line does not begin with a method")
        method = verb.decode("ascii")
    version = _VERSIONS.get(protocol)
    if version is None:
        raise _malformed("the request line does not end with HTTP/1.1 or HTTP/1.0")
    if target.translate(None, _TARGET_BYTES):
        raise _malformed("the target has a byte that a URL does not have")
    if not target.startswith(b"/"):
        absolute = _ABSOLUTE_FORM.match(target)
        if absolute is not None:
            target = target[absolute.end() :]
            if not target.startswith(b"/"):
                target = b"/" + target
        elif target != b"*" or method != "OPTIONS":
            raise _malformed("the target is no absolute path and no absolute URL")
    path, _, query = target.partition(b"?")
    if b"%" in path:
        path = unquote_to_bytes(path)
    return method, path.decode("latin-1"), query.decode("ascii"), version


def _feed(validator: HttpRequestParser, data: bytes) -> None:
    try:
        validator.feed_data(data)
    except HttpParserUpgrade:
        return  # RFC 9110, 7.8: a server may ignore it
    except HttpParserError as error:
        raise _malformed(str(error)) from None


def _malformed(reason: str) -> RequestMalformed:
    message = f"the request is malformed: {reason}"
    return RequestMalformed(HTTPStatus.BAD_REQUEST, ErrorCode.GENERIC, message)


def _unsupported_coding(coding: str) -> RequestMalformed:
    message = f"Transfer-Encoding is {coding[:32]!r}, expected chunked"
    return RequestMalformed(HTTPStatus.NOT_IMPLEMENTED, ErrorCode.GENERIC, message)


def _unreadable(reason: str) -> RequestRefused:
    return RequestRefused(ErrorCode.BROKEN_JSON, f"the body cannot be read: {reason}")


def _line_too_long(limits: Limits) -> RequestMalformed:
    message = f"the request line exceeds the limit of {limits.line} bytes"
    return RequestMalformed(HTTPStatus.REQUEST_URI_TOO_LONG, ErrorCode.TOO_LARGE, message)


def _headers_too_large(limits: Limits) -> RequestMalformed:
    message = (
        f"the headers exceed a limit: {limits.headers} headers,"
        f" {limits.header} bytes each, {limits.section} bytes together"
    )
    status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
    return RequestMalformed(status, ErrorCode.TOO_LARGE, message)
