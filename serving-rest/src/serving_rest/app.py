"""What the server answers: `Predictions` the routes of predictions, a WSGI app all others.

serving_core has the protocols.
"""

import logging
from collections.abc import Callable
from http import HTTPStatus

import orjson
from flask import Flask, Response, abort, request
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from serving_core import DataPlane, Exchange, Served
from serving_core.exchange import Codec, Send
from serving_core.protocols.http import JSON, HttpRequest, HttpResponse
from serving_core.protocols.open_inference import rest as open_inference
from serving_core.protocols.seldon import rest as seldon
from serving_core.protocols.seldon.rest import MESSAGES, ErrorCode
from serving_core.protocols.seldon_core import rest as seldon_core
from serving_core.protocols.tensorflow_serving import rest as tensorflow_serving
from serving_rest.settings import Settings
from serving_rest.views import create_views

log = logging.getLogger(__name__)

HttpCodec = Codec[HttpRequest, HttpResponse]

_SELDON_METHODS = (*seldon.METHODS, "HEAD")
_ROUTES: dict[tuple[str, str], HttpCodec] = {
    **{(method, seldon.PREDICT): seldon for method in _SELDON_METHODS},
    **{(method, seldon.JS_PREDICT): seldon for method in _SELDON_METHODS},
    ("POST", seldon_core.PATH): seldon_core,
}


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
    def predict(**_: str) -> Response:
        abort(HTTPStatus.NOT_FOUND)

    for rule in (seldon.JS_PREDICT, seldon.PREDICT):
        app.add_url_rule(rule, view_func=predict, methods=_SELDON_METHODS)
    for rule in (
        "/v2/models/<name>/infer",
        "/v2/models/<name>/versions/<version>/infer",
        "/v1/models/<name>:predict",
        "/v1/models/<name>/versions/<version>:predict",
        seldon_core.PATH,
    ):
        app.add_url_rule(rule, view_func=predict, methods=("POST",))
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


class Predictions:
    """The routes of predictions, of all protocols."""

    def __init__(self, plane: DataPlane, settings: Settings) -> None:
        """Create it in the serving process.

        Args:
            plane: The process's batcher and metrics.
            settings: The limits.
        """
        self.batcher = plane.batcher
        self._plane = plane
        self._timeout_s = settings.timeout_s

    def begin(
        self, codec: HttpCodec, request: HttpRequest, send: Send[HttpResponse]
    ) -> Exchange[HttpRequest, HttpResponse]:
        """Begin a request, whose body may be incomplete; its deadline counts from now.

        Args:
            codec: The request's protocol, from `codec_of`.
            request: Its head.
            send: Called once, by a method of the exchange or in the thread that runs the engine.
        """
        served = Served.by(self.batcher.info, request.variation, request.models)
        return Exchange(self._plane, codec, request.client, served, send)

    def deadline_s(self, request: HttpRequest) -> float:
        """The gateway's deadline for the request, in seconds from its arrival."""
        text = request.deadline_ms
        if text.isascii() and text.isdigit() and len(text) < 10:
            return int(text) / 1000
        return self._timeout_s


def _error_body(code: ErrorCode, message: str) -> bytes:
    return seldon.error_document(code.error_id, message, code.status)


def _error_response(code: ErrorCode, message: str) -> Response:
    return Response(_error_body(code, message), code.status, content_type=JSON)
