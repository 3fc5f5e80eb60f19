"""gRPC through the real Envoy: who is let in, and the status of each refusal."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures

import grpc
import jwt
import pytest
from gateway_under_test import CLASSIFY, GatewayUnderTest, GrpcUpstream

from polling import eventually
from seldon_gateway import api_errors, limits
from seldon_gateway.strategies import Endpoint, Variation
from seldon_gateway.tokens import AUDIENCE, ISSUER, TokenIssuer

KEY, SECRET = "acme-all-key", "acme-all-secret"
TIMEOUT_S = 1
AUTH_TEXT = "Could not determine client from oauth_token"


@pytest.fixture(scope="module")
def gateway(
    start_gateway: Callable[..., GatewayUnderTest], grpc_upstream: GrpcUpstream
) -> GatewayUnderTest:
    def prepare(gateway: GatewayUnderTest) -> None:
        for name in ("acme", "empty", "dead"):
            keys = (f"{name}-js-key", f"{name}-all-key", f"{name}-all-secret")
            gateway.registry.setup_client(name, "DB", *keys)
        gateway.serve("acme", "grpc", grpc_upstream)
        gateway.registry.replace_variations(
            "dead", "grpc", [Variation("a", 1.0, (Endpoint("127.0.0.1", 1),))]
        )

    return start_gateway(prepare, SELDON_TIMEOUT=str(TIMEOUT_S))


@pytest.fixture(scope="module")
def token(gateway: GatewayUnderTest) -> str:
    return gateway.token(KEY, SECRET)


@pytest.fixture
def silent_server(gateway: GatewayUnderTest) -> Iterator[None]:
    """A client `slow` whose model server takes the call and never answers."""

    class Silent(grpc.GenericRpcHandler):
        def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
            def wait(_request: bytes, context: grpc.ServicerContext) -> bytes:
                eventually(lambda: not context.is_active(), within_s=20)
                return b"{}"

            return grpc.unary_unary_rpc_method_handler(wait)

    server = grpc.server(futures.ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((Silent(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    gateway.registry.setup_client("slow", "DB", "slow-js", "slow-key", "slow-secret")
    gateway.registry.replace_variations(
        "slow", "grpc", [Variation("a", 1.0, (Endpoint("127.0.0.1", port),))]
    )
    yield
    server.stop(None).wait()


def refusal(gateway: GatewayUnderTest, *metadata: tuple[str, str]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as refused:
        gateway.classify(*metadata)
    return refused.value.code(), str(refused.value.details())


@pytest.mark.parametrize(
    "metadata",
    [
        lambda t: ("oauth_token", t),
        lambda t: ("authorization", f"Bearer {t}"),
        lambda t: ("authorization", f"bearer {t}"),
        lambda t: ("authorization", f"BEARER {t}"),
    ],
)
def test_a_token_reaches_its_clients_model_server(
    gateway: GatewayUnderTest, token: str, metadata: Callable[[str], tuple[str, str]]
) -> None:
    seen = gateway.classify(metadata(token), ("puid-of-mine", "1"))
    assert (seen["x-seldon-client"], seen["x-seldon-variation"]) == ("acme", "a")
    assert seen["puid-of-mine"] == "1"
    assert token not in str(seen)


def test_credentials_do_not_reach_the_model_server(gateway: GatewayUnderTest, token: str) -> None:
    for metadata in (("oauth_token", token), ("authorization", f"Bearer {token}")):
        seen = gateway.classify(metadata)
        hidden = {"authorization", "oauth_token", "x-seldon-consumer-key", "x-seldon-subject"}
        assert not hidden & set(seen)


def test_two_tokens_in_one_call_are_refused_by_that_name(
    gateway: GatewayUnderTest, token: str
) -> None:
    other = gateway.token("dead-all-key", "dead-all-secret")
    expected = (
        grpc.StatusCode.UNAUTHENTICATED,
        f"{AUTH_TEXT}: the call has several tokens, expected one",
    )
    for a in (token, token[:-4]):
        for b in (token, other, "nonsense"):
            assert (
                refusal(gateway, ("oauth_token", a), ("authorization", f"Bearer {b}")) == expected
            )
            assert refusal(gateway, ("oauth_token", a), ("oauth_token", b)) == expected
            bearers = ("authorization", f"Bearer {a}"), ("authorization", f"bearer {b}")
            assert refusal(gateway, *bearers) == expected


def test_more_metadata_than_envoys_default_passes(gateway: GatewayUnderTest, token: str) -> None:
    many = [(f"x-{number}", "1") for number in range(150)]
    assert gateway.classify(("oauth_token", token), *many)["x-149"] == "1"


def test_more_metadata_than_the_server_accepts_is_resource_exhausted(
    gateway: GatewayUnderTest, token: str
) -> None:
    many = [(f"x-{number}", "1") for number in range(900)]
    code, _ = refusal(gateway, ("oauth_token", token), *many)
    assert code == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_call_that_stalls_is_deadline_exceeded(
    start_gateway: Callable[..., GatewayUnderTest],
    grpc_upstream: GrpcUpstream,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def prepare(gateway: GatewayUnderTest) -> None:
        gateway.registry.setup_client("acme", "DB", "acme-js-key", KEY, SECRET)
        gateway.serve("acme", "grpc", grpc_upstream)

    monkeypatch.setattr(limits, "REQUEST_TIMEOUT_S", 1)
    gateway = start_gateway(prepare, SELDON_TIMEOUT="20")
    token = gateway.token(KEY, SECRET)
    gateway.classify(("oauth_token", token))
    ended = threading.Event()

    def stalled() -> Iterator[bytes]:
        ended.wait(20)
        yield b""

    call = gateway.channel.stream_unary(CLASSIFY, None, None)
    with pytest.raises(grpc.RpcError) as refused:
        call(stalled(), metadata=(("oauth_token", token),), timeout=15)
    ended.set()
    assert refused.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert refused.value.details() == api_errors.REQUEST_TOO_SLOW.message


def test_metadata_of_ours_is_not_taken_from_a_caller(gateway: GatewayUnderTest, token: str) -> None:
    names = ("client", "variation", "subject", "consumer-key", "path", "callback")
    spoofed = [(f"x-seldon-{name}", "evil") for name in names]
    seen = gateway.classify(("oauth_token", token), *spoofed)
    assert "evil" not in seen.values()
    assert seen["x-seldon-client"] == "acme"


def test_a_subject_of_the_callers_opens_nothing(gateway: GatewayUnderTest) -> None:
    code, _ = refusal(gateway, ("x-seldon-subject", KEY))
    assert code == grpc.StatusCode.UNAUTHENTICATED


def unsigned() -> str:
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": KEY, "exp": int(time.time()) + 600}
    return jwt.encode(claims, "", "none")


@pytest.mark.parametrize("as_metadata", ["oauth_token", "authorization"])
def test_a_wrong_token_is_unauthenticated_in_the_originals_words(
    gateway: GatewayUnderTest, token: str, as_metadata: str
) -> None:
    issuer = TokenIssuer.load(gateway.settings.home, 600)
    head, claims, signature = token.split(".")
    altered = f"{head}.{claims}.{'B' if signature[0] == 'A' else 'A'}{signature[1:]}"
    bearer = "Bearer " if as_metadata == "authorization" else ""
    for wrong, reason in (
        (TokenIssuer(issuer.key, -10).issue(KEY, "acme", "all"), "the token has expired"),
        (altered, "the token is not valid"),
        (unsigned(), "the token is not valid"),
        ("nonsense", "the token is not valid"),
        (issuer.issue("unknown-key", "acme", "all"), "the client is disabled or removed"),
    ):
        assert refusal(gateway, (as_metadata, bearer + wrong)) == (
            grpc.StatusCode.UNAUTHENTICATED,
            f"{AUTH_TEXT}: {reason}",
        )


def test_a_call_without_a_token_is_unauthenticated(gateway: GatewayUnderTest) -> None:
    expected = (grpc.StatusCode.UNAUTHENTICATED, f"{AUTH_TEXT}: no token was sent")
    assert refusal(gateway) == expected
    assert refusal(gateway, ("authorization", "Basic eDp5")) == expected


def test_a_client_without_variations_is_unavailable(gateway: GatewayUnderTest) -> None:
    token = gateway.token("empty-all-key", "empty-all-secret")
    code, text = refusal(gateway, ("oauth_token", token))
    assert code == grpc.StatusCode.UNAVAILABLE
    assert text.startswith("Invalid or Null Strategy.")


def test_a_model_server_that_is_gone_is_unavailable(gateway: GatewayUnderTest) -> None:
    token = gateway.token("dead-all-key", "dead-all-secret")
    code, text = refusal(gateway, ("oauth_token", token))
    assert code == grpc.StatusCode.UNAVAILABLE
    assert text == "A generic error occurred: no model server responded"


@pytest.mark.parametrize("method", ["/x.Y/Z", "/grpc.health.v1.Health/Watch"])
def test_another_service_is_unimplemented(gateway: GatewayUnderTest, method: str) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        gateway.channel.unary_unary(method, None, None)(b"", timeout=10)
    assert refused.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_another_method_is_unimplemented_for_who_has_a_token(
    gateway: GatewayUnderTest, token: str
) -> None:
    call = gateway.channel.unary_unary("/io.seldon.api.rpc.Seldon/Other", None, None)
    with pytest.raises(grpc.RpcError) as refused:
        call(b"", metadata=(("oauth_token", token),), timeout=10)
    assert refused.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_a_disabled_client_is_refused_whatever_token_it_holds(gateway: GatewayUnderTest) -> None:
    gateway.registry.setup_client("leaving", "DB", "leaving-js", "leaving-key", "leaving-secret")
    gateway.wait_for_client("leaving-js", 503)
    metadata = ("oauth_token", gateway.token("leaving-key", "leaving-secret"))
    eventually(lambda: refusal(gateway, metadata)[0] == grpc.StatusCode.UNAVAILABLE)
    gateway.registry.set_client_active("leaving", False)
    eventually(
        lambda: refusal(gateway, metadata)[0] == grpc.StatusCode.UNAUTHENTICATED, within_s=1.0
    )


def test_the_callers_deadline_counts_where_it_is_shorter(
    gateway: GatewayUnderTest, token: str
) -> None:
    for timeout_s, least, most in ((0.5, 0, 0.5), (30, 0.6, TIMEOUT_S)):
        seen = gateway.classify(("oauth_token", token), timeout_s=timeout_s)
        assert least < float(seen["time-remaining"]) <= most + 0.05


@pytest.mark.usefixtures("silent_server")
def test_a_server_that_is_too_slow_is_deadline_exceeded(gateway: GatewayUnderTest) -> None:
    gateway.wait_for_client("slow-js", 503)
    metadata = ("oauth_token", gateway.token("slow-key", "slow-secret"))
    eventually(lambda: refusal(gateway, metadata)[0] == grpc.StatusCode.DEADLINE_EXCEEDED)
    started = time.monotonic()
    code, text = refusal(gateway, metadata)
    assert time.monotonic() - started < TIMEOUT_S + 1
    assert code == grpc.StatusCode.DEADLINE_EXCEEDED
    # The server was told the deadline too, and its own answer may come first.
    assert text in ("The prediction exceeded its time limit", "Deadline Exceeded")


def test_tokens_are_not_in_the_log(gateway: GatewayUnderTest, token: str) -> None:
    refusal(gateway, ("oauth_token", token[:-4]))
    with pytest.raises(grpc.RpcError):
        gateway.channel.unary_unary("/x.Y/Marker", None, None)(b"", timeout=10)
    eventually(lambda: "/x.Y/Marker" in gateway.logs())
    assert "eyJ" not in gateway.logs()
    assert SECRET not in gateway.logs()
