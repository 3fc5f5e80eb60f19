"""REST through the real Envoy and control plane: who is let in, and what each answer says."""

import base64
import hmac
import json
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
import requests
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from gateway_under_test import GatewayUnderTest, HttpUpstream

from polling import eventually
from ports import free_ports
from seldon_gateway import api_errors, limits
from seldon_gateway.envoy_bootstrap import bootstrap
from seldon_gateway.processes import control_plane_command
from seldon_gateway.settings import GatewaySettings
from seldon_gateway.strategies import Endpoint, Variation
from seldon_gateway.tokens import ALGORITHM, AUDIENCE, ISSUER, TokenIssuer

JS, KEY, SECRET = "acme-js-key", "acme-all-key", "acme-all-secret"
EMPTY_JS, EMPTY_KEY, EMPTY_SECRET = "empty-js-key", "empty-all-key", "empty-all-secret"
JAVASCRIPT = "application/javascript; charset=utf-8"


@pytest.fixture(scope="module")
def gateway(
    start_gateway: Callable[..., GatewayUnderTest], http_upstream: HttpUpstream
) -> GatewayUnderTest:
    def prepare(gateway: GatewayUnderTest) -> None:
        gateway.registry.setup_client("acme", "DB", JS, KEY, SECRET)
        gateway.serve("acme", "rest", http_upstream)
        gateway.registry.setup_client("empty", "DB", EMPTY_JS, EMPTY_KEY, EMPTY_SECRET)
        gateway.registry.setup_client("dead", "DB", "dead-js", "dead-key", "dead-secret")
        gateway.registry.replace_variations(
            "dead", "rest", [Variation("a", 1.0, (Endpoint("127.0.0.1", 1),))]
        )

    return start_gateway(prepare)


@pytest.fixture(scope="module")
def token(gateway: GatewayUnderTest) -> str:
    return gateway.token(KEY, SECRET)


@pytest.fixture(scope="module")
def issuer(gateway: GatewayUnderTest) -> TokenIssuer:
    """Signs with the gateway's own key what the gateway itself would not."""
    return TokenIssuer.load(gateway.settings.home, 600)


def signed(issuer: TokenIssuer, **claims: Any) -> str:
    now = int(time.time())
    usual = {"iss": ISSUER, "aud": AUDIENCE, "sub": KEY, "iat": now, "exp": now + 600}
    wanted = {name: value for name, value in (usual | claims).items() if value is not None}
    return jwt.encode(wanted, issuer.key, ALGORITHM, headers={"kid": issuer.key_id})


def altered(token: str) -> str:
    head, claims, signature = token.split(".")
    return f"{head}.{claims}.{'B' if signature[0] == 'A' else 'A'}{signature[1:]}"


def encoded(part: bytes) -> str:
    return base64.urlsafe_b64encode(part).rstrip(b"=").decode()


def error(answer: requests.Response) -> tuple[int, int]:
    """Its id and status, which the body says too."""
    document = answer.json()
    assert set(document) == {"error_id", "error_msg", "http_response"}
    assert document["http_response"] == answer.status_code
    assert answer.headers["content-type"] == "application/json"
    return document["error_id"], answer.status_code


def wrapped_error(answer: requests.Response, callback: str) -> tuple[int, int]:
    """Its id and the status in it, for a script."""
    assert answer.status_code == 200
    assert answer.headers["content-type"] == JAVASCRIPT
    document = json.loads(answer.text.removeprefix(f"{callback}(").removesuffix(")"))
    return document["error_id"], document["http_response"]


# Who the model server hears it is


def test_a_js_key_reaches_its_clients_model_server(gateway: GatewayUnderTest) -> None:
    answer = gateway.js(JS, puid="1", jsonpCallback="cb")
    assert answer.status_code == 200
    headers = answer.json()["headers"]
    assert headers["x-seldon-client"] == "acme"
    assert headers["x-seldon-variation"] == "a"
    assert "puid=1" in answer.json()["path"]


