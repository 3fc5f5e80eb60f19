"""Health and metadata of the Open Inference Protocol; predictions do not pass through Flask."""

from collections.abc import Callable

import orjson
from flask import Blueprint, Response, request

from serving_core import ModelInfo, PredictorNotReady, Served, ServingError
from serving_core.protocols.http import JSON, HttpRequest
from serving_core.protocols.open_inference import common, rest

VARIATION = "X-Seldon-Variation"


def create_views(model: ModelInfo, ready: Callable[[], bool]) -> Blueprint:
    """Create the views under /v2.

    Args:
        model: The served model.
        ready: Whether the process serves predictions.
    """
    views = Blueprint("open_inference", __name__, url_prefix="/v2")

    def served() -> Served:
        variation = request.headers.get(VARIATION, "")
        return Served(model, variation, bool(variation))

    @views.get("")
    def server_metadata() -> Response:
        return _document(common.server_metadata())

    @views.get("/health/live")
    def live() -> Response:
        return _document({"live": True})

    @views.get("/health/ready")
    def server_ready() -> Response:
        if not ready():
            raise PredictorNotReady("the server is not ready")
        return _document({"ready": True})

    @views.get("/models/<name>")
    @views.get("/models/<name>/versions/<version>")
    def model_metadata(name: str, version: str = "") -> Response:
        who = served()
        common.check_model(name, version, who)
        return _document(common.model_metadata(who))

    @views.get("/models/<name>/ready")
    @views.get("/models/<name>/versions/<version>/ready")
    def model_ready(name: str, version: str = "") -> Response:
        who = served()
        common.check_model(name, version, who)
        if not ready():
            raise PredictorNotReady(f"model {name[:64]} is not ready")
        return _document({"name": common.model_name(who), "ready": True})

    @views.errorhandler(ServingError)
    def refuse(error: ServingError) -> Response:
        refused = rest.refuse(HttpRequest(request.path, request.method, ""), error)
        return Response(refused.body, refused.status, refused.headers, content_type=JSON)

    return views


def _document(document: object) -> Response:
    return Response(orjson.dumps(document), content_type=JSON)
