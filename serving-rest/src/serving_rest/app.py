"""The HTTP face of one predictor; the documents are in wire.py, the model elsewhere."""

import logging
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from http import HTTPStatus
from typing import NamedTuple
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import orjson
from flask import Flask, Response, request
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from model_runtime import MicroBatcher, Scored, ServingError, parse_instances
from monitoring.metrics import ServingMetrics
from serving_rest import wire
from serving_rest.settings import Settings
from serving_rest.wire import CODE_OF_KIND, ErrorCode, RequestRefused

log = logging.getLogger(__name__)

JSON = "application/json"
JAVASCRIPT = "application/javascript; charset=utf-8"
FORM = "application/x-www-form-urlencoded"
JS_PREDICT, PREDICT = "/js/predict", "/predict"
PREDICT_METHODS = ("GET", "POST")

# The gateway sets these; the client's and the variation's name become metric labels.
CLIENT = "HTTP_X_SELDON_CLIENT"
VARIATION = "HTTP_X_SELDON_VARIATION"
DEADLINE_MS = "HTTP_X_ENVOY_EXPECTED_RQ_TIMEOUT_MS"
MAX_LABEL = 64
# Past this the connection is closed on a caller that goes on sending.
MAX_DISCARDED_BYTES = 16 << 20
DISCARD_STEP_BYTES = 64 << 10

# The original's words where it had some.
MESSAGES = {
    ErrorCode.METHOD_NOT_ALLOWED: "Used Http Method is not supported for the required action",
    ErrorCode.GENERIC: "A generic error occurred",
    ErrorCode.NOT_FOUND: "Requested resource not found",
}
NO_DOCUMENT = (
    f"json is missing, expected the parameter json or a body of JSON with Content-Type {JSON}"
)


_JSONP = {JS_PREDICT: True, PREDICT: False}
_STATUS_LINES = {status: f"{status.value} {status.phrase}" for status in HTTPStatus}


def create_app(
    batcher: MicroBatcher,
    metrics: ServingMetrics,
    registry: CollectorRegistry,
    settings: Settings,
    draining: Callable[[], bool] = lambda: False,
) -> Flask:
    """Wrap a started batcher in a WSGI app.

    Args:
        batcher: Scores the instances.
        metrics: Told of every prediction asked for.
        registry: What /metrics shows; in a server of several processes the one that reads them all.
        settings: For the limits.
        draining: Whether the process is about to stop, which makes it not ready.
    """
    # No static files: nothing but the routes below is served, nor looked up.
    app = Flask(__name__, static_folder=None)
    app.url_map.merge_slashes = False
    predictions = Predictions(batcher, metrics, settings)

    @app.route(JS_PREDICT, methods=PREDICT_METHODS)
    def js_predict() -> Response:
        return _response(predictions.answer(request.environ, jsonp=True))

    @app.route(PREDICT, methods=PREDICT_METHODS)
    def predict() -> Response:
        return _response(predictions.answer(request.environ, jsonp=False))

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
    def refuse(error: HTTPException) -> Response:
        """What Flask finds before it calls a route: no such path, or not by this method."""
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
    def fail(error: Exception) -> Response:
        log.error("%s %s failed", request.method, request.path, exc_info=error)
        return _error_response(ErrorCode.GENERIC, MESSAGES[ErrorCode.GENERIC])

    app.wsgi_app = PredictionsFirst(app.wsgi_app, predictions)  # type: ignore[method-assign]
    return app


class PredictionsFirst:
    """WSGI around Flask: a prediction goes past Flask's routing, request and response objects.

    They take a quarter of what the server does for one. All else, other methods of the same
    paths too, is Flask's.
    """

    def __init__(self, flask: WSGIApplication, predictions: "Predictions") -> None:
        """`flask` answers what is not a prediction."""
        self._flask = flask
        self._predictions = predictions

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """See PEP 3333."""
        path = environ["PATH_INFO"]
        if path not in _JSONP or environ["REQUEST_METHOD"] not in PREDICT_METHODS:
            return self._flask(environ, start_response)
        answer = self._predictions.answer(environ, _JSONP[path])
        length = ("Content-Length", str(len(answer.body)))
        start_response(_STATUS_LINES[answer.status], [*answer.headers, length])
        return (answer.body,)


class Answer(NamedTuple):
    """What goes back to the caller."""

    body: bytes
    status: HTTPStatus
    headers: list[tuple[str, str]]


def _response(answer: Answer) -> Response:
    return Response(answer.body, answer.status, answer.headers)


class _Exchange:
    """What one request has come to so far: a refusal answers with as much of it as there is."""

    __slots__ = ("callback", "scored")

    def __init__(self) -> None:
        self.callback = ""
        self.scored: Scored | None = None


