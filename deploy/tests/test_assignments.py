import json
from pathlib import Path

import pytest

from deploy import assignments
from deploy.errors import MicroserviceRefused
from deploy.microservices import Api
from seldon_gateway.errors import InvalidStrategy
from seldon_gateway.registry import Registry
from seldon_gateway.strategies import Endpoint, Variation


def variation(label: str, ratio: float, *hosts: str) -> Variation:
    return Variation(label, ratio, tuple(Endpoint(host, 8500) for host in hosts))


def test_they_come_back_from_another_process() -> None:
    some: assignments.Assignments = {
        ("a", "rest"): (variation("x", 0.1, "x-rest", "[::1]"), variation("y", 0.9, "y-rest")),
        ("a", "grpc"): (),
    }
    assert assignments.from_json(assignments.to_json(some)) == some


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}x",
        "[1]",
        '[{"client": "a"}]',
        '[{"client": "a", "protocol": "soap", "variations": []}]',
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        assignments.from_json(text)


def test_a_client_that_has_only_it_has_none_then() -> None:
    before: assignments.Assignments = {
        ("a", "rest"): (variation("mnist", 1.0, "mnist-rest"),),
        ("a", "grpc"): (variation("mnist", 1.0, "mnist-rest"),),
        ("b", "rest"): (variation("other", 1.0, "other-rest"),),
    }
    after = assignments.without(before, "mnist", Api.REST, {Endpoint("mnist-rest", 8500)})
    assert after == {**before, ("a", "rest"): ()}
    assert assignments.changed(before, after) == [("a", "rest")]


def test_one_that_shares_the_traffic_stays() -> None:
    before: assignments.Assignments = {
        ("a", "rest"): (variation("x", 0.25, "x-rest"), variation("y", 0.75, "y-rest"))
    }
    with pytest.raises(
        MicroserviceRefused, match=r"x serves 0.25 of .* client a, the rest goes to y; change"
    ):
        assignments.without(before, "x", Api.REST, {Endpoint("x-rest", 8500)})


def test_all_clients_move_or_none(tmp_path: Path) -> None:
    registry = Registry.open(f"sqlite:///{tmp_path}/seldon.db")
    for client in ("a", "b"):
        registry.setup_client(client, "ClientDB")
    before = assignments.read(registry)
    assert before == {(c, p): () for c in ("a", "b") for p in ("rest", "grpc")}
    good, bad = (variation("x", ratio, "x-rest") for ratio in (1.0, 0.5))
    with pytest.raises(InvalidStrategy):
        assignments.move(registry, before, before | {("a", "rest"): (good,), ("b", "rest"): (bad,)})
    assert assignments.read(registry) == before
    after = before | {("a", "rest"): (good,)}
    assignments.move(registry, before, after)
    assert assignments.read(registry) == after
    registry.close()


def test_the_text_is_one_line() -> None:
    text = assignments.to_json({("a", "rest"): (variation("x", 1.0, "x-rest"),)})
    assert "\n" not in text
    assert json.loads(text)
