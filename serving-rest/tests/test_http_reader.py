"""What the reader takes, what it refuses, and that gunicorn's parser reads the same."""

import time
from urllib.parse import unquote_to_bytes

import pytest
from gunicorn.config import Config
from gunicorn.http.errors import ParseException
from gunicorn.http.parser import RequestParser

from serving_core.protocols.http import HttpRequest
from serving_core.protocols.seldon.rest import ErrorCode, RequestRefused
from serving_rest.http_reader import (
    MAX_DISCARDED_BYTES,
    Limits,
    ReceivedRequest,
    RequestMalformed,
    RequestReader,
)

LIMITS = Limits(line=1 << 20, headers=64, header=96 << 10, section=1 << 20, body=1 << 20)
SMALL = LIMITS._replace(body=20)
BODY = b'{"data": [1]}'
GUNICORN = Config()
GUNICORN.set("http_parser", "python")
HEAD = b"POST /predict?puid=p HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n" % len(BODY)
CHUNKED = HEAD.replace(b"Content-Length: 13", b"Transfer-Encoding: chunked") + b"\r\n"
CHUNKS = b'5\r\n{"dat\r\n8;a=b\r\na": [1]}\r\n0\r\nX-Sum: 1\r\n\r\n'


def read(data: bytes, limits: Limits = LIMITS) -> ReceivedRequest | None:
    return RequestReader(limits).read(data)


def read_in_pieces(data: bytes, size: int) -> None:
    reader = RequestReader(LIMITS)
    for at in range(0, len(data), size):
        reader.read(data[at : at + size])


def complete(data: bytes, limits: Limits = LIMITS) -> ReceivedRequest:
    found = read(data, limits)
    assert found is not None
    return found


def refusal(request: ReceivedRequest) -> tuple[ErrorCode, str, bool]:
    """Why the body cannot be read, and whether the connection closes."""
    assert isinstance(request.refusal, RequestRefused)
    return request.refusal.code, str(request.refusal), request.close


def test_a_prediction_is_read_with_what_the_gateway_says_of_it() -> None:
    more = (
        b"X-Seldon-Client: acme\r\nx-seldon-variation: blue\r\nContent-Type: application/json\r\n"
        b"x-envoy-expected-rq-timeout-ms: 250\r\nx-request-id: 7\r\nx-seldon-models: a,b\r\n"
        b"Inference-Header-Content-Length: 9\r\n\r\n"
    )
    reader = RequestReader(LIMITS)
    found = reader.read(HEAD + more + BODY + b"GET /next")
    assert found is not None
    assert found.request == (
        *("/predict", "POST", "puid=p", "acme", "blue", "a,b", "application/json", "", "250"),
        *("9", BODY),
    )
    assert (found.refusal, found.close, found.version) == (None, False, "1.1")
    found = reader.read(b" HTTP/1.0\r\n\r\n")
    assert found is not None
    assert (found.request.path, found.close, found.version) == ("/next", True, "1.0")
    assert not reader.started


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        (b"/js/predict?json=%7B%7D", "/js/predict", "json=%7B%7D"),
        (b"/%70redict", "/predict", ""),
        (b"//predict?", "//predict", ""),
        (b"http://h/predict?a=1", "/predict", "a=1"),
        (b"HTTP://h:80", "/", ""),
        (b"http://h?a", "/", "a"),
    ],
)
def test_the_target_is_a_path_and_a_query(target: bytes, path: str, query: str) -> None:
    found = complete(b"GET " + target + b" HTTP/1.1\r\nHost: h\r\n\r\n").request
    assert (found.method, found.path, found.query) == ("GET", path, query)


def test_a_method_that_nobody_knows_is_read() -> None:
    assert complete(b"BREW /pot HTTP/1.1\r\nHost: h\r\n\r\n").request.method == "BREW"
    assert complete(b"OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n").request.path == "*"


@pytest.mark.parametrize(
    ("version", "options", "close"),
    [
        (b"1.1", [], False),
        (b"1.1", [b"Close"], True),
        (b"1.1", [b"keep-alive"], False),
        (b"1.1", [b"TE, close"], True),
        (b"1.1", [b"upgrade"], False),
        (b"1.1", [b"close", b"keep-alive"], True),
        (b"1.0", [], True),
        (b"1.0", [b"Keep-Alive"], False),
        (b"1.0", [b"keep-alive", b"close"], True),
    ],
)
def test_the_caller_says_whether_the_connection_stays(
    version: bytes, options: list[bytes], close: bool
) -> None:
    lines = b"".join(b"Connection: %b\r\n" % option for option in options)
    assert complete(b"GET / HTTP/%b\r\n%b\r\n" % (version, lines)).close is close


