"""The REST server's event loop in a thread of the test's process, in front of any model."""

import contextlib
import http.client
import socket
import threading
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import quote

from prometheus_client import CollectorRegistry
from werkzeug.test import Client

from monitoring.metrics import ServingMetrics
from serving_core import DataPlane, MicroBatcher
from serving_rest.app import Predictions, create_app
from serving_rest.event_loop import EventLoop, LoopSettings
from serving_rest.server import loop_settings
from serving_rest.settings import Settings


class Serving:
    """A running loop."""

    def __init__(self, batcher: MicroBatcher, settings: Settings, runs_engine: bool) -> None:
        self.registry = CollectorRegistry()
        self.draining = False
        metrics = ServingMetrics(self.registry, "rest", "fake", "1")
        predictions = Predictions(DataPlane(batcher, metrics), settings)
        app = create_app(predictions, self.registry, lambda: self.draining)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self._stop = threading.Event()
        self._started = threading.Event()
        self._loop: EventLoop | None = None
        self._thread = threading.Thread(
            target=self._run, args=(predictions, app, loop_settings(settings), runs_engine)
        )
        self._thread.start()
        assert self._started.wait(10)

    def _run(
        self, predictions: Predictions, app: Any, settings: LoopSettings, runs_engine: bool
    ) -> None:
        loop = self._loop = EventLoop(self._listener, predictions, app, settings)
        if runs_engine:
            loop.run_engine()
        self._started.set()
        while not self._stop.is_set():
            loop.turn(1.0)
        loop.stop_accepting()
        if runs_engine:
            predictions.batcher.close()
        loop.close()

    @property
    def connections(self) -> int:
        assert self._loop is not None
        return self._loop.connections

    def stop(self) -> None:
        self._stop.set()
        if self._loop is not None:
            self._loop.wake()
        self._thread.join(10)
        assert not self._thread.is_alive()

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), 20)

    def client(self) -> Client:
        """werkzeug's test client, whose requests go over a socket."""

        def forward(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            target = quote(environ["PATH_INFO"].encode("latin-1")) + "?" + environ["QUERY_STRING"]
            headers = {
                name[5:].replace("_", "-"): value
                for name, value in environ.items()
                if name.startswith("HTTP_")
            }
            if environ.get("CONTENT_TYPE"):
                headers["Content-Type"] = environ["CONTENT_TYPE"]
            body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
            with contextlib.closing(connection):
                connection.request(environ["REQUEST_METHOD"], target, body or None, headers)
                response = connection.getresponse()
                start_response(f"{response.status} {response.reason}", response.getheaders())
                return [response.read()]

        return Client(forward)


@contextlib.contextmanager
def serving(
    batcher: MicroBatcher, settings: Settings, runs_engine: bool = False
) -> Iterator[Serving]:
    """Serve until the end of the block; with `runs_engine` the loop runs the batcher."""
    server = Serving(batcher, settings, runs_engine)
    try:
        yield server
    finally:
        server.stop()
