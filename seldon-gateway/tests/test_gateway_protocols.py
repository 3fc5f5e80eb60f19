"""The standard protocols through the real Envoy: routes, error shapes, health and CORS."""

import json
from collections import Counter
from collections.abc import Callable
from concurrent import futures
from typing import Any

import grpc
import pytest
import requests
from gateway_under_test import GatewayUnderTest, GrpcUpstream, HttpUpstream
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from polling import eventually
from seldon_gateway import api_errors, api_paths
from seldon_gateway.strategies import Endpoint, Protocol, Variation

KEY, SECRET = "acme-all-key", "acme-all-secret"
ORIGIN = "https://app.example.com"
MODELS = ("v1", "v2.0")

OPEN_INFERENCE = (
    ("GET", "/v2"),
    ("GET", "/v2/health/live"),
    ("GET", "/v2/health/ready"),
    *(
        (method, f"/v2/models/{model}{rest}")
        for model in MODELS
        for method, rest in (
            ("GET", ""),
            ("GET", "/ready"),
            ("POST", "/infer"),
            ("GET", "/versions/1"),
            ("GET", "/versions/1/ready"),
            ("POST", "/versions/1/infer"),
        )
    ),
)
TENSORFLOW_SERVING = tuple(
    (method, f"/v1/models/{model}{rest}")
    for model in MODELS
    for method, rest in (
        ("GET", ""),
        ("GET", "/metadata"),
        ("POST", ":predict"),
        ("GET", "/versions/1"),
        ("GET", "/versions/1/metadata"),
        ("POST", "/versions/1:predict"),
    )
)
SELDON_CORE = (("POST", "/api/v1.0/predictions"), ("GET", "/api/v1.0/predictions"))
EVERY_PATH = (*OPEN_INFERENCE, *TENSORFLOW_SERVING, *SELDON_CORE, ("GET", "/openapi.json"))
CALLS = (
    "/inference.GRPCInferenceService/ServerLive",
    "/inference.GRPCInferenceService/ModelInfer",
    "/tensorflow.serving.PredictionService/Predict",
    "/tensorflow.serving.PredictionService/GetModelMetadata",
    "/seldon.protos.Seldon/Predict",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
)


@pytest.fixture(scope="module")
def gateway(
    start_gateway: Callable[..., GatewayUnderTest],
    http_upstream: HttpUpstream,
    grpc_upstream: GrpcUpstream,
) -> GatewayUnderTest:
    def prepare(gateway: GatewayUnderTest) -> None:
        for name in ("acme", "single", "empty", "dead"):
            keys = (f"{name}-js-key", f"{name}-all-key", f"{name}-all-secret")
            gateway.registry.setup_client(name, "DB", *keys)
        upstreams: dict[Protocol, HttpUpstream | GrpcUpstream]
        upstreams = {"rest": http_upstream, "grpc": grpc_upstream}
        for protocol, upstream in upstreams.items():
            gateway.registry.replace_variations(
                "acme",
                protocol,
                [
                    Variation("v1", 0.5, (upstream.endpoint,)),
                    Variation("v2.0", 0.5, (upstream.endpoint,)),
                ],
            )
            gateway.serve("single", protocol, upstream, label="v1")
            gateway.registry.replace_variations(
                "dead", protocol, [Variation("v1", 1.0, (Endpoint("127.0.0.1", 1),))]
            )

    return start_gateway(prepare, SELDON_CORS_ORIGINS=f"{ORIGIN}, https://other.example.com:8443")


@pytest.fixture(scope="module")
def tokens(gateway: GatewayUnderTest) -> dict[str, str]:
    names = ("acme", "single", "empty", "dead")
    return {name: gateway.token(f"{name}-all-key", f"{name}-all-secret") for name in names}


def ask(
    gateway: GatewayUnderTest, method: str, path: str, token: str = "", **headers: str
) -> requests.Response:
    authorization = {"Authorization": f"Bearer {token}"} if token else {}
    body = b"{}" if method == "POST" else None
    return gateway.call(method, path, data=body, headers={**authorization, **headers})


# REST