def test_a_token_reaches_its_clients_model_server(gateway: GatewayUnderTest, token: str) -> None:
    answer = gateway.predict(token)
    assert answer.status_code == 200
    assert answer.json()["headers"]["x-seldon-client"] == "acme"
    assert answer.json()["body"] == "{}"


def test_the_model_server_receives_the_deadline(gateway: GatewayUnderTest) -> None:
    headers = gateway.js(JS).json()["headers"]
    assert 0 < int(headers["x-envoy-expected-rq-timeout-ms"]) <= 5000


def test_only_a_model_servers_answer_says_what_the_gateway_took(gateway: GatewayUnderTest) -> None:
    assert gateway.js(JS).headers["x-gateway-timing"].startswith("in=")
    for answer in (gateway.js("unknown"), gateway.js(EMPTY_JS), gateway.get("/version")):
        assert "x-gateway-timing" not in answer.headers


@pytest.mark.parametrize("spelling", [str.lower, str.title])
def test_headers_of_ours_are_not_taken_from_a_caller(
    gateway: GatewayUnderTest, token: str, spelling: Callable[[str], str]
) -> None:
    names = ("client", "variation", "subject", "consumer-key", "path", "callback")
    spoofed = {spelling(f"x-seldon-{name}"): "evil" for name in names}
    for answer in (
        gateway.get("/js/predict", params={"consumer_key": JS}, headers=spoofed),
        gateway.post("/predict", headers={**spoofed, "Authorization": f"Bearer {token}"}),
    ):
        assert answer.status_code == 200
        assert "evil" not in answer.text
        assert answer.json()["headers"]["x-seldon-client"] == "acme"


def test_a_subject_of_the_callers_opens_nothing(gateway: GatewayUnderTest) -> None:
    assert error(gateway.post("/predict", headers={"x-seldon-subject": KEY})) == (15, 401)
    answer = gateway.get("/js/predict", headers={"x-seldon-consumer-key": JS})
    assert error(answer) == (16, 401)


def test_credentials_do_not_reach_the_model_server(gateway: GatewayUnderTest, token: str) -> None:
    answers = [
        gateway.predict(token),
        gateway.post(f"/predict?oauth_token={token}", data=b"{}"),
        gateway.get(
            "/js/predict", params={"consumer_key": JS}, headers={"Authorization": f"Bearer {token}"}
        ),
    ]
    for answer in answers:
        assert answer.status_code == 200
        seen = answer.json()["headers"]
        hidden = {"authorization", "oauth_token", "x-seldon-consumer-key", "x-seldon-subject"}
        assert not hidden & set(seen)
        assert token not in answer.text


def test_a_form_may_carry_the_key_and_is_forwarded_whole(gateway: GatewayUnderTest) -> None:
    form = {"json": '{"data": [1]}', "consumer_key": JS}
    answer = gateway.post("/js/predict", data=form)
    assert answer.status_code == 200
    assert answer.json()["headers"]["x-seldon-client"] == "acme"
    assert "json=%7B%22data%22" in answer.json()["body"]


def test_a_key_in_the_url_wins_over_the_forms(gateway: GatewayUnderTest) -> None:
    answer = gateway.post(f"/js/predict?consumer_key={JS}", data={"consumer_key": "wrong"})
    assert answer.status_code == 200


def test_a_url_of_64_kib_passes_whole(gateway: GatewayUnderTest) -> None:
    long = "1" * 65_400
    answer = gateway.js(JS, puid=long)
    assert answer.status_code == 200
    assert long in answer.json()["path"]


# Tokens