def test_chunks_are_joined() -> None:
    reader = RequestReader(LIMITS)
    found = reader.read(CHUNKED + CHUNKS + b"GET /next HTTP/1.1\r\n\r\n")
    assert found is not None
    assert (found.request.body, found.close) == (BODY, False)
    found = reader.read(b"")
    assert found is not None
    assert found.request.path == "/next"


WHOLE = {
    "a length": HEAD + b"X: y\r\n\r\n" + BODY,
    "chunks": CHUNKED + CHUNKS,
    "no body": b"\r\nGET /js/predict?json=%7B%7D HTTP/1.1\r\nHost: h\r\n\r\n",
    "no header": b"GET / HTTP/1.0\r\n\r\n",
}


@pytest.mark.parametrize("data", WHOLE.values(), ids=WHOLE)
def test_pieces_are_read_as_the_whole(data: bytes) -> None:
    whole = complete(data)
    for size in range(1, len(data)):
        reader = RequestReader(LIMITS)
        # Two of them, the second without a break.
        pieces = [(data * 2)[at : at + size] for at in range(0, 2 * len(data), size)]
        found = []
        for piece in pieces:
            request = reader.read(piece)
            while request is not None:
                found.append(request)
                request = reader.read(b"")
        assert not reader.started
        assert [one.request for one in found] == [whole.request] * 2, size
        assert [(one.close, one.lines) for one in found] == [(whole.close, whole.lines)] * 2


MALFORMED = {
    "both lengths": (400, HEAD + b"Transfer-Encoding: chunked\r\n\r\n"),
    "two lengths": (400, HEAD + b"Content-Length: 13\r\n\r\n" + BODY),
    "a negative length": (400, HEAD.replace(b"13", b"-13") + b"\r\n" + BODY),
    "two hosts": (400, HEAD + b"Host: other\r\n\r\n" + BODY),
    "two content types": (400, HEAD + b"Content-Type: a\r\nContent-Type: b\r\n\r\n" + BODY),
    "chunks in an old version": (400, CHUNKED.replace(b"1.1", b"1.0")),
    "a coding that nobody knows": (501, CHUNKED.replace(b"chunked", b"x, chunked")),
    "a coding without chunks": (400, CHUNKED.replace(b"chunked", b"gzip")),
    "another expectation": (417, HEAD + b"Expect: 200-ok\r\n\r\n"),
    "a version without a body": (400, b"GET /predict HTTP/2.0\r\n\r\n"),
    "no version": (400, b"GET /predict\r\n\r\n"),
    "a fragment": (400, b"GET /predict?a=1#b HTTP/1.1\r\nHost: h\r\n\r\n"),
    "a byte that is no text": (400, b"GET /predict?a=\xff HTTP/1.1\r\nHost: h\r\n\r\n"),
    "an authority": (400, b"CONNECT h:80 HTTP/1.1\r\nHost: h\r\n\r\n"),
    "an asterisk": (400, b"GET * HTTP/1.1\r\nHost: h\r\n\r\n"),
    "two empty lines first": (400, b"\r\n\r\n" + HEAD + b"\r\n" + BODY),
    "no HTTP": (400, b"no http at all\r\n\r\n"),
    "TLS": (400, b"\x16\x03\x01\x02\x00\x01"),
    "two spaces": (400, b"GET  /predict HTTP/1.1\r\nHost: h\r\n\r\n"),
    "a control character in the query": (400, b"GET /predict?a=\x01 HTTP/1.1\r\nHost: h\r\n\r\n"),
    "a bare LF": (400, HEAD + b"A: b\nC: d\r\n\r\n" + BODY),
    "a bare LF before the rest has come": (400, b"GET /predict HTTP/1.1\nHost: h\n\n"),
    "a bare LF in a header before the rest has come": (400, HEAD + b"A: b\nC"),
    "a bare CR": (400, HEAD + b"A: b\rC: d\r\n\r\n" + BODY),
    "a folded header": (400, HEAD + b"A: b\r\n c\r\n\r\n" + BODY),
    "a space before the colon": (400, HEAD + b"A : b\r\n\r\n" + BODY),
    "a header without a name": (400, HEAD + b": b\r\n\r\n" + BODY),
    "a header without a colon": (400, HEAD + b"A\r\n\r\n" + BODY),
    "a NUL": (400, HEAD + b"A: \0\r\n\r\n" + BODY),
    "a signed length": (400, HEAD.replace(b"13", b"+13") + b"\r\n" + BODY),
    "a list of lengths": (400, HEAD.replace(b"13", b"13, 13") + b"\r\n" + BODY),
    "no digit in a length": (400, HEAD.replace(b"13", b"") + b"\r\n" + BODY),
    "a length past 64 bits": (400, HEAD.replace(b"13", b"18446744073709551629") + b"\r\n" + BODY),
    "a long line": (414, b"GET /predict?" + b"a" * (1 << 20) + b" HTTP/1.1\r\nHost: h\r\n\r\n"),
    "a long line without an end": (414, b"GET /predict?" + b"a" * (1 << 20)),
    "many headers": (431, HEAD + b"A: b\r\n" * 64 + b"\r\n" + BODY),
    "a large header": (431, HEAD + b"A: " + b"b" * (97 << 10) + b"\r\n\r\n" + BODY),
    "large headers": (431, HEAD + (b"A: " + b"b" * (90 << 10) + b"\r\n") * 12 + b"\r\n" + BODY),
    "headers without an end": (431, HEAD + (b"A: " + b"b" * (90 << 10) + b"\r\n") * 12),
}


