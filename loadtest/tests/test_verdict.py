from typing import Any

import pytest

from loadtest import verdict
from loadtest.difference import Estimate, Interval
from loadtest.verdict import Side


def rest_vs_grpc(rest: dict[str, Any], grpc: dict[str, Any]) -> dict[str, Any]:
    rest["settings"].setdefault("protocol", "rest")
    grpc["settings"].setdefault("protocol", "grpc")
    return verdict.compare(Side("rest", "REST", rest), Side("grpc", "gRPC", grpc))


def a_summary(
    mean: float | None, p50: float = 1.0, p99: float = 2.0, **changes: Any
) -> dict[str, Any]:
    return {
        "latency_ms": {"client": {"mean": mean, "p50": p50, "p99": p99}},
        "invalid_because": [],
        "settings": {
            "users": 50,
            "wait_ms": [900, 1100],
            "loop": "closed",
            "connections": "kept",
            "endpoint": "127.0.0.1:5000",
            "interrupted": False,
        },
        "machine": {"cpu": "Made-up CPU", "packages": {"locust": "2.0"}},
        **changes,
    }


@pytest.mark.parametrize(
    ("rest", "grpc", "sentence", "slower", "percent"),
    [
        (2.5, 2.0, "REST is 25.0 % slower than gRPC on average", "rest", 25.0),
        (2.0, 2.5, "gRPC is 25.0 % slower than REST on average", "grpc", 25.0),
        (30.0, 2.0, "REST is 1,400 % slower than gRPC on average", "rest", 1400.0),
        (2.0, 2.0, "REST and gRPC are equal on average", None, 0.0),
        (2.009, 2.0, "REST and gRPC are equal on average", None, 0.0),
        (2.0, 2.009, "REST and gRPC are equal on average", None, 0.0),
        (2.011, 2.0, "REST is 0.6 % slower than gRPC on average", "rest", 0.55),
    ],
)
def test_wording(
    rest: float, grpc: float, sentence: str, slower: str | None, percent: float
) -> None:
    found = rest_vs_grpc(a_summary(rest), a_summary(grpc))
    assert found["sentence"] == sentence
    assert found["slower"] == slower
    assert found["percent"] == pytest.approx(percent, abs=1e-3)


def test_median_and_p99_may_say_the_contrary() -> None:
    found = rest_vs_grpc(a_summary(2.0, 1.0, 9.0), a_summary(1.0, 1.5, 9.0))
    assert found["sentences"] == {
        "mean": "REST is 100 % slower than gRPC on average",
        "p50": "gRPC is 50.0 % slower than REST at the median",
        "p99": "REST and gRPC are equal at the 99th percentile",
    }
    assert found["ratios"] == {"mean": 2.0, "p50": 0.66667, "p99": 1.0}


def test_without_a_latency_there_is_no_verdict() -> None:
    found = rest_vs_grpc(a_summary(None, invalid_because=["no request succeeded"]), a_summary(1.0))
    assert found["sentence"] == "REST and gRPC cannot be compared: one of them has no latency"
    assert found["slower"] is None
    assert found["percent"] is None
    assert not found["valid"]
    assert found["invalid_because"] == ["REST: no request succeeded"]


def test_equal_settings_are_fair() -> None:
    rest, grpc = a_summary(1.0), a_summary(1.0)
    rest["settings"] |= {"protocol": "rest", "test_type": "js-predict", "command": "a"}
    grpc["settings"] |= {"protocol": "grpc", "test_type": "grpc-predict", "command": "b"}
    assert rest_vs_grpc(rest, grpc)["unfair"] == []


def test_differing_settings_and_machines_are_named() -> None:
    rest, grpc = a_summary(1.0), a_summary(1.0)
    rest["settings"] |= {"users": 60, "wait_ms": [0, 0], "interrupted": True, "seed": 3}
    grpc["machine"] = {"cpu": "Other CPU", "packages": {"locust": "3.0"}}
    assert rest_vs_grpc(rest, grpc)["unfair"] == [
        "interrupted: REST yes, gRPC no",
        "seed: REST 3, gRPC none",
        "users: REST 60, gRPC 50",
        "wait_ms: REST 0 to 0, gRPC 900 to 1100",
        "machine cpu: REST Made-up CPU, gRPC Other CPU",
        "version of locust: REST 2.0, gRPC 3.0",
    ]


