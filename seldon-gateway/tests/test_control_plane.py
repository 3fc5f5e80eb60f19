import base64
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from seldon_gateway.control_plane import create_app
from seldon_gateway.registry import Registry
from seldon_gateway.strategies import Endpoint, Variation
from seldon_gateway.tokens import AUDIENCE, TokenIssuer

KEY, SECRET, JS_KEY = "the-key", "the-secret", "the-js-key"
GRANT = {"grant_type": "client_credentials"}


@pytest.fixture
def issuer(tmp_path: Path) -> TokenIssuer:
    return TokenIssuer.load(tmp_path, 60)


@pytest.fixture
def http(registry: Registry, issuer: TokenIssuer) -> Iterator[FlaskClient]:
    registry.setup_client("acme", "DB", JS_KEY, KEY, SECRET)
    registry.setup_client("gone", "DB", "gone-js", "gone-key", "gone-secret")
    registry.set_client_active("gone", False)
    with create_app(registry, issuer, 5).test_client() as client:
        yield client


def claims(answer: TestResponse, issuer: TokenIssuer) -> Any:
    token = answer.get_json()["access_token"]
    return jwt.decode(token, issuer.key.public_key(), ["ES256"], audience=AUDIENCE)


def basic(key: str, secret: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{key}:{secret}".encode()).decode()}


def is_error(answer: TestResponse, error_id: int, status: int) -> bool:
    document = answer.get_json()
    assert set(document) >= {"error_id", "error_msg", "http_response"}
    assert document["http_response"] == answer.status_code
    return (document["error_id"], answer.status_code) == (error_id, status)


# /token as the original had it


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_key_and_secret_give_a_token_as_the_original_did(
    http: FlaskClient, issuer: TokenIssuer, method: str
) -> None:
    parameters = {"consumer_key": KEY, "consumer_secret": SECRET}
    if method == "GET":
        answer = http.get("/token", query_string=parameters)
    else:
        answer = http.post("/token", data=parameters)
    document = answer.get_json()
    assert answer.status_code == 200
    assert set(document) == {"access_token", "token_type", "token_scope", "expires_in", "name"}
    assert (document["token_type"], document["token_scope"]) == ("rummblelabs", "all")
    assert (document["name"], document["expires_in"]) == ("token", 60)
    assert answer.headers["Cache-Control"] == "no-store"
    assert claims(answer, issuer)["sub"] == KEY
    assert claims(answer, issuer)["client"] == "acme"


LEGACY_REFUSALS = [
    ({}, 16, 400, 400),
    ({"consumer_key": " "}, 16, 400, 400),
    ({"consumer_secret": SECRET}, 16, 400, 400),
    ({"consumer_key": KEY}, 17, 400, 400),
    ({"consumer_key": "unknown", "consumer_secret": SECRET}, 5, 401, 400),
    ({"consumer_key": KEY, "consumer_secret": "wrong"}, 6, 401, 400),
    ({"consumer_key": JS_KEY, "consumer_secret": "any"}, 6, 401, 400),
    ({"consumer_key": "gone-key", "consumer_secret": "gone-secret"}, 3, 401, 400),
    ({"consumer_key": "gone-key", "consumer_secret": "wrong"}, 6, 401, 400),
]


@pytest.mark.parametrize(("parameters", "error_id", "status", "_legacy"), LEGACY_REFUSALS)
def test_wrong_parameters_are_refused_by_the_originals_ids(
    http: FlaskClient, parameters: dict[str, str], error_id: int, status: int, _legacy: int
) -> None:
    answer = http.get("/token", query_string=parameters)
    assert is_error(answer, error_id, status)
    assert answer.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(("parameters", "error_id", "_status", "legacy"), LEGACY_REFUSALS)
def test_a_script_gets_a_refusal_wrapped_with_the_originals_number(
    http: FlaskClient, parameters: dict[str, str], error_id: int, _status: int, legacy: int
) -> None:
    answer = http.get("/token", query_string={**parameters, "jsonpCallback": "a.b$_1"})
    assert answer.status_code == 200
    assert answer.content_type == "application/javascript; charset=utf-8"
    document = json.loads(answer.text.removeprefix("a.b$_1(").removesuffix(")"))
    assert (document["error_id"], document["http_response"]) == (error_id, legacy)


def test_a_script_gets_its_token_wrapped(http: FlaskClient) -> None:
    parameters = {"consumer_key": KEY, "consumer_secret": SECRET, "jsonpCallback": "cb"}
    answer = http.get("/token", query_string=parameters)
    assert answer.text.startswith("cb(")
    assert json.loads(answer.text[3:-1])["token_type"] == "rummblelabs"
    assert answer.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("callback", ["alert(1)//", "a b", "<", "x" * 129, "caf\u00e9", "a\n"])
def test_a_callback_outside_its_set_is_refused_unwrapped(http: FlaskClient, callback: str) -> None:
    parameters = {"consumer_key": KEY, "consumer_secret": SECRET, "jsonpCallback": callback}
    answer = http.get("/token", query_string=parameters)
    assert is_error(answer, 46, 400)
    assert answer.content_type == "application/json"


# /token as RFC 6749 has it


@pytest.mark.parametrize("way", ["basic", "form"])
def test_client_credentials_give_a_bearer_token(
    http: FlaskClient, issuer: TokenIssuer, way: str
) -> None:
    answer = (
        http.post("/token", data=GRANT, headers=basic(KEY, SECRET))
        if way == "basic"
        else http.post("/token", data={**GRANT, "client_id": KEY, "client_secret": SECRET})
    )
    assert answer.status_code == 200
    document = answer.get_json()
    assert set(document) == {"access_token", "token_type", "expires_in", "scope"}
    assert (document["token_type"], document["expires_in"], document["scope"]) == (
        "Bearer",
        60,
        "all",
    )
    assert answer.headers["Cache-Control"] == "no-store"
    assert claims(answer, issuer)["sub"] == KEY


@pytest.mark.parametrize(
    ("key", "secret"),
    [
        ("unknown", SECRET),
        (KEY, "wrong"),
        (KEY, ""),
        ("", ""),
        (JS_KEY, ""),
        ("gone-key", "gone-secret"),
    ],
)
def test_wrong_credentials_are_all_refused_alike(http: FlaskClient, key: str, secret: str) -> None:
    form = {**GRANT, "client_id": key, "client_secret": secret}
    for answer in (
        http.post("/token", data=GRANT, headers=basic(key, secret)),
        http.post("/token", data=form),
    ):
        assert is_error(answer, 6, 401)
        assert answer.get_json()["error"] == "invalid_client"
        assert answer.get_json()["error_msg"] == "the client is unknown or its secret is wrong"
        assert answer.headers["WWW-Authenticate"] == 'Basic realm="seldon"'
        assert answer.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    ("form", "error"),
    [
        ({}, "invalid_request"),
        ({"grant_type": ""}, "invalid_request"),
        ({"grant_type": "password"}, "unsupported_grant_type"),
        ({**GRANT, "scope": "js"}, "invalid_scope"),
    ],
)
def test_a_wrong_token_request_is_400(http: FlaskClient, form: dict[str, str], error: str) -> None:
    answer = http.post("/token", data=form, headers=basic(KEY, SECRET))
    assert answer.status_code == 400
    assert answer.get_json()["error"] == error
    assert answer.get_json()["http_response"] == 400
    assert answer.headers["Cache-Control"] == "no-store"