def test_a_token_may_come_in_the_query(gateway: GatewayUnderTest, token: str) -> None:
    assert gateway.post(f"/predict?oauth_token={token}").status_code == 200


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "bEaReR"])
def test_the_scheme_of_a_token_is_case_insensitive(
    gateway: GatewayUnderTest, token: str, scheme: str
) -> None:
    answer = gateway.post("/predict", headers={"Authorization": f"{scheme} {token}"})
    assert answer.status_code == 200
    assert answer.json()["headers"]["x-seldon-client"] == "acme"
    assert token not in answer.text
    wrong = gateway.post("/predict", headers={"Authorization": f"{scheme} {altered(token)}"})
    assert error(wrong) == (7, 401)


def several(gateway: GatewayUnderTest, target: str, *authorization: str) -> dict[str, str]:
    """The response's body and headers as one; it must say that there are several tokens."""
    fields = "".join(f"Authorization: {value}\r\n" for value in authorization)
    request = f"POST {target} HTTP/1.1\r\nHost: x\r\n{fields}Content-Length: 0\r\n\r\n"
    status, headers, body = gateway.raw(request.encode())
    document = json.loads(body)
    assert (document["error_id"], status) == (13, 400), document
    assert "several access tokens, expected one" in document["error_msg"]
    assert headers["www-authenticate"] == 'Bearer realm="seldon", error="invalid_request"'
    return headers | {"body": body.decode()}


@pytest.mark.parametrize("second", [str, altered, lambda _: "nonsense"], ids=["good", "bad", "no"])
@pytest.mark.parametrize("first", [str, altered, lambda _: "nonsense"], ids=["good", "bad", "no"])
def test_several_tokens_are_refused_by_that_name(
    gateway: GatewayUnderTest,
    token: str,
    first: Callable[[str], str],
    second: Callable[[str], str],
) -> None:
    a, b = first(token), second(token)
    answers = (
        several(gateway, f"/predict?oauth_token={a}", f"Bearer {b}"),
        several(gateway, "/predict", f"Bearer {a}", f"bearer {b}"),
    )
    for answer in answers:
        assert "eyJ" not in str(answer)


def test_a_token_after_another_scheme_is_refused_by_that_name(
    gateway: GatewayUnderTest, token: str
) -> None:
    several(gateway, "/predict", "Basic eDp5", f"Bearer {token}")
    several(gateway, "/predict", f"Bearer {token}", "Basic eDp5")


def test_a_subject_with_a_comma_is_no_second_token(
    gateway: GatewayUnderTest, issuer: TokenIssuer
) -> None:
    assert gateway.predict(signed(issuer, sub="a b")).status_code == 401


@pytest.mark.parametrize("place", ["header", "query", "both"])
def test_a_refusal_repeats_no_token(gateway: GatewayUnderTest, token: str, place: str) -> None:
    expired = signed(TokenIssuer.load(gateway.settings.home, 600), exp=int(time.time()) - 100)
    for bad in (altered(token), "nonsense.of.mine", expired):
        headers = {"Authorization": f"Bearer {bad}"} if place != "query" else {}
        query = f"?oauth_token={bad}" if place != "header" else ""
        for path in ("/predict", "/v2/models/a/infer", "/api/v1.0/predictions"):
            answer = gateway.post(f"{path}{query}", headers=headers)
            assert answer.status_code in (400, 401)
            assert bad not in f"{answer.headers} {answer.text}"
            assert answer.headers["www-authenticate"].startswith('Bearer realm="seldon", error=')


def test_the_standard_token_request_works_through_the_gateway(gateway: GatewayUnderTest) -> None:
    form = {"grant_type": "client_credentials"}
    answer = gateway.post("/token", data=form, auth=(KEY, SECRET))
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    assert gateway.predict(answer.json()["access_token"]).status_code == 200


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({}, (16, 400)),
        ({"consumer_key": KEY}, (17, 400)),
        ({"consumer_key": "unknown", "consumer_secret": SECRET}, (5, 401)),
        ({"consumer_key": KEY, "consumer_secret": "wrong"}, (6, 401)),
    ],
)
def test_token_requests_are_refused_by_the_originals_ids(
    gateway: GatewayUnderTest, parameters: dict[str, str], expected: tuple[int, int]
) -> None:
    assert error(gateway.get("/token", params=parameters)) == expected
    scripted = gateway.get("/token", params={**parameters, "jsonpCallback": "cb"})
    assert wrapped_error(scripted, "cb") == (expected[0], 400)