@pytest.mark.parametrize(("status", "data"), MALFORMED.values(), ids=MALFORMED)
def test_what_is_malformed_is_refused_with_the_reason(status: int, data: bytes) -> None:
    with pytest.raises(RequestMalformed) as refused:
        read(data)
    assert refused.value.status == status
    assert refused.value.code is (
        ErrorCode.TOO_LARGE if status in (414, 431) else ErrorCode.GENERIC
    )
    with pytest.raises(RequestMalformed) as refused:
        read_in_pieces(data, 1000 if len(data) > 4000 else 1)
    assert refused.value.status == status


@pytest.mark.parametrize(
    "data",
    [
        HEAD + b"Upgrade: h2c\r\nConnection: upgrade\r\n\r\n" + BODY,
        HEAD + b"X-Seldon-Client: a\r\nX-Seldon-Client: b\r\n\r\n" + BODY,
        HEAD + b"Trailer: X-Sum\r\n\r\n" + BODY,
        b"POST /predict HTTP/1.1\r\nContent-Length: 13\r\n\r\n" + BODY,
    ],
    ids=["an upgrade", "a client twice", "a trailer", "no host"],
)
def test_what_is_unusual_is_read(data: bytes) -> None:
    found = complete(data)
    assert (found.request.body, found.close) == (BODY, False)
    assert found.request.client in ("", "a,b")


def test_a_caller_that_waits_for_100_is_known() -> None:
    reader = RequestReader(LIMITS)
    assert reader.read(HEAD + b"Expect: 100-Continue\r\n\r\n") is None
    assert reader.pending is not None
    assert reader.pending.expects_continue
    found = reader.read(BODY)
    assert found is not None
    assert found.request.body == BODY


# Bodies that cannot be read


def test_a_large_body_is_read_to_its_end_and_refused() -> None:
    for data in (
        HEAD.replace(b"13", b"21") + b"\r\n" + b"x" * 21,
        CHUNKED + b"15\r\n" + b"x" * 21 + b"\r\n0\r\n\r\n",
        CHUNKED + b"a\r\n" + b"x" * 10 + b"\r\nb\r\n" + b"x" * 11 + b"\r\n0\r\n\r\n",
    ):
        reader = RequestReader(SMALL)
        found = reader.read(data + HEAD + b"\r\n" + BODY)
        assert found is not None
        message = "the body exceeds the limit of 20 bytes"
        assert refusal(found) == (ErrorCode.TOO_LARGE, message, False)
        found = reader.read(b"")
        assert found is not None
        assert found.request.body == BODY


def test_the_end_of_a_very_large_body_is_not_awaited() -> None:
    long = b"%d" % (MAX_DISCARDED_BYTES + 1)
    for data in (
        HEAD.replace(b"13", long) + b"\r\n",
        CHUNKED + b"%x\r\n" % (MAX_DISCARDED_BYTES + 1),
        CHUNKED + b"ffffffffffffffff\r\nx",
        HEAD.replace(b"13", b"21") + b"Expect: 100-continue\r\n\r\n",
    ):
        code, _, close = refusal(complete(data + b"x" * 30, SMALL))
        assert (code, close) == (ErrorCode.TOO_LARGE, True)