def test_what_is_varied_on_purpose_is_not_unfair_and_another_host_is() -> None:
    a, b = a_summary(1.0), a_summary(1.0)
    b["settings"] |= {"connections": "per-call", "endpoint": "10.0.0.1:5000"}
    sides = Side("a", "kept", a), Side("b", "per call", b)
    assert verdict.differences(*sides, ["connections"]) == [
        "host: kept 127.0.0.1, per call 10.0.0.1"
    ]


def test_caveats_follow_the_runs() -> None:
    text = " ".join(rest_vs_grpc(a_summary(1.0), a_summary(1.0))["caveats"])
    assert "no confidence interval" in text
    assert "share this machine" in text
    assert "JSONP GET" in text
    assert "closed loop" in text
    assert "per call" not in text
    assert "A few slow requests" not in text
    slow = rest_vs_grpc(a_summary(1.3), a_summary(1.0))
    assert "A few slow requests" in " ".join(slow["caveats"])
    far = a_summary(1.0)
    far["settings"] |= {
        "endpoint": "https://gateway.example:443",
        "connections": "per-call",
        "loop": "open",
    }
    text = " ".join(rest_vs_grpc(far, far)["caveats"])
    assert "share this machine" not in text
    assert "per call" in text
    assert "closed loop" not in text
    assert "JSONP" not in text  # both are REST, or both gRPC


def test_a_host_is_the_same_with_a_port_and_without() -> None:
    a, b = a_summary(1.0), a_summary(1.0)
    for one, other in (
        ("10.0.0.5", "10.0.0.5:5000"),
        ("[::1]:80", "[::1]"),
        ("LOCALHOST:1", "localhost"),
    ):
        a["settings"]["endpoint"], b["settings"]["endpoint"] = one, other
        assert verdict.differences(Side("a", "A", a), Side("b", "B", b)) == []


@pytest.mark.parametrize("endpoint", ["http://localhost:8080", "127.0.0.1:5000", "[::1]:5000"])
def test_loopback_is_this_machine(endpoint: str) -> None:
    here = a_summary(1.0)
    here["settings"]["endpoint"] = endpoint
    assert "share this machine" in " ".join(rest_vs_grpc(here, here)["caveats"])


def estimate(ratio: float, low: float, high: float) -> Estimate:
    return Estimate(ratio, 1.0, ratio - 1, Interval(low - 1, high - 1), ratio, Interval(low, high))


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (
            estimate(1.058, 1.039, 1.077),
            "REST is 5.8 % slower than gRPC on average (95 % interval 3.9 to 7.7 %)",
        ),
        (
            estimate(0.8, 0.75, 0.85),
            "gRPC is 25.0 % slower than REST on average (95 % interval 17.6 to 33.3 %)",
        ),
        (
            estimate(1.02, 0.96, 1.08),
            "REST is 2.0 % slower than gRPC on average, but no difference is seen: chance alone "
            "makes as much (95 % interval −4.0 to +8.0 %)",  # noqa: RUF001
        ),
        (
            estimate(0.96, 0.9, 1.02),
            "gRPC is 4.2 % slower than REST on average, but no difference is seen: chance alone "
            "makes as much (95 % interval −2.0 to +11.1 %)",  # noqa: RUF001
        ),
        (
            estimate(1.001, 0.9, 1.1),
            "REST and gRPC are equal on average (95 % interval −10.0 to +10.0 %)",  # noqa: RUF001
        ),
    ],
)
def test_with_turns_the_sentence_says_how_sure_it_is(found: Estimate, expected: str) -> None:
    assert verdict.sentence_of(found, "on average") == expected
