"""What the gateway does while something changes: clients, variations, servers, its own parts."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager

import pytest
import requests
from gateway_under_test import GatewayUnderTest, GrpcUpstream, HttpUpstream, halves

from polling import eventually
from seldon_gateway import api_errors
from seldon_gateway.strategies import Variation
from seldon_gateway.tokens import KEY_FILE


@pytest.fixture(scope="module")
def gateway(
    start_gateway: Callable[..., GatewayUnderTest],
    http_upstream: HttpUpstream,
    grpc_upstream: GrpcUpstream,
) -> GatewayUnderTest:
    def prepare(gateway: GatewayUnderTest) -> None:
        gateway.registry.setup_client("acme", "DB", "acme-js", "acme-key", "acme-secret")
        gateway.serve("acme", "rest", http_upstream)
        gateway.serve("acme", "grpc", grpc_upstream)

    return start_gateway(prepare, SELDON_JWKS_CACHE="1", SELDON_TIMEOUT="2")


@pytest.fixture
def client(gateway: GatewayUnderTest) -> Iterator[str]:
    """A client of the test's own, named as its JS key."""
    name = f"client-{time.monotonic_ns() % 10**9}"
    gateway.registry.setup_client(name, "DB", name, f"{name}-key", f"{name}-secret")
    yield name
    gateway.registry.remove_client(name)


@contextmanager
def under_load(gateway: GatewayUnderTest, key: str, threads: int = 4) -> Iterator[Counter[str]]:
    """Calls without a pause; yields the count of each answer."""
    answers: Counter[str] = Counter()
    done = threading.Event()

    def call() -> None:
        with requests.Session() as session:
            while not done.is_set():
                answer = session.get(
                    gateway.url + "/js/predict", params={"consumer_key": key}, timeout=10
                )
                answers["200" if answer.status_code == 200 else answer.text] += 1

    with futures.ThreadPoolExecutor(threads) as pool:
        running = [pool.submit(call) for _ in range(threads)]
        try:
            yield answers
        finally:
            done.set()
        for future in running:
            future.result()


def variation_of(answer: requests.Response) -> str:
    assert answer.status_code == 200, answer.text
    return str(answer.json()["headers"]["x-seldon-variation"])


# Changes in the registry


def test_a_new_client_is_soon_served(
    gateway: GatewayUnderTest, http_upstream: HttpUpstream
) -> None:
    gateway.registry.setup_client("fresh", "DB", "fresh-js", "fresh-key", "fresh-secret")
    gateway.serve("fresh", "rest", http_upstream)
    gateway.wait_for_client("fresh-js")
    assert gateway.predict(gateway.token("fresh-key", "fresh-secret")).status_code == 200


def test_a_disabled_client_is_soon_refused_and_enabled_again(
    gateway: GatewayUnderTest, client: str, http_upstream: HttpUpstream
) -> None:
    gateway.serve(client, "rest", http_upstream)
    gateway.wait_for_client(client)
    token = gateway.token(f"{client}-key", f"{client}-secret")
    assert gateway.predict(token).status_code == 200
    gateway.registry.set_client_active(client, False)
    gateway.wait_for_client(client, 401)
    refused = gateway.predict(token)
    assert (refused.status_code, refused.json()["error_id"]) == (401, 3)
    parameters = {"consumer_key": f"{client}-key", "consumer_secret": f"{client}-secret"}
    assert gateway.get("/token", params=parameters).json()["error_id"] == 3
    gateway.registry.set_client_active(client, True)
    gateway.wait_for_client(client)
    assert gateway.predict(token).status_code == 200


def test_a_changed_key_takes_its_tokens_with_it(
    gateway: GatewayUnderTest, client: str, http_upstream: HttpUpstream
) -> None:
    gateway.serve(client, "rest", http_upstream)
    gateway.wait_for_client(client)
    token = gateway.token(f"{client}-key", f"{client}-secret")
    gateway.registry.update_key(client, "all", f"{client}-new", "new-secret")
    eventually(lambda: gateway.predict(token).status_code == 401)
    assert gateway.predict(gateway.token(f"{client}-new", "new-secret")).status_code == 200


def test_traffic_is_shared_by_ratio(
    gateway: GatewayUnderTest, client: str, make_upstream: Callable[..., HttpUpstream]
) -> None:
    first, second = make_upstream(), make_upstream()
    gateway.registry.replace_variations(
        client,
        "rest",
        [Variation("a", 0.8, (first.endpoint,)), Variation("b", 0.2, (second.endpoint,))],
    )
    gateway.wait_for_client(client)
    before = first.requests
    counts = Counter(variation_of(gateway.js(client)) for _ in range(500))
    # Binomial: 100 of 500 with a standard deviation of 8.9; five of them.
    assert 55 <= counts["b"] <= 145
    assert counts["a"] == first.requests - before


def test_variations_are_switched_under_load_without_a_failure(
    gateway: GatewayUnderTest, client: str, make_upstream: Callable[..., HttpUpstream]
) -> None:
    servers = [make_upstream() for _ in range(6)]

    def switch_to(server: HttpUpstream, label: str) -> None:
        gateway.serve(client, "rest", server, label=label)
        eventually(lambda: variation_of(gateway.js(client)) == label)
        served = server.requests
        eventually(lambda: server.requests > served + 20)

    gateway.serve(client, "rest", servers[0], label="v0")
    gateway.wait_for_client(client)
    with under_load(gateway, client) as answers:
        for number, server in enumerate(servers[1:], 1):
            switch_to(server, f"v{number}")
    assert set(answers) == {"200"}
    assert answers["200"] > 100


