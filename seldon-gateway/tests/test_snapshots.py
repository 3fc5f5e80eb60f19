import json
import re
from pathlib import Path

import pytest

from seldon_gateway import envoy_routes
from seldon_gateway.errors import RegistryUnavailable
from seldon_gateway.registry import Registry
from seldon_gateway.snapshots import Snapshots
from seldon_gateway.strategies import Endpoint, Variation

OLD = (Endpoint("127.0.0.1", 5000),)
NEW = (Endpoint("127.0.0.1", 5001),)
OLD_CLUSTER, NEW_CLUSTER = "rest_127.0.0.1:5000", "rest_127.0.0.1:5001"


class FakeEnvoy:
    """Asks as Envoy does: with the version that it has accepted last."""

    def __init__(self, snapshots: Snapshots, node: str = "envoy") -> None:
        self.snapshots = snapshots
        self.node = node
        self.versions: dict[str, str] = {}
        self.has: dict[str, str] = {}

    def ask(self, kind: str) -> bool:
        """Whether there was something new."""
        resources = self.snapshots.discovery_response(self.node, kind, self.versions.get(kind, ""))
        if resources is None:
            return False
        self.versions[kind] = resources.version
        self.has[kind] = resources.body.decode()
        return True

    def settle(self) -> None:
        """Ask until there is nothing new; more would be a configuration that never ends."""
        quiet = 0
        for _ in range(12):
            news = [self.ask(kind) for kind in ("rest", "grpc", "clusters")]
            quiet = 0 if any(news) else quiet + 1
            if quiet == 2:  # a question can be the acceptance that the next waits for
                return
        raise AssertionError("still something new")

    @property
    def clusters(self) -> set[str]:
        return {cluster["name"] for cluster in json.loads(self.has["clusters"])["resources"]}


def serve(registry: Registry, endpoints: tuple[Endpoint, ...], client: str = "one") -> None:
    registry.replace_variations(client, "rest", [Variation("a", 1.0, endpoints)])


@pytest.mark.parametrize(("timeout_s", "idle"), [(5, None), (59, None), (60, "70s"), (600, "610s")])
def test_a_prediction_that_may_take_long_is_not_ended_as_an_idle_request(
    registry: Registry, timeout_s: float, idle: str | None
) -> None:
    registry.setup_client("one", "DB")
    serve(registry, OLD)
    envoy = FakeEnvoy(Snapshots(registry, timeout_s))
    envoy.settle()
    assert f'"timeout":"{timeout_s}s"' in envoy.has["rest"]
    found = re.findall('"idle_timeout":"([^"]*)"', envoy.has["rest"])
    assert set(found) == ({idle} if idle else set())


@pytest.fixture
def snapshots(registry: Registry) -> Snapshots:
    registry.setup_client("one", "DB")
    serve(registry, OLD)
    return Snapshots(registry, 5)


@pytest.fixture
def envoy(snapshots: Snapshots) -> FakeEnvoy:
    return FakeEnvoy(snapshots)


def test_first_routes_wait_for_their_clusters(envoy: FakeEnvoy) -> None:
    assert not envoy.ask("rest")
    assert envoy.ask("clusters")
    assert not envoy.ask("rest"), "offered is not yet accepted"
    assert not envoy.ask("clusters"), "this question is the acceptance"
    assert envoy.ask("rest")
    assert OLD_CLUSTER in envoy.has["rest"]


def test_without_model_servers_routes_come_at_once(registry: Registry) -> None:
    envoy = FakeEnvoy(Snapshots(registry, 5))
    assert envoy.ask("rest")
    assert envoy.ask("grpc")


def test_new_routes_wait_until_envoy_has_their_clusters(
    envoy: FakeEnvoy, registry: Registry
) -> None:
    envoy.settle()
    serve(registry, NEW)
    assert not envoy.ask("rest")
    assert envoy.ask("clusters")
    assert not envoy.ask("rest")
    assert not envoy.ask("clusters")
    assert envoy.ask("rest")
    assert NEW_CLUSTER in envoy.has["rest"]
    assert OLD_CLUSTER not in envoy.has["rest"]


