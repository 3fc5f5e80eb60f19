"""Health and metadata of the protocols; predictions do not pass through Flask."""

from collections.abc import Callable

import orjson
from flask import Blueprint, Response, request

from serving_core import ModelInfo, PredictorNotReady, Served, ServingError
from serving_core.protocols.http import JSON, HttpRequest
from serving_core.protocols.open_inference import common, rest
from serving_core.protocols.tensorflow_serving import rest as tensorflow_serving
from serving_rest import openapi

VARIATION = "X-Seldon-Variation"
MODELS = "X-Seldon-Models"


def create_views(model: ModelInfo, ready: Callable[[], bool]) -> tuple[Blueprint, ...]:
    """Create the views of /v2 (Open Inference), /v1 (TensorFlow Serving) and /openapi.json.

    Args:
        model: The served model.
        ready: Whether the process serves predictions.
    """

    def who_serves() -> Served:
        headers = request.headers
        return Served.by(model, headers.get(VARIATION, ""), headers.get(MODELS, ""))

    def served(name: str, version: str) -> Served:
        """Who serves the request, if it is for this model."""
        who = who_serves()
        common.check_model(name, version, who)
        return who

    v2 = Blueprint("open_inference", __name__, url_prefix="/v2")

    @v2.get("")
    def server_metadata() -> Response:
        return _document(common.server_metadata())

    @v2.get("/health/live")
    def live() -> Response:
        return _document({"live": True})

    @v2.get("/health/ready")
    def server_ready() -> Response:
        if not ready():
            raise PredictorNotReady("the server is not ready")
        return _document({"ready": True})

    @v2.get("/models/<name>")
    @v2.get("/models/<name>/versions/<version>")
    def model_metadata(name: str, version: str = "") -> Response:
        return _document(common.model_metadata(served(name, version)))

    @v2.get("/models/<name>/ready")
    @v2.get("/models/<name>/versions/<version>/ready")
    def model_ready(name: str, version: str = "") -> Response:
        who = served(name, version)
        if not ready():
            raise PredictorNotReady(f"model {name[:64]} is not ready")
        return _document({"name": common.model_name(who), "ready": True})

    v1 = Blueprint("tensorflow_serving", __name__, url_prefix="/v1")

    @v1.get("/models/<name>")
    @v1.get("/models/<name>/versions/<version>")
    def status(name: str, version: str = "") -> Response:
        return _document(tensorflow_serving.model_status(served(name, version), ready()))

    @v1.get("/models/<name>/metadata")
    @v1.get("/models/<name>/versions/<version>/metadata")
    def signatures(name: str, version: str = "") -> Response:
        return _document(tensorflow_serving.model_metadata(served(name, version)))

    api = Blueprint("openapi", __name__)

    @api.get("/openapi.json")
    def describe() -> Response:
        return _document(openapi.document(who_serves()))

    for views in (v1, v2, api):
        views.register_error_handler(ServingError, _refuse)
    return v1, v2, api


def _refuse(error: ServingError) -> Response:
    refused = rest.refuse(HttpRequest(request.path, request.method, ""), error)
    return Response(refused.body, refused.status, refused.headers, content_type=JSON)


def _document(document: object) -> Response:
    return Response(orjson.dumps(document), content_type=JSON)
