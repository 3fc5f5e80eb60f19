"""What the worker's loop takes for itself, and what it leaves to gunicorn."""

import pytest
from gunicorn.config import Config
from gunicorn.http.parser import RequestParser

from serving_core.protocols.http import HttpRequest
from serving_core.protocols.seldon import rest
from serving_rest.fast_path import Limits, NotOnFastPath, ParsedRequest, parse

LIMITS = Limits(line=1 << 20, headers=64, header=96 << 10, section=1 << 20, body=1 << 20)
BODY = b'{"data": [1]}'
GUNICORN = Config()
GUNICORN.set("http_parser", "python")
HEAD = b"POST /predict?puid=p HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n" % len(BODY)


def test_a_prediction_is_read_with_what_the_gateway_says_of_it() -> None:
    more = (
        b"X-Seldon-Client: acme\r\nx-seldon-variation: blue\r\nContent-Type: application/json\r\n"
        b"x-envoy-expected-rq-timeout-ms: 250\r\nx-request-id: 7\r\n\r\n"
    )
    data = HEAD + more + BODY
    found = parse(data + b"GET /next", LIMITS)
    assert found is not None
    assert found.request == (
        *(
            "/predict",
            "POST",
            "puid=p",
            "acme",
            "blue",
            "",
            "application/json",
            "",
            "250",
            "",
            BODY,
        ),
    )
    assert (found.codec, found.consumed, found.close_after_response) == (rest, len(data), False)


def test_a_get_has_its_document_in_the_query() -> None:
    found = parse(b"GET /js/predict?json=%7B%7D HTTP/1.1\r\nHost: h\r\n\r\n", LIMITS)
    assert found is not None
    assert (found.request.path, found.request.method) == ("/js/predict", "GET")
    assert (found.request.query, found.request.body) == ("json=%7B%7D", b"")


@pytest.mark.parametrize("last", [True, False])
def test_the_caller_says_whether_the_connection_stays(last: bool) -> None:
    option = b"Close" if last else b"keep-alive"
    found = parse(HEAD + b"Connection: " + option + b"\r\n\r\n" + BODY, LIMITS)
    assert found is not None
    assert found.close_after_response is last


def test_of_two_connection_headers_the_one_that_closes_counts() -> None:
    both = b"Connection: close\r\nConnection: keep-alive\r\n\r\n"
    found = parse(HEAD + both + BODY, LIMITS)
    assert found is not None
    assert found.close_after_response


@pytest.mark.parametrize("cut", [1, 30, len(HEAD), len(HEAD) + 2, len(HEAD) + 2 + len(BODY) - 1])
def test_what_has_not_all_come_is_waited_for(cut: int) -> None:
    assert parse((HEAD + b"\r\n" + BODY)[:cut], LIMITS) is None


