"""Ten thousand clients: what must hold however long it takes. `make scale` measures the rest."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
from gateway_under_test import GatewayUnderTest, HttpUpstream

from bench.scale_gateway import Servers, copy_clients, populate
from polling import eventually
from seldon_gateway import envoy_routes
from seldon_gateway.envoy_routes import GRPC_ROUTES, REST_ROUTES
from seldon_gateway.registry import Registry
from seldon_gateway.snapshots import CLUSTERS
from seldon_gateway.strategies import Variation

CLIENTS = 10_000
PATIENCE_S = 60.0  # for what takes two seconds where nothing else runs


@pytest.fixture(scope="module")
def gateway(
    start_gateway: Callable[..., GatewayUnderTest], http_upstream: HttpUpstream
) -> GatewayUnderTest:
    def prepare(gateway: GatewayUnderTest) -> None:
        populate(gateway.settings.home / "seldon.db", CLIENTS, Servers((http_upstream.endpoint,)))

    return start_gateway(prepare)


@pytest.fixture(scope="module")
def settled(gateway: GatewayUnderTest) -> dict[str, tuple[str, Any]]:
    return told(gateway)


def told(gateway: GatewayUnderTest) -> dict[str, tuple[str, Any]]:
    """What an Envoy of its own is told, by kind: version and resource."""
    has: dict[str, tuple[str, Any]] = {}
    for kind in (CLUSTERS, CLUSTERS, REST_ROUTES, GRPC_ROUTES):
        answer = ask(gateway, kind, has[kind][0] if kind in has else "")
        if answer.status_code == 200:
            document = answer.json()
            has[kind] = document["version_info"], document["resources"][0]
    return has


def ask(gateway: GatewayUnderTest, kind: str, version: str) -> requests.Response:
    what, names = (CLUSTERS, []) if kind == CLUSTERS else ("routes", [kind])
    question = {"node": {"id": "test"}, "version_info": version, "resource_names": names}
    url = f"{gateway.control_url}/v3/discovery:{what}"
    return requests.post(url, json=question, timeout=30)


def maps_of(value: Any) -> Iterator[dict[str, Any]]:
    """Every map that Envoy looks something up in."""
    if isinstance(value, dict):
        if "exact_match_map" in value:
            yield value["exact_match_map"]["map"]
        for item in value.values():
            yield from maps_of(item)
    elif isinstance(value, list):
        for item in value:
            yield from maps_of(item)


def lists_of(value: Any) -> Iterator[list[Any]]:
    """Every list that Envoy might walk through."""
    if isinstance(value, list):
        yield value
        for item in value:
            yield from lists_of(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from lists_of(item)


def test_a_question_with_nothing_new_is_304_without_a_body(
    gateway: GatewayUnderTest, settled: dict[str, tuple[str, Any]]
) -> None:
    assert set(settled) == {CLUSTERS, REST_ROUTES, GRPC_ROUTES}
    for kind, (version, _) in settled.items():
        for _ in range(3):
            answer = ask(gateway, kind, version)
            assert (answer.status_code, answer.content) == (304, b"")


def test_a_key_is_one_look_up_and_nothing_is_walked_through(
    gateway: GatewayUnderTest, settled: dict[str, tuple[str, Any]]
) -> None:
    keys = {
        scope: {row.consumer_key for row in gateway.registry.list_keys(scope=scope)}
        for scope in ("js", "all")
    }
    assert len(keys["js"]) == len(keys["all"]) == CLIENTS
    maps = {kind: [set(found) for found in maps_of(settled[kind][1])] for kind in settled}
    of_clients = [found for found in maps[REST_ROUTES] if len(found) >= CLIENTS]
    assert sorted(of_clients, key=len) in ([keys["js"], keys["all"]], [keys["all"], keys["js"]])
    assert [found for found in maps[GRPC_ROUTES] if len(found) >= CLIENTS] == [keys["all"]]
    for kind in (REST_ROUTES, GRPC_ROUTES):
        assert max(len(found) for found in lists_of(settled[kind][1])) < 10
        assert "routes" not in settled[kind][1]["virtual_hosts"][0]


def test_clients_from_all_over_the_table_are_recognised(gateway: GatewayUnderTest) -> None:
    rows = gateway.registry.list_keys(scope="js")[:: CLIENTS // 25]
    assert len(rows) >= 25
    for row in rows:
        answer = gateway.js(row.consumer_key)
        assert answer.status_code == 200
        assert answer.json()["headers"]["x-seldon-client"] == row.client


def test_a_client_comes_and_goes_and_the_others_do_not_notice(
    gateway: GatewayUnderTest, http_upstream: HttpUpstream
) -> None:
    known = gateway.registry.list_keys("client-5000", "js")[0].consumer_key
    answered = set()

    def seen(status: int) -> bool:
        answered.add(gateway.js(known).status_code)
        return gateway.js("fresh-js").status_code == status

    gateway.registry.setup_client("fresh", "DB", "fresh-js", "fresh-all", "fresh-secret")
    gateway.serve("fresh", "rest", http_upstream)
    eventually(lambda: seen(200), within_s=PATIENCE_S)
    token = gateway.token("fresh-all", "fresh-secret")
    assert gateway.predict(token).json()["headers"]["x-seldon-client"] == "fresh"
    gateway.registry.remove_client("fresh")
    eventually(lambda: seen(401), within_s=PATIENCE_S)
    assert gateway.predict(token).status_code == 401
    assert answered == {200}


def test_a_change_reads_what_changed_and_gives_what_reading_everything_gives(
    gateway: GatewayUnderTest,
) -> None:
    revision = gateway.registry.revision()
    gateway.registry.set_client_active("client-7", False)
    gateway.registry.update_key("client-8", "js", "another-js")
    changes = gateway.registry.changes_since(revision)
    assert changes is not None
    assert [client.name for client in changes.served] == ["client-8"]
    assert changes.gone == {"client-7"}
    registry = Registry.open(gateway.settings.database_url)
    clients = sorted(registry.served_clients(), key=lambda client: client.name)
    registry.close()
    expected = envoy_routes.route_configuration(
        REST_ROUTES, [envoy_routes.client_routes(client, 5) for client in clients]
    )
    answer = ask(gateway, REST_ROUTES, "")
    assert answer.status_code == 200
    assert answer.content.endswith(b'"resources":[' + expected + b"]}")
    assert b"another-js" in expected
    assert len(json.loads(expected)["virtual_hosts"]) == 1


@pytest.mark.stack
def test_more_routes_than_envoy_takes_by_default_arrive(
    start_gateway: Callable[..., GatewayUnderTest], http_upstream: HttpUpstream
) -> None:
    # A few clients of eighty variations have as many bytes as 40,000 of one.
    def prepare(gateway: GatewayUnderTest) -> None:
        populate(gateway.settings.home / "seldon.db", 1, Servers((http_upstream.endpoint,)))
        many = [Variation(f"v{i:02}", 1 / 80, (http_upstream.endpoint,)) for i in range(80)]
        gateway.registry.replace_variations("client-0", "rest", many)
        database = gateway.settings.home / "seldon.db"
        copy_clients(database, first=1, last=1499, models=1)

    gateway = start_gateway(prepare)
    told(gateway)  # the clusters: without them there are no routes
    assert len(ask(gateway, REST_ROUTES, "").content) > 1 << 25
    [row] = gateway.registry.list_keys("client-1499", "js")
    eventually(lambda: gateway.js(row.consumer_key).status_code == 200, within_s=PATIENCE_S)
    assert gateway.js(row.consumer_key).json()["headers"]["x-seldon-client"] == "client-1499"


def test_envoy_has_refused_nothing(gateway: GatewayUnderTest) -> None:
    assert "rejected its configuration" not in gateway.logs()
    answer = requests.get(f"{gateway.admin_url}/stats?filter=update_rejected", timeout=5)
    assert answer.status_code == 200
    counters = answer.text.splitlines()
    assert counters
    assert [line for line in counters if not line.endswith(": 0")] == []