@pytest.mark.parametrize(
    "chunks",
    [
        *(b"no number\r\n", b"\r\n", b"-1\r\n", b"0x5\r\n", b"5 5\r\n", b"1" * 17 + b"\r\n"),
        *(b"1\r\nab\r\n", b"1\r\na\n0\r\n\r\n", b"1\na\r\n0\r\n\r\n", b"5;a\nb\r\n", b"1;\0\r\n"),
        *(b"1\r\na\r\n0\r\nbad trailer\r\n\r\n", b"0\r\nA: b\nC: d\r\n\r\n", b"1" * 100_000),
    ],
)
def test_chunks_without_a_frame_are_refused(chunks: bytes) -> None:
    code, message, close = refusal(complete(CHUNKED + chunks))
    assert (code, close) == (ErrorCode.BROKEN_JSON, True)
    assert message.startswith("the body cannot be read: ")


def test_a_body_that_does_not_come_is_refused_with_the_callers_reason() -> None:
    reader = RequestReader(LIMITS)
    assert reader.read(HEAD + b"\r\n" + BODY[:5]) is None
    late = refusal(reader.fail(ErrorCode.BODY_TIMEOUT, "too slow"))
    assert late == (ErrorCode.BODY_TIMEOUT, "too slow", True)
    assert not reader.started


def test_a_head_in_small_pieces_takes_time_in_proportion_to_its_length() -> None:
    def seconds(line: int, header: int) -> float:
        data = b"GET /" + b"x" * line + b" HTTP/1.1\r\nA: " + b"y" * header
        reader = RequestReader(LIMITS._replace(header=1 << 20))
        began = time.process_time()
        for at in range(0, len(data), 8):
            assert reader.read(data[at : at + 8]) is None
        return time.process_time() - began

    assert min(seconds(400_000, 1) for _ in range(3)) < 20 * seconds(50_000, 1) + 0.2
    assert min(seconds(1, 400_000) for _ in range(3)) < 20 * seconds(1, 50_000) + 0.2


def test_what_is_read_here_gunicorn_reads_alike() -> None:
    """A byte more, less or another at every place: nothing is parsed otherwise, or only here."""
    more = b"X-Empty:\r\nX-Seldon-Client: acme \r\nContent-Type:application/json\r\n\r\n"
    bytes_tried = b"\0\t\n\r !#%+,-/0:;?Aa_\x7f\x80\xff"
    tried = {
        sound[:place] + new + sound[place + gone :] + tail
        for sound, tail in ((HEAD + more, BODY), (CHUNKED + CHUNKS, b""))
        for place in range(len(sound))
        for gone in (0, 1)
        for new in (b"", *(bytes([byte]) for byte in bytes_tried))
    }
    read_here = 0
    for data in tried:
        reader = RequestReader(LIMITS)
        try:
            found = reader.read(data)
        except RequestMalformed:
            continue
        if found is not None and found.refusal is None:
            read_here += 1
            assert (found.request, found.close) == read_by_gunicorn(data), data
    assert read_here > 1000


def read_by_gunicorn(data: bytes) -> tuple[HttpRequest, bool] | str:
    try:
        message = next(RequestParser(GUNICORN, iter([data]), ("127.0.0.1", 1)))
        body = message.body.read()
    except ParseException as error:
        return repr(error)
    headers = dict(message.headers)
    request = HttpRequest(
        path=unquote_to_bytes(message.path).decode("latin-1"),
        method=message.method,
        query=message.query,
        client=headers.get("X-SELDON-CLIENT", ""),
        variation=headers.get("X-SELDON-VARIATION", ""),
        content_type=headers.get("CONTENT-TYPE", ""),
        encoding=headers.get("CONTENT-ENCODING", ""),
        deadline_ms=headers.get("X-ENVOY-EXPECTED-RQ-TIMEOUT-MS", ""),
        body=body,
    )
    return request, message.should_close()


def test_a_header_with_an_underscore_names_nobody() -> None:
    found = complete(HEAD + b"x_seldon_client: root\r\n\r\n" + BODY)
    assert found.request.client == ""


def test_a_length_of_many_digits_is_malformed() -> None:
    head = b"POST /predict HTTP/1.1\r\nHost: h\r\nContent-Length: " + b"0" * 5000 + b"5\r\n\r\n"
    with pytest.raises(RequestMalformed, match="Content-Length has 5001 digits"):
        RequestReader(LIMITS).read(head + b"12345")


def test_trailers_without_an_end_are_refused_early() -> None:
    reader = RequestReader(LIMITS)
    head = b"POST /predict HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"
    assert reader.read(head) is None
    request = None
    pieces = 0
    while request is None:
        request = reader.read(b"A: " + b"b" * 59 + b"\r\n")
        pieces += 1
    assert request.refusal is not None
    assert "the trailers are too large" in str(request.refusal)
    assert pieces <= 130
