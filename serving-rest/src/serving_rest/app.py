"""The WSGI app, and the routes of predictions; serving_core has their protocols."""

import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from http import HTTPStatus
from queue import Empty, SimpleQueue
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import orjson
from flask import Flask, Response, request
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from serving_core import DataPlane, Exchange, Served
from serving_core.exchange import Codec
from serving_core.protocols.http import JSON, HttpRequest, HttpResponse
from serving_core.protocols.open_inference import rest as open_inference
from serving_core.protocols.seldon import rest as seldon
from serving_core.protocols.seldon.rest import MESSAGES, ErrorCode, RequestRefused
from serving_core.protocols.seldon_core import rest as seldon_core
from serving_core.protocols.tensorflow_serving import rest as tensorflow_serving
from serving_rest.settings import Settings
from serving_rest.views import create_views

log = logging.getLogger(__name__)

# Set by the gateway; the client's and the variation's name become metric labels.
CLIENT = "HTTP_X_SELDON_CLIENT"
VARIATION = "HTTP_X_SELDON_VARIATION"
MODELS = "HTTP_X_SELDON_MODELS"
DEADLINE_MS = "HTTP_X_ENVOY_EXPECTED_RQ_TIMEOUT_MS"
HEADER_LENGTH = "HTTP_INFERENCE_HEADER_CONTENT_LENGTH"
# Beyond this limit the server closes the connection of a caller that still sends its body.
MAX_DISCARDED_BYTES = 16 << 20
DISCARD_STEP_BYTES = 64 << 10

_FIXED_HEADERS = [("Cache-Control", "no-store"), ("X-Content-Type-Options", "nosniff")]
STATUS_LINES = {status: f"{status.value} {status.phrase}" for status in HTTPStatus}

HttpCodec = Codec[HttpRequest, HttpResponse]
Headers = list[tuple[str, str]]
# Sends a response with its headers and calls the last argument, which counts the request, just
# before the write.
Send = Callable[[HttpResponse, Headers, Callable[[], None]], None]


_ROUTES: dict[tuple[str, str], HttpCodec] = {
    ("GET", seldon.PREDICT): seldon,
    ("POST", seldon.PREDICT): seldon,
    ("GET", seldon.JS_PREDICT): seldon,
    ("POST", seldon.JS_PREDICT): seldon,
    ("POST", seldon_core.PATH): seldon_core,
}