def test_old_clusters_stay_until_envoy_has_the_routes_without_them(
    envoy: FakeEnvoy, registry: Registry
) -> None:
    envoy.settle()
    serve(registry, NEW)
    envoy.ask("clusters")
    assert envoy.clusters == {OLD_CLUSTER, NEW_CLUSTER}
    envoy.ask("clusters")
    envoy.ask("rest")
    assert not envoy.ask("clusters"), "the new routes are offered, not accepted"
    envoy.ask("rest")
    assert envoy.ask("clusters")
    assert envoy.clusters == {NEW_CLUSTER}


def test_a_change_on_the_way_to_another_still_arrives(envoy: FakeEnvoy, registry: Registry) -> None:
    envoy.settle()
    serve(registry, NEW)
    envoy.ask("clusters")
    serve(registry, OLD)
    envoy.settle()
    assert OLD_CLUSTER in envoy.has["rest"]
    assert envoy.clusters == {OLD_CLUSTER}


def test_clusters_of_offered_routes_stay_when_the_next_change_comes(
    envoy: FakeEnvoy, registry: Registry
) -> None:
    envoy.settle()
    serve(registry, NEW)
    envoy.ask("clusters")
    envoy.ask("clusters")
    assert envoy.ask("rest")  # in use from now on, though Envoy has not said so yet
    serve(registry, (*OLD, *NEW))
    assert envoy.ask("clusters")
    assert NEW_CLUSTER in envoy.clusters


def test_routes_do_not_return_to_a_cluster_that_is_being_taken_away(
    envoy: FakeEnvoy, registry: Registry
) -> None:
    envoy.settle()
    serve(registry, NEW)
    for kind in ("clusters", "clusters", "rest", "rest"):
        envoy.ask(kind)
    assert envoy.ask("clusters")
    assert envoy.clusters == {NEW_CLUSTER}
    serve(registry, OLD)
    assert not envoy.ask("rest"), "the old cluster is gone, though Envoy has not said so yet"
    envoy.settle()
    assert OLD_CLUSTER in envoy.has["rest"]


def test_nothing_new_is_none(envoy: FakeEnvoy, registry: Registry) -> None:
    envoy.settle()
    for kind in ("rest", "grpc", "clusters"):
        assert not envoy.ask(kind)
    registry.commit_strategy("one")  # another revision of the same content
    for kind in ("rest", "grpc", "clusters"):
        assert not envoy.ask(kind)


def test_a_change_without_new_clusters_needs_one_question(
    envoy: FakeEnvoy, registry: Registry
) -> None:
    envoy.settle()
    registry.update_key("one", "js", "another-key")
    assert envoy.ask("rest")
    assert "another-key" in envoy.has["rest"]


def test_changes_one_by_one_end_where_everything_at_once_does(
    envoy: FakeEnvoy, registry: Registry
) -> None:
    envoy.settle()
    for name in ("zoe", "bob", "eve"):
        registry.setup_client(name, "DB")
        envoy.settle()
    serve(registry, NEW, "bob")
    serve(registry, (*OLD, *NEW), "eve")
    envoy.settle()
    registry.set_client_active("zoe", False)
    serve(registry, NEW)
    registry.remove_client("eve")
    envoy.settle()
    fresh = FakeEnvoy(Snapshots(registry, 5))
    fresh.settle()
    assert envoy.has == fresh.has
    assert envoy.versions == fresh.versions == envoy.snapshots.settled()
    assert envoy.clusters == {NEW_CLUSTER}


def test_a_disabled_client_goes_with_the_next_question(
    envoy: FakeEnvoy, registry: Registry
) -> None:
    envoy.settle()
    registry.set_client_active("one", False)
    assert envoy.ask("rest")
    assert OLD_CLUSTER not in envoy.has["rest"]


def test_each_envoy_is_paced_by_what_it_has_itself(
    snapshots: Snapshots, registry: Registry
) -> None:
    quick, slow = FakeEnvoy(snapshots, "quick"), FakeEnvoy(snapshots, "slow")
    quick.settle()
    slow.settle()
    serve(registry, NEW)
    quick.settle()
    assert quick.clusters == {NEW_CLUSTER}
    assert not slow.ask("rest"), "its clusters are not there yet"
    assert slow.ask("clusters")
    assert slow.clusters == {OLD_CLUSTER, NEW_CLUSTER}
    slow.settle()
    assert slow.clusters == {NEW_CLUSTER}
    assert slow.versions == quick.versions