@pytest.mark.parametrize(("method", "path"), EVERY_PATH)
def test_a_token_reaches_the_clients_variations(
    gateway: GatewayUnderTest, tokens: dict[str, str], method: str, path: str
) -> None:
    answer = ask(gateway, method, f"{path}?verbose=1", tokens["acme"])
    assert answer.status_code == 200, answer.text
    seen = answer.json()
    assert seen["path"] == f"{path}?verbose=1"
    assert seen["headers"]["x-seldon-client"] == "acme"
    assert seen["headers"]["x-seldon-variation"] in MODELS
    assert seen["headers"]["x-seldon-models"] == "v1,v2.0"
    assert "authorization" not in seen["headers"]
    assert seen["body"] == ("{}" if method == "POST" else "")


def test_a_token_in_the_query_is_removed(gateway: GatewayUnderTest, tokens: dict[str, str]) -> None:
    answer = ask(gateway, "POST", f"/v2/models/v1/infer?a=1&oauth_token={tokens['acme']}")
    assert answer.status_code == 200
    assert answer.json()["path"] == "/v2/models/v1/infer?a=1"


@pytest.mark.parametrize("path", ["/v2/models/v1/infer", "/v1/models/v2.0:predict"])
def test_a_models_traffic_is_split_by_ratio_whichever_is_named(
    gateway: GatewayUnderTest, tokens: dict[str, str], path: str
) -> None:
    counts: Counter[str] = Counter()
    for _ in range(100):
        seen = ask(gateway, "POST", path, tokens["acme"], **{"x-seldon-variation": "evil"}).json()
        counts[seen["headers"]["x-seldon-variation"]] += 1
    # Binomial: 50 of 100 with a standard deviation of 5; five of them.
    assert 25 <= counts["v1"] <= 75
    assert set(counts) == set(MODELS)


def test_headers_of_ours_are_not_taken_from_a_caller(
    gateway: GatewayUnderTest, tokens: dict[str, str]
) -> None:
    evil = {"x-seldon-models": "evil", "x-seldon-client": "evil"}
    seen = ask(gateway, "GET", "/v2", tokens["single"], **evil).json()["headers"]
    assert "x-seldon-models" not in seen  # there is one variation, which x-seldon-variation names
    assert (seen["x-seldon-client"], seen["x-seldon-variation"]) == ("single", "v1")


@pytest.mark.parametrize(
    ("model", "said"),
    [("v3", "v3"), ("v1,v2.0", "invalid"), ("v", "v"), ("a%22b", "invalid"), ("x" * 64, "invalid")],
)
def test_an_unknown_model_is_404_and_names_the_clients_models(
    gateway: GatewayUnderTest, tokens: dict[str, str], model: str, said: str
) -> None:
    for method, path in (
        ("POST", f"/v2/models/{model}/infer"),
        ("GET", f"/v2/models/{model}"),
        ("GET", f"/v2/models/{model}/ready?jsonpCallback=a(b&consumer_key=!"),
        ("POST", f"/v2/models/{model}/versions/1/infer"),
        ("POST", f"/v1/models/{model}:predict"),
        ("GET", f"/v1/models/{model}/metadata"),
    ):
        for client, models in (("acme", "v1, v2.0"), ("single", "v1")):
            answer = ask(gateway, method, path, tokens[client])
            assert answer.status_code == 404, answer.text
            assert answer.headers["content-type"] == "application/json"
            assert answer.json() == {"error": f"The model is {said}, expected one of {models}"}


@pytest.mark.parametrize("place", ["/seldon/v1", "/seldon/my-namespace/v2.0"])
def test_a_path_of_seldon_cores_ingress_reaches_the_servers_without_it(
    gateway: GatewayUnderTest, tokens: dict[str, str], place: str
) -> None:
    answer = ask(gateway, "POST", f"{place}/api/v1.0/predictions", tokens["acme"])
    assert answer.status_code == 200, answer.text
    seen = answer.json()
    assert (seen["path"], seen["body"]) == ("/api/v1.0/predictions", "{}")
    assert seen["headers"]["x-seldon-client"] == "acme"
    assert seen["headers"]["x-seldon-variation"] in MODELS


@pytest.mark.parametrize("place", ["/seldon/v3", "/seldon/v1/v3"])
def test_another_deployment_of_seldon_core_is_404_and_names_the_clients_models(
    gateway: GatewayUnderTest, tokens: dict[str, str], place: str
) -> None:
    answer = ask(gateway, "POST", f"{place}/api/v1.0/predictions", tokens["acme"])
    error = api_errors.ApiError(21, "The model is v3, expected one of v1, v2.0", 404)
    assert (answer.status_code, answer.json()) == (404, seldon_core(error))


