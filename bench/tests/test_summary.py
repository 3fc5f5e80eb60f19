from collections.abc import Sequence
from typing import Any

import pytest

from bench.cases import Form
from bench.summary import Spread, cost_in_batches, mean_batch, ratio, spread, summarise
from bench.tables import markdown, remarks, tables
from bench.targets import evaluate


def sample(case: str, callers: int, **figures: Any) -> dict[str, Any]:
    usual = {
        "per_s": 1000.0,
        "server_cpu_ms": 0.3,
        "ratio": 1.5,
        "gateway_cpu_ms": None,
        "p50_ms": 1.0,
        "p99_ms": 2.0,
        "client_busy": 0.2,
        "problem": "",
        "tool": "wrk",
        "by_batch": {"1": 10},
        "round": 0,
    }
    return {**usual, **figures, "case": case, "callers": callers}


def document(
    *samples: dict[str, Any], engine: str = "litert", peers: Sequence[dict[str, Any]] = ()
) -> dict[str, Any]:
    raw = {"batch": 1, "per_s": 5000.0, "cpu_ms": 0.2, "p50_ms": 0.2, "p99_ms": 0.3}
    started = {"server": "grpc", "cold_start_s": 0.4, "rss_mb": 130.0, "uss_mb": 60.0}
    settings = {"model": "models/deep_mnist/1", "engine": engine, "peers": list(peers)}
    return {
        "settings": settings,
        "raw": [raw],
        "raw_on_cores": [],
        "samples": list(samples),
        "servers": [started],
    }