NOT_ON_FAST_PATH = {
    "another path": b"GET /health/live HTTP/1.1\r\nHost: h\r\n\r\n",
    "another spelling": b"GET /%70redict HTTP/1.1\r\nHost: h\r\n\r\n",
    "another method": b"PUT /predict HTTP/1.1\r\nHost: h\r\n\r\n",
    "an old version": b"GET /predict HTTP/1.0\r\nHost: h\r\n\r\n",
    "chunks": HEAD.replace(b"Content-Length: 13", b"Transfer-Encoding: chunked") + b"\r\n",
    "both lengths": HEAD + b"Transfer-Encoding: chunked\r\n\r\n",
    "two lengths": HEAD + b"Content-Length: 13\r\n\r\n" + BODY,
    "no length": HEAD.replace(b"13", b"-13") + b"\r\n" + BODY,
    "two hosts": HEAD + b"Host: other\r\n\r\n" + BODY,
    "a client twice": HEAD + b"X-Seldon-Client: a\r\nX-Seldon-Client: b\r\n\r\n" + BODY,
    "an expectation": HEAD + b"Expect: 100-continue\r\n\r\n",
    "an upgrade": HEAD + b"Upgrade: h2c\r\n\r\n" + BODY,
    "another connection option": HEAD + b"Connection: upgrade\r\n\r\n" + BODY,
    "a fragment": b"GET /predict?a=1#b HTTP/1.1\r\nHost: h\r\n\r\n",
    "a byte that is no text": b"GET /predict?a=\xff HTTP/1.1\r\nHost: h\r\n\r\n",
    "an empty line first": b"\r\n" + HEAD + b"\r\n" + BODY,
    "no HTTP": b"no http at all\r\n\r\n",
    "two spaces": b"GET  /predict HTTP/1.1\r\nHost: h\r\n\r\n",
    "a control character in the query": b"GET /predict?a=\x01 HTTP/1.1\r\nHost: h\r\n\r\n",
    "a bare LF": HEAD + b"A: b\nC: d\r\n\r\n" + BODY,
    "a bare LF before the rest has come": b"GET /predict HTTP/1.1\nHost: h\n\n",
    "a bare CR": HEAD + b"A: b\rC: d\r\n\r\n" + BODY,
    "a folded header": HEAD + b"A: b\r\n c\r\n\r\n" + BODY,
    "a space before the colon": HEAD + b"A : b\r\n\r\n" + BODY,
    "a header without a name": HEAD + b": b\r\n\r\n" + BODY,
    "a header without a colon": HEAD + b"A\r\n\r\n" + BODY,
    "a NUL": HEAD + b"A: \0\r\n\r\n" + BODY,
    "a signed length": HEAD.replace(b"13", b"+13") + b"\r\n" + BODY,
    "a list of lengths": HEAD.replace(b"13", b"13, 13") + b"\r\n" + BODY,
    "no digit in a length": HEAD.replace(b"13", b"") + b"\r\n" + BODY,
    "a length past 64 bits": HEAD.replace(b"13", b"18446744073709551629") + b"\r\n" + BODY,
    "a large body": b"POST /predict HTTP/1.1\r\nHost: h\r\nContent-Length: 1048577\r\n\r\n",
    "a long line": b"GET /predict?" + b"a" * (1 << 20) + b" HTTP/1.1\r\nHost: h\r\n\r\n",
    "a long line without an end": b"GET /predict?" + b"a" * (1 << 20),
    "many headers": HEAD + b"A: b\r\n" * 64 + b"\r\n" + BODY,
    "a large header": HEAD + b"A: " + b"b" * (97 << 10) + b"\r\n\r\n" + BODY,
}


@pytest.mark.parametrize("data", NOT_ON_FAST_PATH.values(), ids=NOT_ON_FAST_PATH)
def test_anything_else_is_left_to_gunicorn(data: bytes) -> None:
    with pytest.raises(NotOnFastPath):
        parse(data, LIMITS)


def test_what_is_read_here_gunicorn_reads_alike() -> None:
    """A byte more, less or another at every place: nothing is parsed otherwise, or only here."""
    more = b"X-Empty:\r\nX-Seldon-Client: acme \r\nContent-Type:application/json\r\n\r\n"
    sound = HEAD + more + BODY
    bytes_tried = b"\0\t\n\r !#%+,-/0:;?Aa_\x7f\x80\xff"
    tried = {
        sound[:place] + new + sound[place + gone :]
        for place in range(len(HEAD + more))
        for gone in (0, 1)
        for new in (b"", *(bytes([byte]) for byte in bytes_tried))
    }
    read_here = 0
    for data in tried:
        try:
            found = parse(data, LIMITS)
        except NotOnFastPath:
            continue
        if found is not None:
            read_here += 1
            assert found == read_by_gunicorn(data), data
    assert read_here > 500


def read_by_gunicorn(data: bytes) -> ParsedRequest:
    message = next(RequestParser(GUNICORN, iter([data]), ("127.0.0.1", 1)))
    head_end = data.index(b"\r\n\r\n") + 4
    headers = dict(message.headers)
    length = int(headers.get("CONTENT-LENGTH", 0))
    request = HttpRequest(
        path=message.path,
        method=message.method,
        query=message.query,
        client=headers.get("X-SELDON-CLIENT", ""),
        variation=headers.get("X-SELDON-VARIATION", ""),
        content_type=headers.get("CONTENT-TYPE", ""),
        encoding=headers.get("CONTENT-ENCODING", ""),
        deadline_ms=headers.get("X-ENVOY-EXPECTED-RQ-TIMEOUT-MS", ""),
        body=message.body.read(),
    )
    return ParsedRequest(rest, request, head_end + length, message.should_close())


def test_a_header_with_an_underscore_names_nobody() -> None:
    found = parse(HEAD + b"x_seldon_client: root\r\n\r\n" + BODY, LIMITS)
    assert found is not None
    assert found.request.client == ""