def test_credentials_in_a_query_are_no_token_request(http: FlaskClient) -> None:
    answer = http.get("/token", query_string={**GRANT, "client_id": KEY, "client_secret": SECRET})
    assert (answer.status_code, answer.get_json()["error"]) == (400, "invalid_request")


@pytest.mark.parametrize("header", ["Basic", "Basic !!!", "Bearer x", "Basic dGhlLWtleQ=="])
def test_an_authorization_that_cannot_be_read_is_refused(http: FlaskClient, header: str) -> None:
    answer = http.post("/token", data=GRANT, headers={"Authorization": header})
    assert answer.status_code == 401


# Envoy's questions


def question(version: str = "", name: str = "rest", **more: Any) -> dict[str, Any]:
    return {"node": {"id": "n"}, "version_info": version, "resource_names": [name], **more}


def test_envoy_is_answered_once_and_then_304(http: FlaskClient) -> None:
    answer = http.post("/v3/discovery:routes", json=question())
    assert answer.status_code == 200
    document = answer.get_json()
    [routes] = document["resources"]
    assert routes["name"] == "rest"
    assert document["type_url"] == routes["@type"]
    again = http.post("/v3/discovery:routes", json=question(document["version_info"]))
    assert (again.status_code, again.data) == (304, b"")


