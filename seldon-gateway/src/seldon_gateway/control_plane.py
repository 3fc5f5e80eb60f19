"""The control plane's HTTP server: xDS discovery for Envoy, access tokens, public keys.

Envoy routes callers to /token, /version and the public keys. The discovery and health endpoints
are for Envoy and its operator alone, on loopback or a private network.
"""

import logging
import os
import re
from http import HTTPStatus

import orjson
from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound

from seldon_gateway import api_errors, envoy_headers
from seldon_gateway.api_errors import ApiError
from seldon_gateway.errors import RegistryUnavailable
from seldon_gateway.registry import SCOPE_ALL, Consumer, Registry, burn_a_comparison
from seldon_gateway.settings import GatewaySettings
from seldon_gateway.snapshots import CLUSTERS, Snapshots
from seldon_gateway.tokens import TokenIssuer

log = logging.getLogger(__name__)

# The original's last release, which its clients compare with.
VERSION = {
    "major": 1,
    "minor": 4,
    "fix": 10,
    "date": "31-10-2017",
    "version_number": "1.4.10",
}
# Envoy lists all its extensions in every discovery request: about 70 kB.
MAX_BODY_BYTES = 1_048_576
_CALLBACK = re.compile(envoy_headers.CALLBACK_FORM)
_CALLBACK_WRONG = ApiError(
    46, "jsonpCallback is invalid, expected 1 to 128 letters, digits, '_', '.' and '$'", 400
)
_GRANT = "client_credentials"


def create_app(
    registry: Registry,
    issuer: TokenIssuer,
    timeout_s: float,
    cors_origins: tuple[str, ...] = (),
) -> Flask:
    """The control plane's Flask app: `registry` as xDS resources, tokens of `issuer`."""
    app = Flask("seldon_gateway")
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES
    snapshots = Snapshots(registry, timeout_s, cors_origins)
    jwks = orjson.dumps(issuer.jwks())

    @app.post("/v3/discovery:<kind>")
    def discover(kind: str) -> Response:
        try:
            discovery_request = orjson.loads(request.get_data())
            node = str(discovery_request["node"]["id"])
            names = [CLUSTERS] if kind == CLUSTERS else discovery_request["resource_names"]
        except (orjson.JSONDecodeError, KeyError, TypeError):
            return _refuse(api_errors.BAD_REQUEST)
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            return _refuse(api_errors.BAD_REQUEST)
        if "error_detail" in discovery_request:
            log.error(
                "Envoy %s rejected its configuration: %s", node, discovery_request["error_detail"]
            )
        if len(names) != 1 or names[0] not in snapshots.kinds:
            return _refuse(api_errors.NOT_FOUND)
        resources = snapshots.discovery_response(
            node, names[0], str(discovery_request.get("version_info", ""))
        )
        if resources is None:
            return Response(status=HTTPStatus.NOT_MODIFIED)
        return Response(resources.body, content_type="application/json")

    @app.route("/token", methods=["GET", "POST"])
    def token() -> Response:
        if request.authorization is not None or "grant_type" in request.values:
            return _standard_token(registry, issuer)
        return _legacy_token(registry, issuer)

    @app.get("/.well-known/jwks.json")
    def public_keys() -> Response:
        return Response(jwks, content_type="application/json")

    @app.get("/version")
    def version() -> Response:
        return _json(VERSION, HTTPStatus.OK)

    @app.get("/health/live")
    def live() -> Response:
        return _json({"status": "live"}, HTTPStatus.OK)

    @app.get("/health/ready")
    def ready() -> Response:
        registry.revision()
        return _json({"status": "ready"}, HTTPStatus.OK)

    @app.errorhandler(RegistryUnavailable)
    def database_failed(error: RegistryUnavailable) -> Response:
        log.error("%s", error)
        return _refuse(api_errors.DATABASE_FAILED)

    @app.errorhandler(HTTPException)
    def http_error(error: HTTPException) -> Response:
        if isinstance(error, NotFound):
            return _refuse(api_errors.NOT_FOUND)
        if isinstance(error, MethodNotAllowed):
            refusal = _refuse(api_errors.METHOD_NOT_ALLOWED)
            refusal.headers["Allow"] = ", ".join(sorted(error.valid_methods or ()))
            return refusal
        status = error.code or HTTPStatus.INTERNAL_SERVER_ERROR
        return _refuse(ApiError(13, f"A generic error occurred: {error.name}", status))

    @app.errorhandler(Exception)
    def unexpected(error: Exception) -> Response:
        log.exception("unexpected error: %s", type(error).__name__)
        return _refuse(api_errors.INTERNAL)

    return app