def create_app(
    predictions: "Predictions",
    registry: CollectorRegistry,
    draining: Callable[[], bool] = lambda: False,
) -> Flask:
    """Create the WSGI app.

    Args:
        predictions: Serves the two prediction routes.
        registry: The registry of /metrics, which collects all worker processes.
        draining: Whether the process is shutting down, and therefore not ready.
    """
    # No static files: the app serves the routes below alone.
    app = Flask(__name__, static_folder=None)
    app.url_map.merge_slashes = False
    batcher = predictions.batcher

    # PredictionMiddleware serves predictions; Flask knows their routes for other methods.
    @app.route(seldon.JS_PREDICT, methods=seldon.METHODS)
    @app.route(seldon.PREDICT, methods=seldon.METHODS)
    def head_of_prediction() -> Response:
        response, headers = predictions.respond(seldon, request.environ)
        return Response(response.body, response.status, headers)

    for rule in (
        "/v2/models/<name>/infer",
        "/v2/models/<name>/versions/<version>/infer",
        "/v1/models/<name>:predict",
        "/v1/models/<name>/versions/<version>:predict",
        seldon_core.PATH,
    ):
        app.add_url_rule(rule, "prediction", methods=("POST",))
    for views in create_views(batcher.info, lambda: batcher.ready and not draining()):
        app.register_blueprint(views)

    @app.get("/health/live")
    def live() -> Response:
        return Response(b'{"status":"live"}', content_type=JSON)

    @app.get("/health/ready")
    def ready() -> Response:
        if draining():
            return _error_response(ErrorCode.NOT_READY, "the server is stopping")
        if not batcher.ready:
            return _error_response(ErrorCode.NOT_READY, "the model is not ready")
        document = {"status": "ready", "model": batcher.info.name, "version": batcher.info.version}
        return Response(orjson.dumps(document), content_type=JSON)

    @app.get("/metrics")
    def show_metrics() -> Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return Response(encode(registry), content_type=content_type)

    @app.errorhandler(HTTPException)
    def handle_http_error(error: HTTPException) -> Response:
        """Handle Flask's routing errors: unknown path, method not allowed."""
        status = error.code or 500
        if request.path.startswith(("/v1/", "/v2")):
            document = {"error": f"{request.method} {request.path[:128]}: {error.name}"}
            response = Response(orjson.dumps(document), status, content_type=JSON)
            if isinstance(error, MethodNotAllowed):
                response.allow.update(error.valid_methods or ())
            return response
        code = {404: ErrorCode.NOT_FOUND, 405: ErrorCode.METHOD_NOT_ALLOWED}.get(status)
        if code is None:
            body = seldon.error_document(ErrorCode.GENERIC.error_id, error.name, status)
            return Response(body, status, content_type=JSON)
        response = _error_response(code, MESSAGES[code])
        if isinstance(error, MethodNotAllowed):
            response.allow.update(error.valid_methods or ())
        return response

    @app.errorhandler(Exception)
    def handle_unexpected_error(error: Exception) -> Response:
        log.error("%s %s failed", request.method, request.path, exc_info=error)
        return _error_response(ErrorCode.GENERIC, MESSAGES[ErrorCode.GENERIC])

    app.wsgi_app = PredictionMiddleware(app.wsgi_app, predictions)  # type: ignore[method-assign]
    return app


def codec_of(method: str, path: str) -> HttpCodec | None:
    """The protocol of a prediction; None for every other request."""
    if (method, path) in _ROUTES:
        return _ROUTES[method, path]
    if method == "POST" and path.startswith("/v"):
        for codec in (open_inference, tensorflow_serving):
            if path.startswith(codec.PREFIX) and path.endswith(codec.SUFFIX):
                return codec
    return None


class PredictionMiddleware:
    """WSGI middleware that serves predictions without Flask's routing, request and response.

    Those take a quarter of the time of a prediction. Only predictions off the fast path
    (fast_path.py) arrive here. Flask serves all other requests.
    """

    def __init__(self, flask: WSGIApplication, predictions: "Predictions") -> None:
        """`flask` serves what is not a prediction."""
        self._flask = flask
        self._predictions = predictions

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """See PEP 3333."""
        codec = codec_of(environ["REQUEST_METHOD"], environ["PATH_INFO"])
        if codec is None:
            return self._flask(environ, start_response)
        response, headers = self._predictions.respond(codec, environ)
        length = ("Content-Length", str(len(response.body)))
        start_response(STATUS_LINES[response.status], [*headers, length])
        return (response.body,)