@pytest.mark.parametrize("header", ["Basic eDp5", "Digest x", "", None])
def test_a_call_without_a_token_is_error_15(gateway: GatewayUnderTest, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header}
    answer = gateway.post("/predict", data=b"{}", headers=headers)
    assert error(answer) == (15, 401)
    assert answer.headers["www-authenticate"].startswith("Bearer")


def test_an_expired_token_is_error_8(gateway: GatewayUnderTest, issuer: TokenIssuer) -> None:
    expired = TokenIssuer(issuer.key, -10).issue(KEY, "acme", "all")
    answer = gateway.predict(expired)
    assert error(answer) == (8, 401)
    assert answer.json()["error_msg"] == "Token expired"
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert error(gateway.post(f"/predict?oauth_token={expired}")) == (8, 401)


def unsigned(_token: str) -> str:
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": KEY, "exp": int(time.time()) + 600}
    return jwt.encode(claims, "", "none")


@pytest.mark.parametrize(
    "forge",
    [
        altered,
        unsigned,
        lambda token: token[:-10],
        lambda _: "nonsense",
        lambda _: "a.b.c",
        lambda _: "x" * 20_000,
    ],
    ids=["altered", "unsigned", "cut", "nonsense", "dots", "long"],
)
def test_a_token_that_is_not_ours_is_error_7(
    gateway: GatewayUnderTest, token: str, forge: Callable[[str], str]
) -> None:
    answer = gateway.predict(forge(token))
    assert error(answer) == (7, 401)
    assert answer.headers["www-authenticate"].startswith("Bearer")


def test_a_token_signed_by_another_key_is_error_7(
    gateway: GatewayUnderTest, issuer: TokenIssuer, tmp_path: Path
) -> None:
    other = TokenIssuer.load(tmp_path, 600)
    assert error(gateway.predict(other.issue(KEY, "acme", "all"))) == (7, 401)
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": KEY, "exp": int(time.time()) + 600}
    as_ours = jwt.encode(claims, other.key, ALGORITHM, headers={"kid": issuer.key_id})
    assert error(gateway.predict(as_ours)) == (7, 401)


def test_a_token_signed_with_the_public_key_as_a_secret_is_error_7(
    gateway: GatewayUnderTest, issuer: TokenIssuer
) -> None:
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": KEY, "exp": int(time.time()) + 600}
    public = issuer.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    head = {"alg": "HS256", "kid": issuer.key_id, "typ": "JWT"}
    content = ".".join(encoded(json.dumps(part).encode()) for part in (head, claims))
    confused = f"{content}.{encoded(hmac.digest(public, content.encode(), 'sha256'))}"
    assert error(gateway.predict(confused)) == (7, 401)


@pytest.mark.parametrize(
    "claims",
    [{"iss": "other"}, {"aud": "other"}, {"aud": None}, {"iss": None}, {"exp": None}],
    ids=str,
)
def test_a_token_for_something_else_is_error_7(
    gateway: GatewayUnderTest, issuer: TokenIssuer, claims: dict[str, Any]
) -> None:
    assert gateway.predict(signed(issuer)).status_code == 200
    assert error(gateway.predict(signed(issuer, **claims))) == (7, 401)


@pytest.mark.parametrize("subject", ["unknown", JS, "", None])
def test_a_token_of_no_consumer_is_error_3(
    gateway: GatewayUnderTest, issuer: TokenIssuer, subject: str | None
) -> None:
    assert error(gateway.predict(signed(issuer, sub=subject))) == (3, 401)


# Refusals of /js/predict


