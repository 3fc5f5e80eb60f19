"""Paths of the APIs that the gateway routes, and which of them need an access token. Pure."""

from typing import Any

Json = dict[str, Any]

JS_PREDICT = "/js/predict"
PREDICT = "/predict"
CONTROL_PLANE = ("/token", "/version", "/.well-known/jwks.json")
HEALTH = ("/health/live", "/health/ready")

SELDON_CORE = "/api/v1.0/predictions"
# At Seldon Core's ingress the path begins with the deployment, behind its namespace or alone.
_INGRESS = "/seldon"
_SELDON_CORE_FORM = rf"({_INGRESS}(/[^/]+)?/[^/]+)?/api/v1\.0/predictions"
_OPENAPI = "/openapi.json"
_TENSORFLOW_SERVING = "/v1/models/"


def regex(form: str) -> Json:
    """A string matcher of a route's matcher, which requires the engine."""
    return {"safe_regex": {"google_re2": {}, "regex": form}}


# REST with an access token. Envoy tries these string matchers in this order.
PREDICTIONS: tuple[Json, ...] = (
    {"exact": PREDICT},
    regex(
        "/v2(/health/(live|ready)"
        r"|/models/[^/:]+(/versions/[A-Za-z0-9_.-]+)?(/ready|/infer)?)?"
    ),
    regex(r"/v1/models/[^/:]+(/versions/[A-Za-z0-9_.-]+)?(:predict|/metadata)?"),
    regex(_SELDON_CORE_FORM),
    {"exact": _OPENAPI},
)
# The model in a path, as Lua patterns. The others are of paths that the servers know without it.
# No pattern has two repetitions that match the same text: Lua's time would be quadratic.
MODEL_PATTERN = "^/v[12]/models/([^/:]+)"
_AFTER_DEPLOYMENT = f"/([^/]+){SELDON_CORE.replace('.', '%.')}$"
DEPLOYMENT_PATTERN = f"^{_INGRESS}{_AFTER_DEPLOYMENT}"
DEPLOYMENT_IN_NAMESPACE_PATTERN = f"^{_INGRESS}/[^/]+{_AFTER_DEPLOYMENT}"
# What the JWT filter verifies: at least the paths above.
TOKEN_PATHS: tuple[Json, ...] = (
    {"prefix": PREDICT},
    {"path_separated_prefix": "/v2"},
    {"prefix": _TENSORFLOW_SERVING},
    {"path": SELDON_CORE},
    {"path_separated_prefix": _INGRESS},
    {"path": _OPENAPI},
)
# Matchers of the paths whose errors are {"error": text}, or {"status": …}.
ERROR_TEXT_PATHS: Json = {"safe_regex": {"regex": f"/v2(/.*)?|{_TENSORFLOW_SERVING}.*"}}
SELDON_CORE_PATHS: Json = {"safe_regex": {"regex": rf"{_INGRESS}(/.*)?|/api/v1\.0/predictions"}}

CLASSIFY = "/io.seldon.api.rpc.Seldon/Classify"
HEALTH_CHECK = "/grpc.health.v1.Health/Check"
_SERVICES = (
    "io.seldon.api.rpc.Seldon",
    "inference.GRPCInferenceService",
    "tensorflow.serving.PredictionService",
    "seldon.protos.Seldon",
)
_REFLECTION = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")
# "" is the server as a whole.
HEALTH_SERVICES = ("", *_SERVICES, *_REFLECTION)

# gRPC with an access token, as above.
CALLS: tuple[Json, ...] = (
    {"exact": CLASSIFY},
    {"prefix": "/inference.GRPCInferenceService/"},
    {"prefix": "/tensorflow.serving.PredictionService/"},
    {"exact": "/seldon.protos.Seldon/Predict"},
    *({"exact": f"/{service}/ServerReflectionInfo"} for service in _REFLECTION),
)
TOKEN_CALLS: tuple[Json, ...] = tuple(
    {"prefix": f"/{service}/"} for service in (*_SERVICES, *_REFLECTION)
)