def test_envoy_receives_the_clusters(http: FlaskClient, registry: Registry) -> None:
    registry.replace_variations("acme", "rest", [Variation("a", 1.0, (Endpoint("::1", 1),))][:0])
    registry.replace_variations("acme", "rest", [Variation("a", 1.0, (Endpoint("model", 1),))])
    answer = http.post("/v3/discovery:clusters", json={"node": {"id": "n"}})
    assert [cluster["name"] for cluster in answer.get_json()["resources"]] == ["rest_model:1"]


@pytest.mark.parametrize(
    ("body", "error_id", "status"),
    [
        (b"", 13, 400),
        (b"{", 13, 400),
        (b"[]", 13, 400),
        (b"7", 13, 400),
        (b'"x"', 13, 400),
        (b"{}", 13, 400),
        (b'{"node": {}}', 13, 400),
        (b'{"node": 1, "resource_names": ["rest"]}', 13, 400),
        (b'{"node": {"id": "n"}}', 13, 400),
        (b'{"node": {"id": "n"}, "resource_names": 1}', 13, 400),
        (b'{"node": {"id": "n"}, "resource_names": [["rest"]]}', 13, 400),
        (b'{"node": {"id": "n"}, "resource_names": []}', 21, 404),
        (b'{"node": {"id": "n"}, "resource_names": ["other"]}', 21, 404),
        (b'{"node": {"id": "n"}, "resource_names": ["rest", "grpc"]}', 21, 404),
        (b" " * 1_048_577, 13, 413),
    ],
)
def test_a_question_that_cannot_be_read_is_refused(
    http: FlaskClient, body: bytes, error_id: int, status: int
) -> None:
    assert is_error(http.post("/v3/discovery:routes", data=body), error_id, status)


def test_a_refusal_by_envoy_is_in_the_log(
    http: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    http.post("/v3/discovery:routes", json=question(error_detail={"message": "no such field"}))
    assert "Envoy n rejected its configuration" in caplog.text
    assert "no such field" in caplog.text


# The rest


def test_the_version_is_the_originals(http: FlaskClient) -> None:
    assert http.get("/version").get_json()["version_number"] == "1.4.10"


def test_the_public_key_set_is_the_issuers(http: FlaskClient, issuer: TokenIssuer) -> None:
    assert http.get("/.well-known/jwks.json").get_json() == issuer.jwks()


def test_it_is_live_and_ready(http: FlaskClient) -> None:
    assert http.get("/health/live").status_code == 200
    assert http.get("/health/ready").status_code == 200


def test_other_paths_and_methods_are_refused(http: FlaskClient) -> None:
    assert is_error(http.get("/nothing"), 21, 404)
    answer = http.put("/token")
    assert is_error(answer, 11, 405)
    assert "POST" in answer.headers["Allow"]


def test_a_lost_database_is_503_without_its_details(
    http: FlaskClient, registry: Registry, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    registry.close()
    for path in tmp_path.glob("seldon.db*"):
        path.unlink()
    parameters = {"consumer_key": KEY, "consumer_secret": SECRET}
    for answer in (
        http.get("/token", query_string=parameters),
        http.post("/token", data=GRANT, headers=basic(KEY, SECRET)),
        http.get("/health/ready"),
        http.post("/v3/discovery:routes", json=question()),
    ):
        assert is_error(answer, 14, 503)
        assert answer.get_json()["error_msg"] == "Internal Error : Database problem"
    assert http.get("/health/live").status_code == 200
    assert "Traceback" not in caplog.text
    assert "cannot be used: no such table" in caplog.text


def test_what_nobody_thought_of_is_500_without_a_traceback_in_the_answer(
    http: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> str:
        raise ZeroDivisionError("details")

    http.application.view_functions["version"] = fail
    answer = http.get("/version")
    assert is_error(answer, 13, 500)
    assert "details" not in answer.text
    assert caplog.records[-1].levelno == logging.ERROR
    assert "ZeroDivisionError" in caplog.text


def test_secrets_and_tokens_are_not_logged(
    http: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    parameters = {"consumer_key": KEY, "consumer_secret": SECRET}
    token = http.get("/token", query_string=parameters).get_json()["access_token"]
    http.get("/token", query_string={**parameters, "consumer_secret": "wrong-secret"})
    http.post("/token", data=GRANT, headers=basic(KEY, SECRET))
    for hidden in (SECRET, "wrong-secret", token, KEY):
        assert hidden not in caplog.text