def open_inference(error: api_errors.ApiError) -> dict[str, Any]:
    return {"error": error.message}


def seldon_core(error: api_errors.ApiError) -> dict[str, Any]:
    reasons = {
        400: "BAD_REQUEST",
        401: "UNAUTHORIZED",
        404: "NOT_FOUND",
        503: "SERVICE_UNAVAILABLE",
    }
    status = {"code": error.status, "info": error.message, "reason": reasons[error.status]}
    return {"status": {**status, "status": "FAILURE"}}


def of_2016(error: api_errors.ApiError) -> dict[str, Any]:
    return dict(error.document())


@pytest.mark.parametrize(
    ("method", "path", "document"),
    [
        ("GET", "/v2", open_inference),
        ("POST", "/v2/models/v1/infer", open_inference),
        ("POST", "/v1/models/v1:predict", open_inference),
        ("POST", "/api/v1.0/predictions", seldon_core),
        ("POST", "/seldon/my-namespace/v1/api/v1.0/predictions", seldon_core),
        ("GET", "/openapi.json", of_2016),
        ("POST", "/predict", of_2016),
    ],
)
def test_an_error_has_the_shape_of_its_protocol(
    gateway: GatewayUnderTest,
    tokens: dict[str, str],
    method: str,
    path: str,
    document: Callable[[api_errors.ApiError], dict[str, Any]],
) -> None:
    acme = tokens["acme"]
    for token, expected in (
        ("", api_errors.TOKEN_MISSING),
        ("nonsense", api_errors.TOKEN_UNKNOWN),
        (tokens["empty"], api_errors.NO_STRATEGY),
        (tokens["dead"], api_errors.UPSTREAM_FAILED),
    ):
        answer = ask(gateway, method, path, token)
        assert answer.json() == document(expected)
        assert answer.status_code == expected.status
        assert answer.headers["content-type"] == "application/json"
        assert ("www-authenticate" in answer.headers) == (expected.status == 401)
    several = ask(gateway, method, f"{path}?oauth_token={acme}", acme)
    assert (several.status_code, several.json()) == (400, document(api_errors.SEVERAL_TOKENS))
    assert "eyJ" not in f"{several.headers}{several.text}"


def test_a_removed_clients_error_has_the_shape_of_its_protocol(gateway: GatewayUnderTest) -> None:
    gateway.registry.setup_client("leaving", "DB", "leaving-js", "leaving-key", "leaving-secret")
    gateway.wait_for_client("leaving-js", 503)
    token = gateway.token("leaving-key", "leaving-secret")
    gateway.registry.remove_client("leaving")
    gateway.wait_for_client("leaving-js", 401)
    for path, document in (("/v2", open_inference), ("/api/v1.0/predictions", seldon_core)):
        answer = ask(gateway, "GET", path, token)
        assert (answer.status_code, answer.json()) == (401, document(api_errors.NOT_AUTHORIZED))
        assert answer.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize(
    "path",
    [
        "/v2/",
        "/v2/nothing",
        "/v2/models/v1/nothing",
        "/v2/models/v1/versions/1/infer/x",
        "/v2/models/v1:predict",
        "/v2/models/v1/versions/a%2fb/infer",
        "/v1/models/v1:nothing",
        "/v1/models/",
    ],
)
def test_another_path_of_a_protocol_is_404_in_its_shape(
    gateway: GatewayUnderTest, tokens: dict[str, str], path: str
) -> None:
    answer = ask(gateway, "GET", path, tokens["acme"])
    assert (answer.status_code, answer.json()) == (404, open_inference(api_errors.NOT_FOUND))


@pytest.mark.parametrize(
    "path",
    [
        "/seldon",
        "/seldon/v1",
        "/seldon/api/v1.0/predictions",
        "/seldon/a/b/v1/api/v1.0/predictions",
        "/seldon/v1/api/v1.0/feedback",
    ],
)
def test_another_path_of_seldon_cores_ingress_is_404_in_its_shape(
    gateway: GatewayUnderTest, tokens: dict[str, str], path: str
) -> None:
    answer = ask(gateway, "POST", path, tokens["acme"])
    assert (answer.status_code, answer.json()) == (404, seldon_core(api_errors.NOT_FOUND))


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    "path", ["/seldon/" + "a" * 80_000, "/seldon" + "/a" * 40_000, "/seldon/a/" + "a" * 80_000]
)
def test_the_time_for_a_long_path_is_linear(
    gateway: GatewayUnderTest, tokens: dict[str, str], path: str
) -> None:
    answer = ask(gateway, "GET", path, tokens["acme"])
    assert (answer.status_code, answer.json()) == (404, seldon_core(api_errors.NOT_FOUND))


