"""What the server answers: `Predictions` the two prediction routes, a WSGI app all others.

wire.py has the documents, serving_core the model.
"""

import logging
import threading
import time
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from typing import NamedTuple, Protocol

import orjson
from flask import Flask, Response, abort, request
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from monitoring.metrics import ServingMetrics
from serving_core import DeadlinePassed, MicroBatcher, Scored, ServingError, parse_instances
from serving_rest import wire
from serving_rest.http_writer import Answer
from serving_rest.settings import Settings
from serving_rest.wire import CODE_OF_KIND, ErrorCode, RequestRefused

log = logging.getLogger(__name__)

JSON = "application/json"
JAVASCRIPT = "application/javascript; charset=utf-8"
FORM = "application/x-www-form-urlencoded"
JS_PREDICT, PREDICT = "/js/predict", "/predict"
PREDICT_METHODS = ("GET", "HEAD", "POST")

MAX_LABEL = 64

# As the original API words them.
MESSAGES = {
    ErrorCode.METHOD_NOT_ALLOWED: "Used Http Method is not supported for the required action",
    ErrorCode.GENERIC: "A generic error occurred",
    ErrorCode.NOT_FOUND: "Requested resource not found",
}
NO_DOCUMENT = (
    f"json is missing, expected the parameter json or a body of JSON with Content-Type {JSON}"
)


_JSONP = {JS_PREDICT: True, PREDICT: False}
_PREDICTIONS = frozenset((method, path) for method in PREDICT_METHODS for path in _JSONP)
_STATUS_TEXTS = {status: str(status.value) for status in HTTPStatus}
_FIXED_HEADERS = (("Cache-Control", "no-store"), ("X-Content-Type-Options", "nosniff"))


def is_prediction(method: str, path: str) -> bool:
    """Whether `Predictions` answers a request; the WSGI app answers all others."""
    return (method, path) in _PREDICTIONS


def create_app(
    predictions: "Predictions",
    registry: CollectorRegistry,
    draining: Callable[[], bool] = lambda: False,
) -> Flask:
    """Create the WSGI app of all requests that are no predictions.

    Args:
        predictions: Their model.
        registry: The registry of /metrics, which collects all worker processes.
        draining: Whether the process is shutting down, and therefore not ready.
    """
    # No static files: the app serves the routes below alone.
    app = Flask(__name__, static_folder=None)
    app.url_map.merge_slashes = False
    batcher = predictions.batcher

    # For OPTIONS and for status 405 with `Allow`. Predictions themselves do not arrive here, only
    # other spellings of their paths, such as //predict.
    @app.route(JS_PREDICT, methods=PREDICT_METHODS)
    @app.route(PREDICT, methods=PREDICT_METHODS)
    def predict() -> Response:
        abort(HTTPStatus.NOT_FOUND)

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
        code = {404: ErrorCode.NOT_FOUND, 405: ErrorCode.METHOD_NOT_ALLOWED}.get(status)
        if code is None:
            body = wire.error_document(ErrorCode.GENERIC.error_id, error.name, status)
            return Response(body, status, content_type=JSON)
        response = _error_response(code, MESSAGES[code])
        if isinstance(error, MethodNotAllowed):
            response.allow.update(error.valid_methods or ())
        return response

    @app.errorhandler(Exception)
    def handle_unexpected_error(error: Exception) -> Response:
        log.error("%s %s failed", request.method, request.path, exc_info=error)
        return _error_response(ErrorCode.GENERIC, MESSAGES[ErrorCode.GENERIC])

    return app


class Request(NamedTuple):
    """A prediction request without its body; texts are bytes decoded as latin-1."""

    path: str
    method: str
    query: str
    client: str = ""
    variation: str = ""
    content_type: str = ""
    encoding: str = ""
    deadline_ms: str = ""


# Sends a response and calls the second argument, which counts the request, just before the write:
# a process killed in between has counted a request without a response, never the reverse.
Send = Callable[[Answer, Callable[[], None]], None]


class Exchange(Protocol):
    """A request that `Predictions` has begun; `Send` is called once, whatever happens first."""

    def submit(self, body: bytes | RequestRefused) -> None:
        """Submit the complete body, or the reason why it cannot be read."""

    def expire(self) -> None:
        """Answer that the deadline has passed, unless the request has finished."""


class Predictions:
    """The two prediction routes; they differ in JSONP only."""

    def __init__(self, batcher: MicroBatcher, metrics: ServingMetrics, settings: Settings) -> None:
        """Create it in the serving process.

        Args:
            batcher: Scores the instances.
            metrics: Counts every prediction request.
            settings: The limits.
        """
        self.batcher = batcher
        self._metrics = metrics
        self._timeout_s = settings.timeout_s

    def submit(self, request: Request, body: bytes | RequestRefused, send: Send) -> Exchange:
        """Submit a request; the response is a prediction or an error.

        Args:
            request: A request for which `is_prediction` is true.
            body: The complete body, or the reason why it cannot be read.
            send: Called once, here or in the thread that runs the engine.
        """
        exchange = self.begin(request, send)
        exchange.submit(body)
        return exchange

    def begin(self, request: Request, send: Send) -> Exchange:
        """Begin a request whose body has not arrived yet; its deadline counts from now.

        Args:
            request: As in `submit`.
            send: As in `submit`.
        """
        return _Exchange(self, self._metrics, request, send)

    def deadline_s(self, request: Request) -> float:
        """The gateway's deadline for the request, in seconds from its arrival."""
        text = request.deadline_ms
        if text.isascii() and text.isdigit() and len(text) < 10:
            return int(text) / 1000
        return self._timeout_s