def test_a_refused_answer_is_not_taken_for_accepted(
    snapshots: Snapshots, registry: Registry
) -> None:
    envoy = FakeEnvoy(snapshots)
    envoy.settle()
    serve(registry, NEW)
    before = envoy.versions["clusters"]
    envoy.ask("clusters")
    envoy.versions["clusters"] = before  # as Envoy asks after a refusal
    assert envoy.ask("clusters"), "offered once more"
    assert not envoy.ask("rest")


def test_a_restart_with_the_same_content_has_the_same_versions(
    envoy: FakeEnvoy, registry: Registry
) -> None:
    envoy.settle()
    versions = dict(envoy.versions)
    envoy.snapshots = Snapshots(registry, 5)
    for kind in ("clusters", "rest", "grpc"):
        assert not envoy.ask(kind)
    assert envoy.versions == versions


def test_a_restarted_control_plane_still_hands_over_changes(
    envoy: FakeEnvoy, registry: Registry
) -> None:
    envoy.settle()
    envoy.snapshots = Snapshots(registry, 5)
    envoy.settle()
    registry.update_key("one", "js", "another-key")  # the clusters are the same
    envoy.settle()
    assert "another-key" in envoy.has["rest"]


def test_a_restarted_control_plane_still_keeps_old_clusters(
    envoy: FakeEnvoy, registry: Registry
) -> None:
    envoy.settle()
    envoy.snapshots = Snapshots(registry, 5)
    envoy.settle()
    serve(registry, NEW)
    envoy.ask("clusters")
    assert envoy.clusters == {OLD_CLUSTER, NEW_CLUSTER}


def test_a_restarted_envoy_gets_everything_again(envoy: FakeEnvoy, registry: Registry) -> None:
    envoy.settle()
    again = FakeEnvoy(envoy.snapshots, envoy.node)
    again.settle()
    assert again.has == envoy.has
    serve(registry, NEW)
    again.settle()
    assert again.clusters == {NEW_CLUSTER}


def test_clients_with_the_same_replicas_share_a_cluster(registry: Registry) -> None:
    for name in ("one", "two"):
        registry.setup_client(name, "DB")
        serve(registry, OLD, name)
    envoy = FakeEnvoy(Snapshots(registry, 5))
    envoy.settle()
    assert envoy.clusters == {OLD_CLUSTER}


def test_every_cluster_that_routes_name_is_handed_over(registry: Registry) -> None:
    registry.setup_client("one", "DB")
    registry.replace_variations(
        "one", "rest", [Variation("a", 0.8, OLD), Variation("b", 0.2, (*NEW, *OLD))]
    )
    registry.replace_variations("one", "grpc", [Variation("a", 1.0, NEW)])
    [client] = registry.served_clients()
    routes = envoy_routes.client_routes(client, 5)
    named: set[str] = set()
    for kind in ("rest", "grpc"):
        text = envoy_routes.route_configuration(kind, [routes]).decode()
        assert routes.clusters[kind] == set(re.findall(rf'"({kind}_127[^"]+)"', text))
        named |= routes.clusters[kind]
    assert named == set(envoy_routes.clusters(client))
    assert len(named) == 3


def test_a_lost_database_is_an_error_and_its_return_heals_it(
    envoy: FakeEnvoy, registry: Registry, tmp_path: Path
) -> None:
    envoy.settle()
    registry.close()
    for path in tmp_path.glob("seldon.db*"):
        path.rename(path.with_name("lost-" + path.name))
    with pytest.raises(RegistryUnavailable):
        envoy.ask("rest")
    registry.close()
    for path in tmp_path.glob("seldon.db*"):
        path.unlink()
    for path in tmp_path.glob("lost-*"):
        path.rename(path.with_name(path.name.removeprefix("lost-")))
    assert not envoy.ask("rest")
    registry.update_key("one", "js", "another-key")
    assert envoy.ask("rest")
