"""The WSGI app of one predictor; wire.py has the documents, serving_core the model."""

import logging
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from queue import Empty, SimpleQueue
from typing import NamedTuple
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import orjson
from flask import Flask, Response, request
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from monitoring.metrics import ServingMetrics
from serving_core import DeadlinePassed, MicroBatcher, Scored, ServingError, parse_instances
from serving_rest import wire
from serving_rest.settings import Settings
from serving_rest.wire import CODE_OF_KIND, ErrorCode, RequestRefused

log = logging.getLogger(__name__)

JSON = "application/json"
JAVASCRIPT = "application/javascript; charset=utf-8"
FORM = "application/x-www-form-urlencoded"
JS_PREDICT, PREDICT = "/js/predict", "/predict"
PREDICT_METHODS = ("GET", "POST")

# Set by the gateway; the client's and the variation's name become metric labels.
CLIENT = "HTTP_X_SELDON_CLIENT"
VARIATION = "HTTP_X_SELDON_VARIATION"
DEADLINE_MS = "HTTP_X_ENVOY_EXPECTED_RQ_TIMEOUT_MS"
MAX_LABEL = 64
# Beyond this limit the server closes the connection of a caller that still sends its body.
MAX_DISCARDED_BYTES = 16 << 20
DISCARD_STEP_BYTES = 64 << 10

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
_STATUS_TEXTS = {status: str(status.value) for status in HTTPStatus}
_FIXED_HEADERS = (("Cache-Control", "no-store"), ("X-Content-Type-Options", "nosniff"))
STATUS_LINES = {status: f"{status.value} {status.phrase}" for status in HTTPStatus}


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

    @app.route(JS_PREDICT, methods=PREDICT_METHODS)
    def js_predict() -> Response:
        return _response(predictions.respond(request.environ))

    @app.route(PREDICT, methods=PREDICT_METHODS)
    def predict() -> Response:
        return _response(predictions.respond(request.environ))

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

    app.wsgi_app = PredictionMiddleware(app.wsgi_app, predictions)  # type: ignore[method-assign]
    return app


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
        path = environ["PATH_INFO"]
        if path not in _JSONP or environ["REQUEST_METHOD"] not in PREDICT_METHODS:
            return self._flask(environ, start_response)
        answer = self._predictions.respond(environ)
        length = ("Content-Length", str(len(answer.body)))
        start_response(STATUS_LINES[answer.status], [*answer.headers, length])
        return (answer.body,)


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


class Answer(NamedTuple):
    """A response: body, status and headers."""

    body: bytes
    status: HTTPStatus
    headers: list[tuple[str, str]]


# Sends a response and calls the second argument, which counts the request, just before the write:
# a process killed in between has counted a request without a response, never the reverse.
Send = Callable[[Answer, Callable[[], None]], None]


def _response(answer: Answer) -> Response:
    return Response(answer.body, answer.status, answer.headers)


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
        self.max_body_bytes = settings.max_body_bytes
        self._metrics = metrics
        self._timeout_s = settings.timeout_s

    def submit(self, request: Request, body: bytes, send: Send) -> None:
        """Submit a request; the response is a prediction or an error.

        Args:
            request: A request of one of the two routes with one of PREDICT_METHODS.
            body: The complete body.
            send: Called once, here or in the thread that runs the engine.
        """
        _Exchange(self, self._metrics, request, send).start(lambda: body)

    def respond(self, environ: WSGIEnvironment) -> Answer:
        """Serve a WSGI request in the calling thread; blocks to read the body."""
        request = Request(
            environ["PATH_INFO"],
            environ["REQUEST_METHOD"],
            environ["QUERY_STRING"],
            environ.get(CLIENT, ""),
            environ.get(VARIATION, ""),
            environ.get("CONTENT_TYPE", ""),
            environ.get("HTTP_CONTENT_ENCODING", ""),
            environ.get(DEADLINE_MS, ""),
        )
        answers: SimpleQueue[Answer] = SimpleQueue()

        def deliver(answer: Answer, count: Callable[[], None]) -> None:
            count()
            answers.put(answer)

        exchange = _Exchange(self, self._metrics, request, deliver)
        exchange.start(lambda: self._read_body(environ))
        try:
            return answers.get(timeout=self.deadline_s(request))
        except Empty:
            exchange.expire()
            return answers.get()

    def deadline_s(self, request: Request) -> float:
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

    def start(self, read_body: Callable[[], bytes]) -> None:
        """Parse the request and enqueue its instances."""
        self._metrics.begin()
        try:
            self._submit(read_body)
        except Exception as error:  # the caller never receives a traceback
            self._finish(error)

    def _submit(self, read_body: Callable[[], bytes]) -> None:
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
            body = read_body()
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


def _content_length(environ: WSGIEnvironment) -> int:
    """The Content-Length, which gunicorn has checked; 0 if absent."""
    stated: str = environ.get("CONTENT_LENGTH", "")
    return int(stated) if stated.isdecimal() else 0


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