class _Exchange:
    """One request and its state; an error response uses what was parsed so far."""

    __slots__ = (
        "_callback",
        "_finished",
        "_metrics",
        "_predictions",
        "_puid",
        "_request",
        "_send",
        "_started",
        "_variation",
    )

    def __init__(
        self, predictions: Predictions, metrics: ServingMetrics, request: Request, send: Send
    ) -> None:
        self._started = time.perf_counter()
        self._predictions = predictions
        self._metrics = metrics
        self._request = request
        self._send = send
        self._variation = request.variation[:MAX_LABEL] or "default"
        self._callback = ""
        self._puid = ""
        self._finished = threading.Lock()  # acquired by the first to finish
        metrics.begin()

    def submit(self, body: bytes | RequestRefused) -> None:
        """Parse the request and enqueue its instances."""
        try:
            self._submit(body)
        except Exception as error:  # the caller never receives a traceback
            self._finish(error)

    def _submit(self, body: bytes | RequestRefused) -> None:
        request, predictions = self._request, self._predictions
        jsonp = _JSONP[request.path]
        parameters = wire.parse_parameters(request.query.encode("latin-1"))
        if jsonp:  # first of all: later errors are wrapped in the callback too
            self._callback = wire.check_callback(parameters.get("jsonpCallback", ""))
        text: str | bytes | None = parameters.get("json")
        field = "json"
        if request.method == "POST":
            if request.encoding.lower() not in ("", "identity"):
                message = f"Content-Encoding is {request.encoding[:32]!r}, expected none"
                raise RequestRefused(ErrorCode.CONTENT_TYPE, message)
            if isinstance(body, RequestRefused):
                raise body
            if body and _is_form(request.content_type):
                parameters = wire.parse_parameters(body) | parameters
                text = parameters.get("json")
                if jsonp:
                    self._callback = wire.check_callback(parameters.get("jsonpCallback", ""))
            elif body and text is None:
                text, field = body, "the body"
        if text is None:
            raise RequestRefused(ErrorCode.WRONG_DATA, NO_DOCUMENT)
        document = wire.parse_document(text, field)
        self._puid = wire.choose_puid(parameters.get("puid", ""), document.puid)
        instance = parse_instances(
            document.data, predictions.batcher.info.features, document.may_hold_booleans
        )
        timeout_s = predictions.deadline_s(request) - (time.perf_counter() - self._started)
        predictions.batcher.enqueue(instance, self._finish, timeout_s)

    def expire(self) -> None:
        """Answer that the deadline has passed, unless the request has finished."""
        waited_s = time.perf_counter() - self._started
        self._finish(DeadlinePassed(f"no answer within the deadline, {waited_s:.3f} s"))

    def _finish(self, outcome: Scored | Exception) -> None:
        if not self._finished.acquire(blocking=False):
            return
        code = scored = None
        try:
            if not isinstance(outcome, Scored):
                raise outcome
            scored = outcome
            info = self._predictions.batcher.info
            body = wire.reply(scored.scores, info.classes, info.name, self._puid, self._variation)
        except (RequestRefused, ServingError) as error:
            code = error.code if isinstance(error, RequestRefused) else CODE_OF_KIND[error.kind]
            body = _error_body(code, str(error))
        except Exception:
            log.exception("a prediction failed")
            code = ErrorCode.GENERIC
            body = _error_body(code, MESSAGES[code])

        status = HTTPStatus.OK if code is None else code.status
        total_s = time.perf_counter() - self._started
        queue_s, compute_s, batch_size = (
            (scored.queue_s, scored.compute_s, scored.batch_size) if scored else (None, None, None)
        )
        headers = [
            ("Server-Timing", wire.server_timing(total_s, queue_s, compute_s)),
            *_FIXED_HEADERS,
        ]
        if code is ErrorCode.OVERLOADED:
            headers.append(("Retry-After", "1"))
        content_type, shown = JSON, status
        if self._callback:
            # A script tag ignores other statuses; the document has the error's.
            body, content_type, shown = wire.wrap(self._callback, body), JAVASCRIPT, HTTPStatus.OK
        answer = Answer(body, shown, [("Content-Type", content_type), *headers])
        client = self._request.client[:MAX_LABEL] or "direct"
        texts = client, self._variation, _STATUS_TEXTS[status]
        count = partial(self._metrics.observe, *texts, total_s, queue_s, compute_s, batch_size)
        self._send(answer, count)


def _is_form(content_type: str) -> bool:
    """Whether the body is a form; otherwise it is JSON, or refused."""
    content_type = content_type.partition(";")[0].strip().lower()
    if content_type == FORM:
        return True
    # Without a Content-Type the body is most likely JSON.
    if content_type in ("", JSON) or content_type.endswith("+json"):
        return False
    message = f"Content-Type is {content_type[:64]!r}, expected {JSON} or {FORM}"
    raise RequestRefused(ErrorCode.CONTENT_TYPE, message)


def _error_body(code: ErrorCode, message: str) -> bytes:
    return wire.error_document(code.error_id, message, code.status)


def _error_response(code: ErrorCode, message: str) -> Response:
    return Response(_error_body(code, message), code.status, content_type=JSON)