@pytest.mark.parametrize(
    ("parameters", "error_id"),
    [
        ({}, 16),
        ({"consumer_key": ""}, 16),
        ({"consumer_key": "unknown"}, 3),
        ({"consumer_key": KEY}, 3),
        ({"consumer_key": JS + "x"}, 3),
        ({"consumer_key": JS.upper()}, 3),
        ({"consumer_key": "a'b\"<>\u00e9"}, 3),
    ],
)
def test_a_wrong_key_is_401_and_for_a_script_the_originals_400(
    gateway: GatewayUnderTest, parameters: dict[str, str], error_id: int
) -> None:
    answer = gateway.get("/js/predict", params=parameters)
    assert error(answer) == (error_id, 401)
    assert answer.headers["www-authenticate"].startswith("Bearer")
    scripted = gateway.get("/js/predict", params={**parameters, "jsonpCallback": "a.b$_1"})
    assert wrapped_error(scripted, "a.b$_1") == (error_id, 400)


def test_a_form_with_a_wrong_key_is_refused_and_wrapped(gateway: GatewayUnderTest) -> None:
    assert error(gateway.post("/js/predict", data={"consumer_key": "wrong"})) == (3, 401)
    assert error(gateway.post("/js/predict", data={"json": "{}"})) == (16, 401)
    assert error(gateway.post("/js/predict", data={"consumer_key": f"{JS} x"})) == (16, 401)
    form = {"consumer_key": "wrong", "jsonpCallback": "cb"}
    assert wrapped_error(gateway.post("/js/predict", data=form), "cb") == (3, 400)


@pytest.mark.parametrize(
    "callback", ["alert(1)//", "a b", "<script>", "x" * 129, "x" * 4000, "caf\u00e9", "a\n"]
)
def test_a_callback_outside_its_set_is_not_echoed(gateway: GatewayUnderTest, callback: str) -> None:
    for key, expected in (("wrong", (3, 401)), ("", (16, 401)), (EMPTY_JS, (37, 503))):
        parameters = {"consumer_key": key, "jsonpCallback": callback}
        answers = (
            gateway.get("/js/predict", params=parameters),
            gateway.post("/js/predict", data=parameters),
        )
        for answer in answers:
            assert error(answer) == expected
            assert callback not in answer.text


@pytest.mark.parametrize("character", ["\r\n", "\x00", "\x7f", "\r\nx-seldon-client: evil"])
def test_a_control_character_in_a_parameter_reaches_no_header(
    gateway: GatewayUnderTest, character: str
) -> None:
    answer = gateway.js(JS, jsonpCallback=f"a{character}b")
    assert answer.status_code == 200
    assert answer.json()["headers"]["x-seldon-client"] == "acme"
    assert error(gateway.js(f"{JS}{character}")) == (3, 401)
    assert gateway.get("/version", params={"consumer_key": character}).status_code == 200
    token = gateway.get("/token", params={"consumer_key": "a", "jsonpCallback": character})
    assert error(token) == (46, 400)


def test_long_requests_to_the_control_plane_are_answered_in_json(
    gateway: GatewayUnderTest,
) -> None:
    cookie = {"cookie": "x" * 20_000}
    assert gateway.get("/version", headers=cookie).status_code == 200
    parameters = {"consumer_key": "unknown", "consumer_secret": "x" * 20_000}
    assert error(gateway.get("/token", params=parameters, headers=cookie)) == (5, 401)


def test_a_callback_of_128_characters_is_wrapped(gateway: GatewayUnderTest) -> None:
    answer = gateway.js("wrong", jsonpCallback="x" * 128)
    assert wrapped_error(answer, "x" * 128) == (3, 400)


def test_a_client_without_variations_is_error_37(gateway: GatewayUnderTest) -> None:
    assert error(gateway.js(EMPTY_JS)) == (37, 503)
    assert wrapped_error(gateway.js(EMPTY_JS, jsonpCallback="cb"), "cb")[0] == 37
    assert error(gateway.predict(gateway.token(EMPTY_KEY, EMPTY_SECRET))) == (37, 503)