@pytest.mark.parametrize("path", ["/v2x", "/v1", "/v1/x", "/api", "/api/v1.0", "/openapi.json/x"])
def test_a_path_of_no_protocol_keeps_its_error(gateway: GatewayUnderTest, path: str) -> None:
    answer = ask(gateway, "GET", path)
    assert (answer.status_code, answer.json()) == (404, of_2016(api_errors.NOT_FOUND))


# CORS


@pytest.mark.parametrize(
    "path",
    ["/v2/models/v1/infer", "/predict", "/js/predict?consumer_key=acme-js-key", "/token"],
)
@pytest.mark.parametrize("origin", [ORIGIN, "https://other.example.com:8443"])
def test_a_preflight_needs_no_token(gateway: GatewayUnderTest, path: str, origin: str) -> None:
    answer = ask(gateway, "OPTIONS", path, **preflight(origin))
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == origin
    assert answer.headers["access-control-allow-methods"] == "GET, POST"
    assert answer.headers["access-control-allow-headers"] == (
        "authorization, content-type, inference-header-content-length"
    )
    assert "access-control-allow-credentials" not in answer.headers


def preflight(origin: str) -> dict[str, str]:
    return {"Origin": origin, "Access-Control-Request-Method": "POST"}


def test_an_allowed_origin_reads_responses_and_errors(
    gateway: GatewayUnderTest, tokens: dict[str, str]
) -> None:
    path = "/v2/models/v1/infer"
    for token, status in ((tokens["acme"], 200), ("", 401), ("nonsense", 401)):
        answer = ask(gateway, "POST", path, token, Origin=ORIGIN)
        assert answer.status_code == status
        assert answer.headers["access-control-allow-origin"] == ORIGIN
        exposed = answer.headers["access-control-expose-headers"]
        assert exposed == "inference-header-content-length"


@pytest.mark.parametrize(
    "origin", ["https://evil.example.com", f"{ORIGIN}.evil.com", f"{ORIGIN}:8443", "null"]
)
def test_another_origin_reads_nothing(
    gateway: GatewayUnderTest, tokens: dict[str, str], origin: str
) -> None:
    refused = ask(gateway, "OPTIONS", "/v2", **preflight(origin))
    assert refused.status_code == 401
    served = ask(gateway, "GET", "/v2", tokens["acme"], Origin=origin)
    assert served.status_code == 200
    for answer in (refused, served):
        assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(("origins", "allowed"), [("", False), ("*", True)])
def test_no_origin_is_allowed_by_default_and_every_one_by_a_star(
    start_gateway: Callable[..., GatewayUnderTest],
    http_upstream: HttpUpstream,
    origins: str,
    allowed: bool,
) -> None:
    def prepare(gateway: GatewayUnderTest) -> None:
        gateway.registry.setup_client("acme", "DB", "acme-js-key", KEY, SECRET)
        gateway.serve("acme", "rest", http_upstream)

    gateway = start_gateway(prepare, SELDON_CORS_ORIGINS=origins)
    token = gateway.token(KEY, SECRET)
    refused = ask(gateway, "OPTIONS", "/v2", **preflight("https://any.example.com"))
    assert refused.status_code == (200 if allowed else 401)
    served = ask(gateway, "GET", "/v2", token, Origin="https://any.example.com")
    assert served.status_code == 200
    for answer in (refused, served):
        assert ("access-control-allow-origin" in answer.headers) == allowed


# gRPC


def call(gateway: GatewayUnderTest, method: str, *metadata: tuple[str, str]) -> Any:
    return json.loads(
        gateway.channel.unary_unary(method, None, None)(b"", metadata=metadata, timeout=10)
    )