class Predictions:
    """The two prediction routes; they differ in JSONP only."""

    def __init__(self, batcher: MicroBatcher, metrics: ServingMetrics, settings: Settings) -> None:
        """See create_app."""
        self._batcher = batcher
        self._metrics = metrics
        self._timeout_s = settings.timeout_s
        self._max_body_bytes = settings.max_body_bytes

    def answer(self, environ: WSGIEnvironment, jsonp: bool) -> Answer:
        """Score the one document of a request, or say what is wrong with it."""
        started = time.perf_counter()
        client = environ.get(CLIENT, "")[:MAX_LABEL] or "direct"
        variation = environ.get(VARIATION, "")[:MAX_LABEL] or "default"
        exchange = _Exchange()
        code = None
        self._metrics.begin()
        try:
            body = self._score(environ, jsonp, variation, started, exchange)
        except (RequestRefused, ServingError) as error:
            code = error.code if isinstance(error, RequestRefused) else CODE_OF_KIND[error.kind]
            body = _error_body(code, str(error))
        except Exception:
            log.exception("a prediction failed")
            code = ErrorCode.GENERIC
            body = _error_body(code, MESSAGES[code])

        status = HTTPStatus.OK if code is None else code.status
        total_s = time.perf_counter() - started
        scored = exchange.scored
        queue_s, compute_s, batch_size = (
            (scored.queue_s, scored.compute_s, scored.batch_size) if scored else (None, None, None)
        )
        self._metrics.observe(
            client, variation, str(status.value), total_s, queue_s, compute_s, batch_size
        )
        headers = [
            ("Server-Timing", wire.server_timing(total_s, queue_s, compute_s)),
            ("Cache-Control", "no-store"),
            ("X-Content-Type-Options", "nosniff"),
        ]
        if code is ErrorCode.OVERLOADED:
            headers.append(("Retry-After", "1"))
        if exchange.callback:
            # A script tag reads no other status; the error's own is in the document.
            body = wire.wrap(exchange.callback, body)
            return Answer(body, HTTPStatus.OK, [("Content-Type", JAVASCRIPT), *headers])
        return Answer(body, status, [("Content-Type", JSON), *headers])

    def _score(
        self,
        environ: WSGIEnvironment,
        jsonp: bool,
        variation: str,
        started: float,
        exchange: _Exchange,
    ) -> bytes:
        parameters = wire.parse_parameters(environ["QUERY_STRING"].encode("latin-1"))
        if jsonp:  # as early as can be: what fails from here on is wrapped as well
            exchange.callback = wire.check_callback(parameters.get("jsonpCallback", ""))
        text: str | bytes | None = parameters.get("json")
        field = "json"
        if environ["REQUEST_METHOD"] == "POST":
            body = self._read_body(environ)
            if body and _is_form(environ):
                parameters = wire.parse_parameters(body) | parameters
                text = parameters.get("json")
                if jsonp:
                    exchange.callback = wire.check_callback(parameters.get("jsonpCallback", ""))
            elif body and text is None:
                text, field = body, "the body"
        if text is None:
            raise RequestRefused(ErrorCode.WRONG_DATA, NO_DOCUMENT)
        data, puid = wire.parse_document(text, field)
        puid = wire.choose_puid(parameters.get("puid", ""), puid)
        info = self._batcher.info
        instance = parse_instances(data, info.features)
        timeout_s = self._deadline_s(environ) - (time.perf_counter() - started)
        exchange.scored = scored = self._batcher.submit(instance, timeout_s)
        return wire.reply(scored.scores, info.classes, info.name, puid, variation)

    def _deadline_s(self, environ: WSGIEnvironment) -> float:
        """Seconds that the gateway gives the request, from its arrival."""
        text: str = environ.get(DEADLINE_MS, "")
        if text.isascii() and text.isdigit() and len(text) < 10:
            return int(text) / 1000
        return self._timeout_s

    def _read_body(self, environ: WSGIEnvironment) -> bytes:
        encoding = environ.get("HTTP_CONTENT_ENCODING", "identity")
        if encoding.lower() != "identity":
            message = f"Content-Encoding is {encoding[:32]!r}, expected none"
            raise RequestRefused(ErrorCode.CONTENT_TYPE, message)
        # Straight from the server, which ends the stream where the body ends, chunked or not.
        limit = self._max_body_bytes
        try:
            too_large = _content_length(environ) > limit
            body: bytes = b"" if too_large else environ["wsgi.input"].read(limit + 1)
        except (BlockingIOError, TimeoutError):
            raise RequestRefused(ErrorCode.BODY_TIMEOUT, "the body came too slowly") from None
        except Exception as error:  # the caller's doing: a broken chunk, a closed connection
            raise RequestRefused(
                ErrorCode.BROKEN_JSON, f"the body cannot be read: {type(error).__name__}"
            ) from error
        if too_large or len(body) > limit:
            self._discard(environ)
            message = f"the body is larger than {limit} bytes, the limit"
            raise RequestRefused(ErrorCode.TOO_LARGE, message)
        return body

    def _discard(self, environ: WSGIEnvironment) -> None:
        """Take the rest of a body: most callers read no answer before they have sent it all."""
        stream = environ["wsgi.input"]
        with suppress(Exception):  # the answer is decided
            for _ in range(MAX_DISCARDED_BYTES // DISCARD_STEP_BYTES):
                if not stream.read(DISCARD_STEP_BYTES):
                    break


def _content_length(environ: WSGIEnvironment) -> int:
    """As stated; gunicorn lets nothing through but digits."""
    stated: str = environ.get("CONTENT_LENGTH", "")
    return int(stated) if stated.isdecimal() else 0


def _is_form(environ: WSGIEnvironment) -> bool:
    """Whether the body is a form; else it is JSON, or refused."""
    content_type = environ.get("CONTENT_TYPE", "").partition(";")[0].strip().lower()
    if content_type == FORM:
        return True
    # None given: most likely a client that sends JSON and does not say so.
    if content_type in ("", JSON) or content_type.endswith("+json"):
        return False
    message = f"Content-Type is {content_type[:64]!r}, expected {JSON} or {FORM}"
    raise RequestRefused(ErrorCode.CONTENT_TYPE, message)


def _error_body(code: ErrorCode, message: str) -> bytes:
    return wire.error_document(code.error_id, message, code.status)


def _error_response(code: ErrorCode, message: str) -> Response:
    return Response(_error_body(code, message), code.status, content_type=JSON)