def test_changes_that_overtake_each_other_fail_nobody(
    gateway: GatewayUnderTest, client: str, make_upstream: Callable[..., HttpUpstream]
) -> None:
    servers = [make_upstream() for _ in range(3)]
    gateway.serve(client, "rest", servers[0])
    gateway.wait_for_client(client)
    with under_load(gateway, client) as answers:
        for number in range(30):
            pair = (servers[number % 3].endpoint,), (servers[(number + 1) % 3].endpoint,)
            gateway.registry.replace_variations(client, "rest", halves(*pair))
            gateway.js(client)
        gateway.serve(client, "rest", servers[0], label="last")
        eventually(lambda: variation_of(gateway.js(client)) == "last")
    assert set(answers) == {"200"}


# Model servers that fail


def test_a_request_whose_server_dies_is_retried_on_another(
    gateway: GatewayUnderTest, client: str, make_upstream: Callable[..., HttpUpstream]
) -> None:
    dying, healthy = make_upstream(lambda: False), make_upstream()
    gateway.serve(client, "rest", dying, healthy)
    gateway.wait_for_client(client)
    bearer = {"Authorization": f"Bearer {gateway.token(f'{client}-key', f'{client}-secret')}"}
    for body in (b"{}", b"0" * 200_000):
        before = dying.requests

        def ask(body: bytes = body, before: int = before) -> bool:
            answer = gateway.post("/predict", data=body, headers=bearer)
            assert answer.status_code == 200, answer.text
            assert len(answer.json()["body"]) == len(body)
            return dying.requests > before

        for _ in range(20):
            ask()
        # Put aside for two seconds after three failures, it is tried again then.
        eventually(ask)


def test_a_server_that_is_too_slow_is_504(
    gateway: GatewayUnderTest, client: str, make_upstream: Callable[..., HttpUpstream]
) -> None:
    release = threading.Event()
    slow = make_upstream(lambda: release.wait(20))
    gateway.serve(client, "rest", slow)
    eventually(lambda: gateway.js(client).status_code == 504)
    started = time.monotonic()
    answer = gateway.js(client)
    assert 1.9 <= time.monotonic() - started <= 3
    assert answer.status_code == 504
    assert answer.json() == {
        "error_id": 43,
        "error_msg": "The prediction exceeded its time limit",
        "http_response": 504,
    }
    scripted = gateway.js(client, jsonpCallback="cb")
    assert (scripted.status_code, scripted.text[:17]) == (200, 'cb({"error_id": 4')
    release.set()


# Parts of the gateway that fail


def test_nothing_that_is_known_fails_while_the_control_plane_is_dead(
    gateway: GatewayUnderTest,
) -> None:
    token = gateway.token("acme-key", "acme-secret")
    gateway.kill_control_plane()
    try:
        deadline = time.monotonic() + 4  # four times as long as Envoy keeps the public keys
        calls = 0
        while time.monotonic() < deadline:
            assert gateway.js("acme-js").status_code == 200
            assert gateway.predict(token).status_code == 200
            assert gateway.classify(("oauth_token", token))["x-seldon-client"] == "acme"
            calls += 1
        assert calls > 50
        assert gateway.js("unknown").status_code == 401
        answer = gateway.get("/token")
        assert answer.status_code == 503
        assert answer.json() == api_errors.CONTROL_PLANE_FAILED.document()
        assert gateway.get("/health/ready").status_code == 200
    finally:
        gateway.start_control_plane()
        eventually(lambda: gateway.get("/version").status_code == 200)


def test_a_control_plane_that_stalls_is_named_as_such(gateway: GatewayUnderTest) -> None:
    with gateway.stalled_control_plane():
        answer = gateway.get("/token")
    assert answer.status_code == 504
    assert answer.json() == api_errors.CONTROL_PLANE_TOO_SLOW.document()


def test_a_restarted_control_plane_hands_over_what_changes_next(
    gateway: GatewayUnderTest, client: str, http_upstream: HttpUpstream
) -> None:
    gateway.serve(client, "rest", http_upstream)
    gateway.wait_for_client(client)
    gateway.kill_control_plane()
    gateway.start_control_plane()
    eventually(lambda: gateway.get("/version").status_code == 200)
    token = gateway.token("acme-key", "acme-secret")
    assert gateway.predict(token).status_code == 200
    gateway.registry.update_key(client, "js", f"{client}-new")  # no cluster changes
    gateway.wait_for_client(client, 401)
    assert gateway.js(f"{client}-new").status_code == 200


def test_a_new_signing_key_ends_the_tokens_of_the_old(gateway: GatewayUnderTest) -> None:
    old = gateway.token("acme-key", "acme-secret")
    seen = gateway.token("acme-key", "acme-secret")
    assert gateway.predict(seen).status_code == 200
    gateway.kill_control_plane()
    (gateway.settings.home / KEY_FILE).unlink()
    gateway.start_control_plane()
    eventually(lambda: gateway.get("/version").status_code == 200)
    new = gateway.token("acme-key", "acme-secret")
    eventually(lambda: gateway.predict(new).status_code == 200, within_s=5)
    answer = gateway.predict(old)
    assert (answer.status_code, answer.json()["error_id"]) == (401, 7)
    # Envoy remembers what it has checked; a restart ends that.
    gateway.restart_envoy()
    answer = gateway.predict(seen)
    assert (answer.status_code, answer.json()["error_id"]) == (401, 7)
    assert gateway.predict(new).status_code == 200


def test_envoy_has_refused_none_of_its_configurations(gateway: GatewayUnderTest) -> None:
    assert "rejected its configuration" not in gateway.logs()
    answer = requests.get(f"{gateway.admin_url}/stats?filter=update_rejected", timeout=5)
    assert answer.status_code == 200
    counters = answer.text.splitlines()
    assert counters
    assert [line for line in counters if not line.endswith(": 0")] == []
