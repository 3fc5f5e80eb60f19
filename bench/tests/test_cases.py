import pytest

from bench.cases import Form, Way, all_cases, interleaved, parse_callers, select
from bench.errors import BenchError


def test_every_way_is_measured_directly_and_through_the_gateway() -> None:
    names = {case.name for case in all_cases([1])}
    for way in ("grpc", "grpc-v2", "rest-post", "rest-jsonp", "rest-v2", "rest-v2-binary"):
        for name in (way, f"null-{way}"):
            assert {name, f"{name}-gateway"} <= names


def test_two_workers_are_measured_once_whatever_the_connections() -> None:
    cases = [
        case for case in all_cases([1, 8]) if case.server.workers == 2 and not case.server.shared
    ]
    assert [(case.name, case.callers) for case in cases] == [
        ("rest-2-workers", 32),
        ("grpc-2-workers", 32),
    ]


def test_what_runs_on_two_cores_has_twice_of_everything() -> None:
    cases = {case.name: case for case in all_cases([1]) if case.server.shared}
    gateways = [case for case in all_cases([1]) if case.server.upstream]
    for server in ("rest", "grpc", "null-rest", "null-grpc"):
        one, two = (cases[f"{server}-on-{cores}"] for cores in ("1-core", "2-cores"))
        assert (one.server.workers, one.server.load_threads, one.callers) == (1, 1, 32)
        assert (two.server.workers, two.server.load_threads, two.callers) == (2, 2, 64)
    assert [(case.name, case.callers) for case in gateways] == [
        ("gateway-rest-on-1-core", 8),
        ("gateway-rest-on-1-core", 32),
        ("gateway-grpc-on-1-core", 8),
        ("gateway-grpc-on-1-core", 32),
        ("gateway-rest-on-2-cores", 16),
        ("gateway-rest-on-2-cores", 64),
        ("gateway-grpc-on-2-cores", 16),
        ("gateway-grpc-on-2-cores", 64),
    ]


def test_patterns_choose_cases() -> None:
    cases = all_cases([1, 8], [("other", Way.POST, Form.V1)])
    assert {case.name for case in select(cases, "grpc, other")} == {"grpc", "other"}
    assert {case.callers for case in select(cases, "other")} == {1, 8}
    assert select(cases, "") == cases


def test_pattern_without_a_match_is_reported_with_the_names() -> None:
    with pytest.raises(BenchError, match=r"'rpc', expected a pattern of: rest-post, "):
        select(all_cases([1]), "grpc,rpc")


@pytest.mark.parametrize("text", ["", "0", "1,", "201", "1.5", "eight", "-1"])
def test_wrong_callers_are_refused(text: str) -> None:
    with pytest.raises(BenchError, match="CALLERS is"):
        parse_callers(text)


def test_callers_are_sorted_and_counted_once() -> None:
    assert parse_callers("32, 1,8,1") == [1, 8, 32]


def test_one_core_and_two_are_never_parted() -> None:
    cases = select(all_cases([1]), "*-on-*")
    for number in range(12):
        names = [server.name for server, _ in interleaved(cases, number)]
        for one, two in zip(names[::2], names[1::2], strict=True):
            assert one.endswith("-on-1-core")
            assert two == one.replace("1-core", "2-cores")


def test_each_round_begins_with_another_server_and_holds_every_case() -> None:
    cases = all_cases([1, 8])
    rounds = [interleaved(cases, number) for number in range(3)]
    assert len({turns[0][0].name for turns in rounds}) == 3
    for turns in rounds:
        assert sorted(case.label for _, own in turns for case in own) == sorted(
            case.label for case in cases
        )
    assert rounds[0][1][1] == rounds[1][0][1][::-1]
