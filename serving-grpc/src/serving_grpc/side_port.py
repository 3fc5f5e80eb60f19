"""HTTP server of the parent process: /metrics, /health/live and /health/ready."""

import logging
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from serving_grpc.ports import PortUnavailable

log = logging.getLogger(__name__)

_TEXT = "text/plain; charset=utf-8"
_READ_TIMEOUT_S = 5.0


class SidePort(AbstractContextManager["SidePort"]):
    """An HTTP server that runs in threads within its context."""

    def __init__(
        self, host: str, port: int, registry: CollectorRegistry, ready: Callable[[], bool]
    ) -> None:
        """Bind the port.

        Args:
            host: Name or address of this machine.
            port: 0 selects a free one.
            registry: The registry of /metrics.
            ready: The status of /health/ready.

        Raises:
            PortUnavailable: The port is in use.
        """

        class Handler(_Handler):
            pages: ClassVar = {
                "/metrics": lambda accept: _metrics(registry, accept),
                "/health/live": lambda _: (HTTPStatus.OK, _TEXT, b"live\n"),
                "/health/ready": lambda _: (
                    (HTTPStatus.OK, _TEXT, b"ready\n")
                    if ready()
                    else (HTTPStatus.SERVICE_UNAVAILABLE, _TEXT, b"not ready\n")
                ),
            }

        try:
            self._server = (_Server6 if ":" in host else _Server)((host, port), Handler)
        except OSError as error:
            raise PortUnavailable.because(error, host, port) from None
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="side-port", daemon=True
        )

    def __enter__(self) -> "SidePort":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def _metrics(registry: CollectorRegistry, accept: str) -> tuple[HTTPStatus, str, bytes]:
    encode, content_type = choose_encoder(accept)
    return HTTPStatus.OK, content_type, encode(registry)


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """Log errors other than a client's disconnect."""
        if not isinstance(sys.exception(), OSError):
            log.exception("unexpected error in the metrics server")


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Handler(BaseHTTPRequestHandler):
    pages: ClassVar[dict[str, Callable[[str], tuple[HTTPStatus, str, bytes]]]]
    protocol_version = "HTTP/1.1"
    timeout = _READ_TIMEOUT_S

    def do_GET(self) -> None:
        page = self.pages.get(self.path.partition("?")[0])
        if page is None:
            status, content_type, body = HTTPStatus.NOT_FOUND, _TEXT, b"not found\n"
        else:
            status, content_type, body = page(self.headers.get("Accept", ""))
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Discard access logs: probes and scrapes are frequent."""
