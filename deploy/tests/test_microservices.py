import dataclasses
from pathlib import Path
from typing import Any

import pytest

from deploy.errors import MicroserviceRefused
from deploy.microservices import (
    Api,
    Microservice,
    Replica,
    Wanted,
    check_replicas,
    free_program_names,
    from_json,
    kept_replicas,
    parse_wanted,
    programs_of,
    to_json,
)

TEN_TENTHS = [(f"m{number}", "models", "rest", "0.1") for number in range(10)]

SERVICE = Microservice(
    name="mnist",
    api=Api.RPC,
    folder="/models/deep mnist/1",
    model="abc",
    environment={"GRPC_WORKERS": "2"},
    replicas=(Replica("mnist-rpc-0", 9100, 9101), Replica("mnist-rpc-3", 9102, 9103)),
)


def test_an_entry_is_parsed() -> None:
    (wanted,) = parse_wanted([("mnist", "models", "rpc", "1.0")])
    assert wanted == Wanted("mnist", Path("models").resolve(), Api.RPC, 1.0)


@pytest.mark.parametrize(
    "entries",
    [
        [("a", "m", "rest", "1")],
        [("a", "m", "rest", "0.3"), ("b", "m", "rest", "0.7")],
        # 0.1 ten times is not exactly 1.0 in floating point; the original refused it.
        TEN_TENTHS,
        [("a", "m", "rest", "1.0"), ("a", "m", "rpc", "1.0")],
        [("a", "m", "rest", "0.0000005"), ("b", "m", "rest", "0.9999999")],
        [("a" * 63, "m", "rest", "1")],
    ],
)
def test_sound_entries_pass(entries: list[tuple[str, str, str, str]]) -> None:
    assert len(parse_wanted(entries)) == len(entries)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([], "no microservice is given"),
        ([("a", "m", "rest", "0.9")], "rest microservices sum to 0.9, expected 1.0"),
        (
            [("a", "m", "rest", "1.0"), ("b", "m", "rpc", "0.5"), ("c", "m", "rpc", "0.6")],
            "rpc microservices sum to 1.1, expected 1.0",
        ),
        ([("a", "m", "rest", "0.5"), ("b", "m", "rpc", "0.5")], "rest microservices sum to 0.5"),
        ([("a", "m", "rest", "half")], "microservice a: ratio is 'half', expected a number"),
        ([("a", "m", "rest", "0"), ("b", "m", "rest", "1")], "a: ratio is 0, expected"),
        ([("a", "m", "rest", "nan")], "ratio is nan, expected a number in (0, 1]"),
        ([("a", "m", "rest", "-0.5"), ("b", "m", "rest", "1.5")], "a: ratio is -0.5, expected"),
        ([("a", "m", "grpc", "1")], "microservice a: API type is 'grpc', expected rest or rpc"),
        ([("a", "m", "rest", "0.5"), ("a", "m", "rest", "0.5")], "a rest is given twice"),
        ([("a_b", "m", "rest", "1")], "'a_b', expected a DNS label"),
        ([("A", "m", "rest", "1")], "'A', expected a DNS label"),
        ([("-a", "m", "rest", "1")], "'-a', expected a DNS label"),
        ([("a-", "m", "rest", "1")], "'a-', expected a DNS label"),
        ([("", "m", "rest", "1")], "'', expected a DNS label"),
        ([("a/../b", "m", "rest", "1")], "expected a DNS label"),
        ([("a" * 64, "m", "rest", "1")], "at most 63 characters"),
        ([("a\n", "m", "rest", "1")], "expected a DNS label"),
    ],
)
def test_unsound_entries_are_refused_by_name(
    entries: list[tuple[str, str, str, str]], message: str
) -> None:
    with pytest.raises(MicroserviceRefused) as refused:
        parse_wanted(entries)
    assert message in str(refused.value)


@pytest.mark.parametrize("replicas", [0, -1, 65])
def test_replicas_have_limits(replicas: int) -> None:
    with pytest.raises(MicroserviceRefused, match="expected 1 to 64"):
        check_replicas(replicas)


def test_the_record_keeps_everything() -> None:
    assert from_json(to_json(SERVICE)) == SERVICE


def test_programs_are_grouped_by_microservice() -> None:
    names = ["a-rest-10", "a-rest-2", "a-rpc-0", "a-rest-2-rest-0", "b-a-rest-1", "envoy"]
    assert programs_of("a", Api.REST, names) == ["a-rest-2", "a-rest-10"]
    assert programs_of("a-rest-2", Api.REST, names) == ["a-rest-2-rest-0"]


def test_new_programs_take_the_free_names() -> None:
    taken = ["a-rest-0", "a-rest-2", "a-rpc-1"]
    assert free_program_names("a", Api.REST, taken, 3) == ["a-rest-1", "a-rest-3", "a-rest-4"]


def test_only_healthy_processes_of_the_same_model_are_kept() -> None:
    both = {"mnist-rpc-0", "mnist-rpc-3"}
    assert kept_replicas(SERVICE, SERVICE, both, 2) == SERVICE.replicas
    assert kept_replicas(SERVICE, SERVICE, both, 1) == SERVICE.replicas[:1]
    assert kept_replicas(SERVICE, SERVICE, {"mnist-rpc-3"}, 2) == SERVICE.replicas[1:]
    assert kept_replicas(SERVICE, None, both, 2) == ()
    changes: list[dict[str, Any]] = [{"model": "new"}, {"folder": "/other"}, {"environment": {}}]
    for change in changes:
        changed = dataclasses.replace(SERVICE, **change)
        assert kept_replicas(changed, SERVICE, both, 2) == ()