class Predictions:
    """The routes of predictions, of all protocols."""

    def __init__(self, plane: DataPlane, settings: Settings) -> None:
        """Create it in the serving process.

        Args:
            plane: The process's batcher and metrics.
            settings: The limits.
        """
        self.batcher = plane.batcher
        self.max_body_bytes = settings.max_body_bytes
        self._plane = plane
        self._timeout_s = settings.timeout_s

    def submit(self, codec: HttpCodec, request: HttpRequest, send: Send) -> None:
        """Submit a request; the response is a prediction or an error.

        Args:
            codec: The request's protocol, from `codec_of`.
            request: A complete request.
            send: Called once, here or in the thread that runs the engine.
        """
        exchange = self._exchange(codec, request, send)
        exchange.start(request, self.deadline_s(request))

    def _exchange(
        self, codec: HttpCodec, request: HttpRequest, send: Send
    ) -> Exchange[HttpRequest, HttpResponse]:
        def reply(response: HttpResponse, timing: str, count: Callable[[], None]) -> None:
            headers = [
                ("Content-Type", response.content_type),
                ("Server-Timing", timing),
                *_FIXED_HEADERS,
                *response.headers,
            ]
            send(response, headers, count)

        served = Served.by(self.batcher.info, request.variation, request.models)
        return Exchange(self._plane, codec, request.client, served, reply)

    def respond(self, codec: HttpCodec, environ: WSGIEnvironment) -> tuple[HttpResponse, Headers]:
        """Serve a WSGI request in the calling thread; blocks to read the body."""
        request = HttpRequest(
            environ["PATH_INFO"],
            environ["REQUEST_METHOD"],
            environ["QUERY_STRING"],
            environ.get(CLIENT, ""),
            environ.get(VARIATION, ""),
            environ.get(MODELS, ""),
            environ.get("CONTENT_TYPE", ""),
            environ.get("HTTP_CONTENT_ENCODING", ""),
            environ.get(DEADLINE_MS, ""),
            environ.get(HEADER_LENGTH, ""),
        )
        answers: SimpleQueue[tuple[HttpResponse, Headers]] = SimpleQueue()

        def deliver(response: HttpResponse, headers: Headers, count: Callable[[], None]) -> None:
            count()
            answers.put((response, headers))

        exchange = self._exchange(codec, request, deliver)
        timeout_s = self.deadline_s(request)
        try:
            request = request._replace(body=self._read_body(environ))
        except RequestRefused as error:
            exchange.refuse(request, error)
        else:
            exchange.start(request, timeout_s)
        try:
            return answers.get(timeout=timeout_s)
        except Empty:
            exchange.expire()
            return answers.get()

    def deadline_s(self, request: HttpRequest) -> float:
        """The gateway's deadline for the request, in seconds from its arrival."""
        text = request.deadline_ms
        if text.isascii() and text.isdigit() and len(text) < 10:
            return int(text) / 1000
        return self._timeout_s

    def _read_body(self, environ: WSGIEnvironment) -> bytes:
        # From gunicorn's stream, which ends with the body, chunked or not.
        limit = self.max_body_bytes
        try:
            too_large = _content_length(environ) > limit
            body: bytes = b"" if too_large else environ["wsgi.input"].read(limit + 1)
        except (BlockingIOError, TimeoutError):
            raise RequestRefused(ErrorCode.BODY_TIMEOUT, "the body came too slowly") from None
        except Exception as error:  # the caller's error: a malformed chunk, a closed connection
            raise RequestRefused(
                ErrorCode.BROKEN_JSON, f"the body cannot be read: {type(error).__name__}"
            ) from error
        if too_large or len(body) > limit:
            self._discard(environ)
            message = f"the body exceeds the limit of {limit} bytes"
            raise RequestRefused(ErrorCode.TOO_LARGE, message)
        return body

    def _discard(self, environ: WSGIEnvironment) -> None:
        """Discard the rest of a body: most callers read no response before they have sent it."""
        stream = environ["wsgi.input"]
        with suppress(Exception):  # the response is already decided
            for _ in range(MAX_DISCARDED_BYTES // DISCARD_STEP_BYTES):
                if not stream.read(DISCARD_STEP_BYTES):
                    break


def _content_length(environ: WSGIEnvironment) -> int:
    """The Content-Length, which gunicorn has checked; 0 if absent."""
    stated: str = environ.get("CONTENT_LENGTH", "")
    return int(stated) if stated.isdecimal() else 0


def _error_body(code: ErrorCode, message: str) -> bytes:
    return seldon.error_document(code.error_id, message, code.status)


def _error_response(code: ErrorCode, message: str) -> Response:
    return Response(_error_body(code, message), code.status, content_type=JSON)
