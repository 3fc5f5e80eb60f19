import math
import random
import re
from typing import Any

import pytest

from loadtest import verdict
from loadtest.difference import NO_DIFFERENCE, Estimate, Interval
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
        (2.5, 2.0, "mean: REST is 25.0 % slower than gRPC (no CI)", "rest", 25.0),
        (2.0, 2.5, "mean: gRPC is 25.0 % slower than REST (no CI)", "grpc", 25.0),
        (30.0, 2.0, "mean: REST is 1,400 % slower than gRPC (no CI)", "rest", 1400.0),
        (2.0, 2.0, "mean: REST and gRPC are equal within 0.5 % (no CI)", None, 0.0),
        (2.009, 2.0, "mean: REST and gRPC are equal within 0.5 % (no CI)", None, 0.0),
        (2.0, 2.009, "mean: REST and gRPC are equal within 0.5 % (no CI)", None, 0.0),
        (2.011, 2.0, "mean: REST is 0.6 % slower than gRPC (no CI)", "rest", 0.55),
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
        "mean": "mean: REST is 100 % slower than gRPC (no CI)",
        "p50": "p50: gRPC is 50.0 % slower than REST (no CI)",
        "p99": "p99: REST and gRPC are equal within 0.5 % (no CI)",
    }
    assert found["ratios"] == {"mean": 2.0, "p50": 0.66667, "p99": 1.0}


def test_without_a_latency_there_is_no_verdict() -> None:
    found = rest_vs_grpc(a_summary(None, invalid_because=["no request succeeded"]), a_summary(1.0))
    assert found["sentence"] == "mean: REST and gRPC are not comparable, one of them has no latency"
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
    assert "No confidence interval" in text
    assert "share this machine" in text
    assert "JSONP GET" in text
    assert "closed loop" in text
    assert "opens a connection" not in text
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
    assert "opens a connection" in text
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


@pytest.mark.parametrize(
    ("ratio", "low", "high", "expected"),
    [
        (1.058, 1.039, 1.077, "REST is 5.8 % slower than gRPC (95 % CI +3.9 to +7.7 %)"),
        (0.8, 0.75, 0.85, "gRPC is 25.0 % slower than REST (95 % CI +17.6 to +33.3 %)"),
        (1.02, 1.0003, 1.04, "REST is 2.0 % slower than gRPC (95 % CI +0.03 to +4.0 %)"),
        (1.02, 0.96, 1.08, "no significant difference (REST +2.0 %, 95 % CI -4.0 to +8.0 %)"),
        (0.96, 0.9, 1.02, "no significant difference (gRPC +4.2 %, 95 % CI -2.0 to +11.1 %)"),
        (1.02, 0.9998, 1.04, "no significant difference (REST +2.0 %, 95 % CI -0.02 to +4.0 %)"),
        (1.0, 0.9, 1.1, "no significant difference (REST +0.0 %, 95 % CI -10.0 to +10.0 %)"),
    ],
)
def test_with_an_interval_the_sentence_says_whether_it_is_significant(
    ratio: float, low: float, high: float, expected: str
) -> None:
    found = verdict.sentence("p99", "REST", "gRPC", ratio, Interval(low, high))
    assert found.replace("\N{MINUS SIGN}", "-") == f"p99: {expected}"


def test_the_sentence_and_its_interval_never_disagree() -> None:
    rng = random.Random(1)  # noqa: S311
    seen = set()
    for _ in range(2_000):
        # Bounds near 1 round to nothing unless they keep a digit.
        size = 10 ** rng.uniform(-6, 0.5)
        low, ratio, high = sorted(math.exp(rng.gauss(0, size)) for _ in range(3))
        estimate = Estimate(ratio, 1, ratio - 1, Interval(0, 0), ratio, Interval(low, high))
        text = verdict.sentence("mean", "a", "b", ratio, estimate.ratio_interval)
        bounds = re.search(r"95 % CI (.[0-9.,e-]+) to (.[0-9.,e-]+) %\)$", text)
        assert bounds is not None, text
        shown = [
            float(bound.replace("\N{MINUS SIGN}", "-").replace(",", ""))
            for bound in bounds.groups()
        ]
        significant = estimate.outcome != NO_DIFFERENCE
        assert significant == (shown[0] > 0), text
        assert significant == (" slower than " in text), text
        assert significant != ("no significant difference" in text), text
        assert shown[0] <= shown[1], text
        named = re.search(r"(?:: |\()(a|b) (?:is |\+)", text)
        assert named is not None, text
        assert named[1] == ("a" if ratio >= 1 else "b"), text
        seen.add(significant)
    assert seen == {True, False}