def test_a_model_server_that_is_gone_is_error_13(gateway: GatewayUnderTest) -> None:
    assert error(gateway.js("dead-js")) == (13, 503)
    assert wrapped_error(gateway.js("dead-js", jsonpCallback="cb"), "cb") == (13, 503)
    assert error(gateway.predict(gateway.token("dead-key", "dead-secret"))) == (13, 503)


# What is no request of ours


@pytest.mark.parametrize("path", ["/", "/x", "/js", "/js/predict/", "/token/x", "/v3/discovery:x"])
def test_another_path_is_404(gateway: GatewayUnderTest, path: str) -> None:
    assert error(gateway.get(path)) == (21, 404)
    assert error(gateway.get(f"{path}?jsonpCallback=cb")) == (21, 404)


def test_envoys_questions_are_not_for_callers(gateway: GatewayUnderTest) -> None:
    question = {"node": {"id": "n"}, "resource_names": ["rest"]}
    assert error(gateway.post("/v3/discovery:routes", json=question)) == (21, 404)
    for path in ("/token/../v3/discovery:routes", "/token%2f..%2fv3/discovery:routes"):
        request = requests.Request("POST", gateway.url, json=question).prepare()
        request.url = gateway.url + path
        answer = gateway.session.send(request, timeout=10)
        assert answer.status_code in (400, 404)


def test_another_method_is_405(gateway: GatewayUnderTest) -> None:
    answer = gateway.call("PUT", "/token")
    assert error(answer) == (11, 405)
    assert "POST" in answer.headers["allow"]


