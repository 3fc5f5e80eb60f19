"""Hand a complete request to a WSGI app (PEP 3333)."""

import io
import sys
from collections.abc import Callable, Iterable
from http import HTTPStatus
from types import TracebackType
from wsgiref.types import WSGIApplication, WSGIEnvironment

from serving_core.protocols.http import HttpResponse
from serving_rest.http_reader import ReceivedRequest

Address = tuple[str, int]
_ExcInfo = tuple[type[BaseException], BaseException, TracebackType] | tuple[None, None, None]
# The writer adds them.
_OF_THE_CONNECTION = frozenset(("connection", "content-length", "date", "server"))


def call(app: WSGIApplication, request: ReceivedRequest, environ: dict[str, str]) -> HttpResponse:
    """Call the app and collect its response.

    Args:
        app: The WSGI app.
        request: A complete request.
        environ: SERVER_NAME, SERVER_PORT, REMOTE_ADDR and REMOTE_PORT.
    """
    started: list[tuple[str, list[tuple[str, str]]]] = []
    written: list[bytes] = []

    def start_response(
        status: str, headers: list[tuple[str, str]], exc_info: _ExcInfo | None = None, /
    ) -> Callable[[bytes], object]:
        started.append((status, headers))
        return written.append

    parts: Iterable[bytes] = app(_environ(request) | environ, start_response)
    try:
        written.extend(parts)
    finally:
        if hasattr(parts, "close"):
            parts.close()
    status, headers = started[-1]
    kept = [(name, value) for name, value in headers if name.lower() not in _OF_THE_CONNECTION]
    content_type = next((value for name, value in kept if name.lower() == "content-type"), "")
    further = tuple(pair for pair in kept if pair[0].lower() != "content-type")
    return HttpResponse(b"".join(written), HTTPStatus(int(status[:3])), content_type, further)


def _environ(request: ReceivedRequest) -> WSGIEnvironment:
    head = request.request
    environ: WSGIEnvironment = {
        # The writer omits the body of a response to HEAD.
        "REQUEST_METHOD": "GET" if head.method == "HEAD" else head.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": head.path,
        "QUERY_STRING": head.query,
        "SERVER_PROTOCOL": f"HTTP/{request.version}",
        "CONTENT_LENGTH": str(len(head.body)),
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(head.body),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
    }
    for line in request.lines:
        name, _, value = line.decode("latin-1").partition(":")
        # A caller could otherwise send a header that looks like another one: a_b and a-b.
        if "_" in name:
            continue
        key = name.upper().replace("-", "_")
        if key == "CONTENT_LENGTH":
            continue
        if key != "CONTENT_TYPE":
            key = f"HTTP_{key}"
        text = value.strip(" \t")
        environ[key] = f"{environ[key]},{text}" if key in environ else text
    return environ