def test_median_and_range() -> None:
    assert spread([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0)
    assert spread([]) is None


def test_ratio_is_to_what_the_model_cost_around_it() -> None:
    assert ratio(0.6, [0.2, 0.4]) == pytest.approx(2.0)


def test_a_round_with_failures_is_left_out_and_makes_the_case_invalid() -> None:
    bad = sample("grpc", 8, per_s=9000.0, problem="3 of 9 requests failed", by_batch={"2": 5})
    summary = summarise(document(bad, sample("grpc", 8), sample("grpc", 32)))
    eight, many = summary["cases"]
    assert not eight["valid"]
    assert eight["per_s"].high == 1000.0
    assert eight["by_batch"] == {"1": 10}
    assert many["valid"]
    assert "INVALID: grpc at 8 connections: 3 of 9 requests failed" in remarks(summary)
    assert all(row.measured is None for row in evaluate(summary) if row.callers == 8)


def test_mean_batch() -> None:
    assert mean_batch({"1": 10, "16": 10}) == 8.5
    assert mean_batch({}) is None


def test_the_models_cost_is_that_of_the_batches_it_was_asked_in() -> None:
    saved = {1: 1.0, 8: 0.5}
    assert cost_in_batches({"1": 10, "8": 30}, saved, [0.2, 0.4]) == pytest.approx(0.3 * 0.625)
    assert cost_in_batches({}, saved, [0.2, 0.4]) == pytest.approx(0.3)


def test_what_a_server_adds_stands_beside_what_it_costs_without_a_model() -> None:
    real = sample("grpc", 8, server_cpu_ms=0.3, model_ms=0.22, above_ms=0.08)
    null = sample("null-grpc", 8, server_cpu_ms=0.07)
    other_callers = sample("null-grpc", 32, server_cpu_ms=0.06)
    summary = summarise(document(real, null, other_callers, engine="tensorflow"))
    cost, added, *_ = tables(summary, evaluate(summary))
    assert cost.title.startswith("Cost per prediction, models/deep_mnist/1 with TensorFlow ")
    assert added.rows == (("grpc", "8", "0.300", "0.220", "0.080", "0.070"),)


def test_another_engine_is_not_held_against_what_litert_takes() -> None:
    rows = evaluate(summarise(document(sample("grpc", 8), engine="tensorflow")))
    assert {row.what for row in rows}.isdisjoint({"RSS per worker", "cold start"})
    assert any(row.what == "CPU / raw" and row.met is False for row in rows)


def test_targets_are_held_against_the_medians() -> None:
    summary = summarise(
        document(
            sample("grpc", 8, ratio=1.3),
            sample("grpc", 32, ratio=1.3),
            sample("grpc", 1, p50_ms=0.8),
            sample("grpc-gateway", 1, p50_ms=1.0),
            sample("grpc-on-1-core", 32, per_s=1000.0, round=0),
            sample("grpc-on-2-cores", 64, per_s=1900.0, round=0),
        )
    )
    met = {(row.what, row.case, row.callers): row.met for row in evaluate(summary)}
    assert met["CPU / raw", "grpc", 8] is True
    assert met["CPU / raw", "grpc", 32] is False
    assert met["gateway latency at p50", "grpc", 1] is True
    two = "speedup of 2 workers"
    assert met[two, "grpc-on-2-cores / grpc-on-1-core", None] is True
    assert met[two, "rest-on-2-cores / rest-on-1-core", None] is None
    assert met["RSS per worker", "grpc", None] is False
    assert met["cold start", "grpc", None] is True
    assert met["cold start", "rest", None] is None


def test_a_gain_is_of_the_same_round() -> None:
    """The machine was twice as fast in the second: its gain is no larger for that."""
    samples = [
        sample("rest-on-1-core", 32, per_s=1000.0, round=0, busiest_worker=None),
        sample("rest-on-2-cores", 64, per_s=1900.0, round=0, busiest_worker=0.5),
        sample("rest-on-1-core", 32, per_s=2000.0, round=1, busiest_worker=None),
        sample("rest-on-2-cores", 64, per_s=3600.0, round=1, busiest_worker=0.7),
        sample("rest-on-2-cores", 64, per_s=9000.0, round=2, problem="3 of 9 requests failed"),
    ]
    for one in samples:
        one |= {"server_cpu_ms": 0.3, "client_cpu_ms": 0.2}
    measured = document(*samples)
    raw = {"round": 0, "batch": 16, "cpu_ms": 0.1}
    measured["raw_on_cores"] = [
        raw | {"cores": 1, "per_s": 9000.0},
        raw | {"cores": 2, "per_s": 17100.0},
    ]
    summary = summarise(measured)
    alone, rest = summary["scaling"]
    assert (alone["name"], alone["gain"]) == ("raw, batches of 16", Spread(1.9, 1.9, 1.9))
    assert (rest["name"], rest["callers_per_core"]) == ("rest", 32)
    assert rest["gain"] == Spread(1.85, 1.8, 1.9)
    (table,) = (one for one in tables(summary, []) if one.title.startswith("Scaling"))
    assert table.rows[1][:5] == ("rest", "32", "1,500 ±33%", "2,750 ±31%", "1.85 ±3%")
    assert table.rows[1][-1] == "60%"
    # What of the cores was had: 0.1 ms 9,000 times a second.
    assert alone["one"]["cores_used"] == Spread(0.9, 0.9, 0.9)
    assert rest["two"]["cores_used"] == Spread(0.5 * 2.75, 0.5 * 1.9, 0.5 * 3.6)


def peer(name: str, form: Form, null: bool = False) -> dict[str, Any]:
    return {"name": name, "url": "http://h", "form": form, "null": null}


PEERS = (
    peer("grpcio", Form.V2_GRPC),
    peer("mlserver-grpc", Form.V2_GRPC),
    peer("null-grpcio", Form.V2_GRPC, null=True),
    peer("mosec", Form.V1),
    peer("mosec-32", Form.V1),
    peer("kserve-rest", Form.V1),
    peer("file", Form.RECORDED),
)


def test_peers_of_the_run_are_compared_with_ours() -> None:
    measured = document(
        sample("grpc", 8, per_s=1.0),
        sample("grpc-v2", 8, per_s=4000.0),
        sample("grpcio", 8, per_s=2500.0),
        sample("null-grpcio", 8, per_s=9000.0),
        sample("rest-post", 32, per_s=3000.0),
        sample("mosec", 32, per_s=1000.0),
        sample("mosec-32", 32, per_s=2000.0),
        sample("kserve-rest", 32, per_s=2000.0, problem="1 of 9 requests failed"),
        sample("file", 32),
        peers=PEERS,
    )
    summary = summarise(measured)
    rows = [row for row in evaluate(summary) if row.what == "throughput ratio to best peer"]
    assert [(row.case, row.callers, row.measured, row.met) for row in rows] == [
        ("grpc-v2 / grpcio", 8, 1.6, True),
        ("rest-post / kserve-rest", 32, None, None),
        ("rest-post / mosec-32", 32, 1.5, True),
    ]
    (table,) = (t for t in tables(summary, []) if t.title.startswith("Throughput divided by"))
    assert table.rows == (
        ("grpc-v2", "grpcio", "8", "4,000", "2,500", "1.60"),
        ("rest-post", "mosec", "32", "3,000", "1,000", "3.00"),
        ("rest-post", "mosec-32", "32", "3,000", "2,000", "1.50"),
    )


def test_a_peer_without_a_model_is_compared_with_our_server_without_one() -> None:
    cases = (sample("null-grpc-v2", 8, per_s=9000.0), sample("null-grpcio", 8, per_s=3000.0))
    (line,) = summarise(document(*cases, sample("grpc-v2", 8), peers=PEERS))["compared"]
    assert (line["case"], line["peer"], line["gain"].median) == ("null-grpc-v2", "null-grpcio", 3.0)


def test_the_ratio_to_a_peer_is_of_the_same_round() -> None:
    """The machine was twice as fast in the second; ours alone was measured in the third."""
    samples = [
        sample("grpc-v2", 8, per_s=per_s, round=number)
        for number, per_s in enumerate((2000.0, 4000.0, 9000.0))
    ]
    samples += [
        sample("grpcio", 8, per_s=per_s, round=number)
        for number, per_s in enumerate((1000.0, 1600.0))
    ]
    (line,) = summarise(document(*samples, peers=PEERS))["compared"]
    assert line["gain"] == Spread(2.25, 2.0, 2.5)


def test_the_best_peer_is_not_known_while_one_has_failed() -> None:
    failed = sample("mosec-32", 32, per_s=1.0, problem="1 of 9 requests failed")
    cases = (sample("rest-post", 32), sample("mosec", 32, per_s=100.0), failed)
    summary = summarise(document(*cases, peers=PEERS))
    (row,) = (row for row in evaluate(summary) if "best peer" in row.what)
    assert (row.case, row.measured) == ("rest-post / mosec", None)


def test_a_busy_client_is_reported() -> None:
    summary = summarise(document(sample("grpc", 8, client_busy=0.97)))
    assert any("generator CPU utilization is 97%" in text for text in remarks(summary))


def test_markdown_has_the_same_columns_in_every_row() -> None:
    summary = summarise(document(sample("grpc", 8), sample("grpc", 8, per_s=2000.0)))
    text = markdown(tables(summary, evaluate(summary)))
    assert "| grpc | 8 | 1,500 ±33% | 0.300 | 1.50 |" in text
    for block in text.split("\n\n"):
        rows = [line for line in block.splitlines() if line.startswith("|")]
        assert len({line.count("|") for line in rows}) <= 1