@pytest.mark.parametrize("path", ["/js%2fpredict", "/js%2Fpredict", "/version/..%2ftoken"])
def test_a_path_with_escaped_slashes_is_another_path(gateway: GatewayUnderTest, path: str) -> None:
    status, _, body = gateway.raw(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert (json.loads(body)["error_id"], status) == (21, 404)


def test_an_escaped_slash_in_the_query_passes(gateway: GatewayUnderTest) -> None:
    answer = gateway.js(JS, puid="a/b")
    assert answer.status_code == 200
    assert "puid=a%2Fb" in answer.json()["path"]


def test_a_header_with_underscores_is_dropped(gateway: GatewayUnderTest) -> None:
    fields = {"x_seldon_client": "evil", "my_own": "lost", "my-own": "kept"}
    answer = gateway.get("/js/predict", params={"consumer_key": JS}, headers=fields)
    assert answer.status_code == 200
    seen = answer.json()["headers"]
    assert not {"x_seldon_client", "my_own"} & set(seen)
    assert (seen["my-own"], seen["x-seldon-client"]) == ("kept", "acme")


@pytest.mark.parametrize("host", ["", "Host: x\r\n"], ids=["without host", "with host"])
def test_http_10_is_served(gateway: GatewayUnderTest, token: str, host: str) -> None:
    def ask(method: str, target: str, *fields: str) -> tuple[int, dict[str, str], Any]:
        head = "".join(f"{field}\r\n" for field in fields)
        request = f"{method} {target} HTTP/1.0\r\n{host}{head}\r\n"
        status, headers, body = gateway.raw(request.encode())
        assert "transfer-encoding" not in headers
        return status, headers, json.loads(body)

    status, headers, seen = ask("GET", f"/js/predict?consumer_key={JS}")
    assert (status, seen["headers"]["x-seldon-client"]) == (200, "acme")
    assert headers["connection"] == "close"
    fields = (f"Authorization: Bearer {token}", "Connection: keep-alive", "Content-Length: 0")
    status, headers, _ = ask("POST", "/predict", *fields)
    assert (status, headers.get("connection", "keep-alive")) == (200, "keep-alive")
    assert ask("GET", "/health/ready")[0] == 200
    assert ask("GET", "/version")[0] == 200
    assert ask("GET", "/x")[::2] == (404, {**api_errors.NOT_FOUND.document()})


def test_a_missing_host_is_refused_by_that_name(gateway: GatewayUnderTest) -> None:
    status, _, body = gateway.raw(b"GET /version HTTP/1.1\r\n\r\n")
    assert status == 400
    assert json.loads(body) == api_errors.HOST_MISSING.document()


@pytest.mark.parametrize(
    ("request_bytes", "cause"),
    [
        (b"GET /version HTTP/1.1\r\nHost: x\r\na b: c\r\n\r\n", "http1.codec_error"),
        (b"nonsense\r\n\r\n", "http1.codec_error"),
        (b"GET http:// HTTP/1.1\r\nHost: x\r\n\r\n", "http1.invalid_url"),
        (
            b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: x\r\n\r\n",
            "http1.invalid_transfer_encoding",
        ),
    ],
)
def test_a_malformed_request_is_refused_with_its_cause(
    gateway: GatewayUnderTest, request_bytes: bytes, cause: str
) -> None:
    status, _, body = gateway.raw(request_bytes)
    document = json.loads(body)
    assert (document["error_id"], document["http_response"], status) == (13, 400, 400)
    assert cause in document["error_msg"]


def test_a_caller_that_stalls_is_408_by_what_is_missing(
    start_gateway: Callable[..., GatewayUnderTest], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "HEADERS_TIMEOUT_S", 1)
    monkeypatch.setattr(limits, "REQUEST_TIMEOUT_S", 2)
    gateway = start_gateway(lambda gateway: gateway.registry.setup_client("acme", "DB", JS))
    for request, expected in (
        (b"GET /version HTTP/1.1\r\nHost: x\r\n", api_errors.HEADERS_TOO_SLOW),
        (
            b"POST /js/predict HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{}",
            api_errors.REQUEST_TOO_SLOW,
        ),
    ):
        status, _, body = gateway.raw(request)
        assert (status, json.loads(body)) == (408, expected.document())
    late = b"POST /v2/models/v1/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{}"
    assert gateway.raw(late)[0] == 401  # nobody waits for the body of a caller without a token


def with_headers(count: int, target: str) -> bytes:
    fields = "".join(f"x-{number}: 1\r\n" for number in range(count - 1))
    return f"GET {target} HTTP/1.1\r\nHost: x\r\n{fields}\r\n".encode()


def test_more_headers_than_the_limit_are_431_by_that_name(gateway: GatewayUnderTest) -> None:
    for target in ("/health/ready", "/version"):
        assert gateway.raw(with_headers(100, target))[0] == 200
        status, _, body = gateway.raw(with_headers(101, target))
        assert status == 431
        assert json.loads(body) == api_errors.TOO_MANY_HEADERS.document()


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_over_the_limit_is_413(gateway: GatewayUnderTest, token: str, chunked: bool) -> None:
    def body() -> Any:
        return (b"0" * 65_536 for _ in range(20)) if chunked else b"0" * 1_310_720

    bearer = {"Authorization": f"Bearer {token}"}
    answer = gateway.post("/predict", data=body(), headers=bearer)
    assert error(answer) == (44, 413)
    assert "1048576 bytes" in answer.json()["error_msg"]


def test_a_body_just_under_the_limit_passes(gateway: GatewayUnderTest, token: str) -> None:
    bearer = {"Authorization": f"Bearer {token}"}
    answer = gateway.post("/predict", data=b"0" * 1_048_576, headers=bearer)
    assert answer.status_code == 200
    assert len(answer.json()["body"]) == 1_048_576


def test_a_request_line_over_the_limit_is_431(gateway: GatewayUnderTest) -> None:
    answer = gateway.js(JS, puid="1" * 100_000)
    assert error(answer) == (44, 431)
    assert "96 KiB" in answer.json()["error_msg"]


def test_public_keys_version_and_health_are_open(gateway: GatewayUnderTest) -> None:
    assert gateway.get("/.well-known/jwks.json").json()["keys"][0]["alg"] == "ES256"
    assert gateway.get("/version").json()["version_number"] == "1.4.10"
    assert gateway.get("/health/live").status_code == 200
    assert gateway.get("/health/ready").status_code == 200


# Where it listens, and what it keeps


def test_admin_and_control_plane_stay_on_loopback_wherever_callers_come_in(
    tmp_path: Path,
) -> None:
    settings = GatewaySettings.from_env(
        {"SELDON_HOME": str(tmp_path), "SELDON_BIND": "0.0.0.0"}  # noqa: S104
    )
    configuration = bootstrap(settings)
    admin = configuration["admin"]["address"]["socket_address"]
    assert admin["address"] == "127.0.0.1"
    assert f"127.0.0.1:{settings.control_port}" in control_plane_command(settings).argv
    listeners = configuration["static_resources"]["listeners"]
    addresses = {
        listener["address"]["socket_address"]["address"]
        for listener in listeners
        if "internal_listener" not in listener
    }
    assert addresses == {"0.0.0.0"}  # noqa: S104


def test_statistics_are_shown_and_nothing_else_of_the_administration(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    watched = GatewayUnderTest(tmp_path, SELDON_STATS_PORT=str(port))
    try:
        watched.start()
        watched.get("/js/predict")
        url = f"http://127.0.0.1:{port}"
        text = requests.get(f"{url}/stats/prometheus", timeout=5).text
        assert "envoy_http_downstream_rq_total{" in text
        assert 'le="0.0575' in text  # finer than Envoy's own buckets
        for path in ("/", "/stats", "/config_dump", "/quitquitquit", "/stats/prometheus/../x"):
            assert requests.get(url + path, timeout=5).status_code == 404
        assert requests.post(f"{url}/stats/prometheus", timeout=5).status_code == 404
        assert requests.post(f"{url}/quitquitquit", timeout=5).status_code == 404
        assert watched.ready()
    finally:
        watched.close()


def test_envoy_finds_its_control_plane_by_name(
    start_gateway: Callable[..., GatewayUnderTest], http_upstream: HttpUpstream
) -> None:
    def prepare(gateway: GatewayUnderTest) -> None:
        gateway.registry.setup_client("named", "DB", "named-js", "named-key", "named-secret")
        gateway.serve("named", "rest", http_upstream)

    apart = start_gateway(
        prepare,
        SELDON_CONTROL_BIND="0.0.0.0",  # noqa: S104
        SELDON_CONTROL_HOST="localhost",
    )
    assert apart.js("named-js").status_code == 200
    token = apart.token("named-key", "named-secret")
    eventually(lambda: apart.predict(token).status_code == 200)  # the keys come by the name too


def test_files_with_keys_are_their_owners_alone(gateway: GatewayUnderTest) -> None:
    key = gateway.settings.home / "signing-key.pem"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert "PRIVATE" not in (gateway.settings.home / "envoy.json").read_text()


def test_failures_are_logged_without_keys_tokens_or_secrets(
    gateway: GatewayUnderTest, token: str
) -> None:
    bearer = {"Authorization": f"Bearer {altered(token)}"}
    gateway.js(JS)
    gateway.js("wrong-key-of-a-caller")
    gateway.post("/predict", headers=bearer)
    gateway.post(f"/predict?oauth_token={altered(token)}")
    gateway.get("/token", params={"consumer_key": KEY, "consumer_secret": "wrong-secret"})
    gateway.get("/marker-of-the-last-call")
    eventually(lambda: "/marker-of-the-last-call" in gateway.logs())
    logs = gateway.logs()
    assert "GET /js/predict HTTP/1.1 status 401" in logs
    signature = token.rpartition(".")[2]
    for hidden in (JS, KEY, SECRET, "wrong-key", "wrong-secret", token, signature[1:], "eyJ"):
        assert hidden not in logs