@pytest.mark.parametrize("method", CALLS)
def test_a_call_with_a_token_reaches_the_clients_variations(
    gateway: GatewayUnderTest, tokens: dict[str, str], method: str
) -> None:
    spoofed = ("x-seldon-models", "evil"), ("x-seldon-variation", "evil")
    seen = call(gateway, method, ("authorization", f"Bearer {tokens['acme']}"), *spoofed)
    assert seen["x-seldon-client"] == "acme"
    assert seen["x-seldon-variation"] in MODELS
    assert seen["x-seldon-models"] == "v1,v2.0"
    assert "x-seldon-models" not in call(gateway, method, ("oauth_token", tokens["single"]))


@pytest.mark.parametrize("method", CALLS)
def test_a_call_without_a_token_is_unauthenticated(gateway: GatewayUnderTest, method: str) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        call(gateway, method)
    assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED
    assert "no token was sent" in str(refused.value.details())


@pytest.mark.parametrize("method", ["/seldon.protos.Seldon/X", "/inference.Other/ModelInfer"])
def test_another_method_is_unimplemented(
    gateway: GatewayUnderTest, tokens: dict[str, str], method: str
) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        call(gateway, method, ("oauth_token", tokens["acme"]))
    assert refused.value.code() == grpc.StatusCode.UNIMPLEMENTED


class AddToken(grpc.StreamStreamClientInterceptor):
    def __init__(self, token: str) -> None:
        self.token = token

    def intercept_stream_stream(self, continuation: Any, details: Any, requests: Any) -> Any:
        metadata = [("authorization", f"Bearer {self.token}")] if self.token else []
        return continuation(details._replace(metadata=metadata), requests)


def test_reflection_shows_what_the_clients_model_server_implements(
    gateway: GatewayUnderTest,
) -> None:
    server = grpc.server(futures.ThreadPoolExecutor(2))
    health_pb2_grpc.add_HealthServicer_to_server(health_pb2_grpc.HealthServicer(), server)
    names = ["grpc.health.v1.Health", reflection.SERVICE_NAME]
    reflection.enable_server_reflection(names, server)
    endpoint = Endpoint("127.0.0.1", server.add_insecure_port("127.0.0.1:0"))
    server.start()
    gateway.registry.setup_client("seen", "DB", "seen-js", "seen-key", "seen-secret")
    gateway.registry.replace_variations("seen", "grpc", [Variation("v1", 1.0, (endpoint,))])
    gateway.wait_for_client("seen-js", 503)
    token = gateway.token("seen-key", "seen-secret")

    def services(token: str) -> list[str]:
        channel = grpc.intercept_channel(gateway.channel, AddToken(token))
        return sorted(ProtoReflectionDescriptorDatabase(channel).get_services())

    shown = eventually(lambda: services(token), ignored=grpc.RpcError)
    assert shown == sorted(names)
    with pytest.raises(grpc.RpcError) as refused:
        services("")
    assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED
    server.stop(None).wait()


def check(gateway: GatewayUnderTest, service: str) -> health_pb2.HealthCheckResponse:
    stub = health_pb2_grpc.HealthStub(gateway.channel)
    return stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=10)


@pytest.mark.parametrize("service", api_paths.HEALTH_SERVICES)
def test_health_of_the_gateway_needs_no_token(gateway: GatewayUnderTest, service: str) -> None:
    for _ in range(3):
        answer = check(gateway, service)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize(
    "service", ["nothing", "x" * 300, "inference.GRPCInferenceServic", "\u00e9"]
)
def test_health_of_an_unknown_service_is_not_found(gateway: GatewayUnderTest, service: str) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        check(gateway, service)
    assert refused.value.code() == grpc.StatusCode.NOT_FOUND
    assert refused.value.details() == "The service is unknown to the gateway"


def test_health_does_not_depend_on_the_control_plane(gateway: GatewayUnderTest) -> None:
    gateway.kill_control_plane()
    try:
        assert check(gateway, "").status == health_pb2.HealthCheckResponse.SERVING
    finally:
        gateway.start_control_plane()
        eventually(lambda: gateway.get("/version").status_code == 200)


def test_envoy_has_refused_none_of_its_configurations_and_logged_no_token(
    gateway: GatewayUnderTest,
) -> None:
    ask(gateway, "GET", "/marker-of-the-last-request")
    eventually(lambda: "/marker-of-the-last-request" in gateway.logs())
    assert "rejected its configuration" not in gateway.logs()
    assert "eyJ" not in gateway.logs()