def create_app_from_env() -> Flask:
    """The app that gunicorn serves, from the environment."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    settings = GatewaySettings.from_env(os.environ)
    return create_app(
        Registry.open(settings.database_url),
        TokenIssuer.load(settings.home, settings.token_ttl_s),
        settings.timeout_s,
        settings.cors_origins,
    )


# Tokens


def _legacy_token(registry: Registry, issuer: TokenIssuer) -> Response:
    """The original's token endpoint: keys as parameters, its error ids, JSONP if requested."""
    callback = request.values.get("jsonpCallback", "") if request.method == "GET" else ""
    if callback and not (
        len(callback) <= envoy_headers.CALLBACK_LENGTH and _CALLBACK.fullmatch(callback)
    ):
        return _refuse(_CALLBACK_WRONG)
    key = request.values.get("consumer_key", "").strip()
    secret = request.values.get("consumer_secret", "").strip()
    error = _missing(key, secret)
    consumer = None if error else registry.find_consumer(key)
    if error is None:
        error = _credentials_error(consumer, secret)
    if error is not None or consumer is None:
        return _refuse(error or api_errors.KEY_UNKNOWN, callback)
    return _json(
        {
            "access_token": issuer.issue(consumer.consumer_key, consumer.client, SCOPE_ALL),
            "token_type": "rummblelabs",
            "token_scope": SCOPE_ALL,
            "expires_in": issuer.ttl_s,
            "name": "token",
        },
        HTTPStatus.OK,
        callback,
    )


def _missing(key: str, secret: str) -> ApiError | None:
    if not key:
        return ApiError(16, api_errors.KEY_MISSING.message, 400)
    return None if secret else api_errors.SECRET_MISSING


def _credentials_error(consumer: Consumer | None, secret: str) -> ApiError | None:
    if consumer is None or not consumer.secret_hash:
        burn_a_comparison()  # also for a key without a secret
        return api_errors.KEY_UNKNOWN if consumer is None else api_errors.SECRET_WRONG
    if not consumer.secret_matches(secret):
        return api_errors.SECRET_WRONG
    return None if consumer.active else api_errors.NOT_AUTHORIZED


def _standard_token(registry: Registry, issuer: TokenIssuer) -> Response:
    """The client credentials grant of RFC 6749, section 4.4, by Basic or by form fields."""
    if request.method != "POST":
        return _oauth_refuse("invalid_request", "the token request must be a POST", 400)
    grant = request.form.get("grant_type")
    if not grant:
        return _oauth_refuse("invalid_request", f"grant_type is missing, expected {_GRANT}", 400)
    if grant != _GRANT:
        return _oauth_refuse(
            "unsupported_grant_type", f"grant_type is not supported, expected {_GRANT}", 400
        )
    scope = request.form.get("scope", SCOPE_ALL)
    if scope != SCOPE_ALL:
        return _oauth_refuse("invalid_scope", f"scope is invalid, expected {SCOPE_ALL}", 400)
    if request.authorization is not None:
        key = request.authorization.get("username") or ""
        secret = request.authorization.get("password") or ""
    else:
        key = request.form.get("client_id", "")
        secret = request.form.get("client_secret", "")
    consumer = registry.find_consumer(key) if key else None
    # The same text after the same time for each failure, so that no key can be guessed.
    if _credentials_error(consumer, secret) is not None or consumer is None:
        return _oauth_refuse("invalid_client", "the client is unknown or its secret is wrong", 401)
    return _uncached(
        {
            "access_token": issuer.issue(consumer.consumer_key, consumer.client, scope),
            "token_type": "Bearer",
            "expires_in": issuer.ttl_s,
            "scope": scope,
        },
        HTTPStatus.OK,
    )


def _oauth_refuse(error: str, description: str, status: int) -> Response:
    error_id = 6 if status == HTTPStatus.UNAUTHORIZED else 13
    answer = _uncached(
        {
            "error": error,
            "error_description": description,
            **ApiError(error_id, description, status).document(),
        },
        status,
    )
    if status == HTTPStatus.UNAUTHORIZED:
        answer.headers["WWW-Authenticate"] = 'Basic realm="seldon"'
    return answer


# Answers


def _refuse(error: ApiError, callback: str = "") -> Response:
    if callback:
        return _json(error.document(legacy=True), HTTPStatus.OK, callback)
    return _json(error.document(), error.status)


def _json(document: object, status: int, callback: str = "") -> Response:
    if callback:
        wrapped = callback.encode() + b"(" + orjson.dumps(document) + b")"
        answer = Response(wrapped, status, content_type="application/javascript; charset=utf-8")
    else:
        answer = Response(orjson.dumps(document), status, content_type="application/json")
    if request.path == "/token":
        answer.headers["Cache-Control"] = "no-store"
    return answer


def _uncached(document: object, status: int) -> Response:
    answer = _json(document, status)
    answer.headers["Cache-Control"] = "no-store"
    return answer
