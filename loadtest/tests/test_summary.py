import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loadtest import summary
from loadtest.run_folder import ResultUnreadable

MakeRun = Callable[..., Path]
RawResult = Callable[..., dict[str, Any]]


def test_figures_of_one_load_generator(make_run: MakeRun) -> None:
    folder = make_run("rest", [1000.0, 2000.0, 3000.0, 6000.0])
    figures = summary.summarise(folder)
    assert figures["valid"]
    assert figures["invalid_because"] == figures["warnings"] == []
    assert figures["requests"] == 4
    assert figures["requests_per_s"] == 0.4
    assert figures["warm_up_requests"] == 7
    assert figures["failures"] == 0
    assert figures["client_cpu"] == {"cores_used": 0.25, "busiest_share_of_a_core": 0.25}
    assert figures["digits"]["accuracy"] == figures["digits"]["expected_accuracy"] == 1.0
    client = figures["latency_ms"]["client"]
    assert list(client) == [
        *("count", "mean", "p50", "p66", "p75", "p80", "p90", "p95", "p98", "p99", "p99.9", "max"),
    ]
    assert client["mean"] == 3.0
    assert client["p50"] == 2.0
    assert client["p75"] == pytest.approx(3.0, rel=1e-3)
    assert client["p99.9"] == client["max"] == 6.0
    assert figures["latency_ms"]["server_total"]["mean"] == 1.5
    assert figures["latency_ms"]["server_queue"]["mean"] == 0.3
    assert figures["latency_ms"]["server_compute"]["mean"] == 0.75


def test_load_generators_are_taken_together(make_run: MakeRun, raw_result: RawResult) -> None:
    folder = make_run(
        "grpc",
        settings={"processes": 2},
        raw=[
            raw_result("grpc", [1000.0] * 3, requests=4, failures={"UNAVAILABLE": 1}, cpu_s=5.0),
            raw_result(
                "grpc",
                [5000.0],
                requests=4,
                failures={"UNAVAILABLE": 1, "wrong shape": 2},
                measured_s=9.9,
            ),
        ],
    )
    figures = summary.summarise(folder)
    assert figures["valid"]
    assert figures["requests"] == 8
    assert figures["requests_per_s"] == 0.8
    assert figures["warm_up_requests"] == 14
    assert figures["failures"] == 4
    assert figures["failures_by_reason"] == {"UNAVAILABLE": 2, "wrong shape": 2}
    assert figures["latency_ms"]["client"]["mean"] == 2.0
    assert figures["latency_ms"]["client"]["max"] == 5.0
    assert figures["client_cpu"]["busiest_share_of_a_core"] == 0.5
    assert figures["warnings"] == [
        "4 of 8 requests failed; latencies are of successful requests only",
    ]


def test_no_request_is_invalid(make_run: MakeRun) -> None:
    nothing = make_run(raw=[])
    assert summary.summarise(nothing)["invalid_because"] == [
        "the number of load-generator results is 0, expected 1; see locust.log",
        "the number of measured requests is 0, expected 1 or more; measure longer",
    ]


def test_no_successful_request_is_invalid(make_run: MakeRun, raw_result: RawResult) -> None:
    failed = raw_result("rest", [], requests=3, failures={"HTTP 503": 3})
    folder = make_run(raw=[failed])
    figures = summary.summarise(folder)
    assert figures["invalid_because"] == [
        "the number of successful requests is 0, expected 1 or more; see the failures"
    ]
    assert figures["latency_ms"]["client"]["p99"] is None


def test_missing_load_generator_is_invalid(make_run: MakeRun) -> None:
    folder = make_run(settings={"processes": 2})
    figures = summary.summarise(folder)
    assert figures["invalid_because"] == [
        "the number of load-generator results is 1, expected 2; see locust.log"
    ]


@pytest.mark.parametrize(
    ("correct", "valid"), [(990, True), (985, True), (984, False), (995, True), (996, False)]
)
def test_accuracy_half_a_point_from_the_models_is_the_limit(
    make_run: MakeRun, correct: int, valid: bool
) -> None:
    folder = make_run(digits={"scored": 1000, "correct": correct, "expected_correct": 990.0})
    figures = summary.summarise(folder)
    assert figures["valid"] is valid
    if not valid:
        assert "expected 99.00 % within 0.5 points" in figures["invalid_because"][0]


def test_random_numbers_have_no_accuracy(make_run: MakeRun) -> None:
    folder = make_run(settings={"payload": "random"}, digits=None)
    figures = summary.summarise(folder)
    assert figures["digits"] is None
    assert figures["valid"]


def test_unknown_accuracy_of_the_model_is_not_judged(make_run: MakeRun) -> None:
    folder = make_run(digits={"scored": 4, "correct": 1, "expected_correct": None})
    figures = summary.summarise(folder)
    assert figures["valid"]
    assert figures["digits"]["expected_accuracy"] is None
    assert figures["warnings"] == ["expected accuracy is unknown; accuracy was not checked"]


def test_missing_times_of_server_and_gateway_are_reported(
    make_run: MakeRun, raw_result: RawResult
) -> None:
    nothing = raw_result("rest", [])["series"]
    raw = raw_result("rest", [1000.0])
    raw["series"] |= {"gateway": nothing["gateway"], "upstream": nothing["upstream"]}
    (told,) = summary.summarise(make_run(raw=[raw]))["warnings"]
    assert told.startswith("x-gateway-timing is missing")
    raw["series"] |= {name: one for name, one in nothing.items() if name.startswith("server")}
    folder = make_run(raw=[raw | {"rows": [], "rows_of": 0}])
    (told,) = summary.write_report(folder)["warnings"]
    assert told.startswith("Server-Timing is missing in all responses")
    assert "Server-Timing is missing" in (folder / "report.html").read_text(encoding="utf-8")


def test_failures_of_the_warm_up_are_reported(make_run: MakeRun) -> None:
    failed = {"error 42: full": 5, "timed out": 1}
    folder = make_run(warm_up_failures=failed, raw=None)
    figures = summary.summarise(folder)
    assert figures["warm_up_failures"] == failed
    assert figures["failures"] == 0
    (told,) = figures["warnings"]
    assert told == "6 of 7 warm-up requests failed; most frequent reason: error 42: full (5)"


def test_warnings(make_run: MakeRun, raw_result: RawResult) -> None:
    raw = raw_result("rest", [1000.0, 2000.0], measured_s=10.0)
    raw["series"]["server_total"] = raw_result("rest", [1000.0])["series"]["server_total"]
    folder = make_run(raw=[raw], settings={"interrupted": True, "duration_s": 60})
    assert summary.summarise(folder)["warnings"] == [
        "duration is 10.0 s, expected 60 s; the run was interrupted",
        "Server-Timing is missing in 1 of 2 responses; server latency excludes them",
    ]


def test_summarise_writes_nothing(make_run: MakeRun) -> None:
    folder = make_run()
    before = sorted(folder.rglob("*"))
    summary.summarise(folder)
    assert sorted(folder.rglob("*")) == before


def test_report_is_rebuilt_byte_for_byte_from_the_machine_it_was_made_on(
    make_run: MakeRun, tmp_path: Path
) -> None:
    folder = make_run()
    summary.write_report(folder)
    machine = json.loads((folder / "machine.json").read_text(encoding="utf-8"))
    machine["cpu"] = "another machine"
    (folder / "machine.json").write_text(json.dumps(machine), encoding="utf-8")
    written: dict[str, bytes] = {}
    for _ in range(2):
        for name in ("summary.json", "percentiles.png", "report.html"):
            (folder / name).unlink()
        summary.write_report(folder)
        files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
        assert written in ({}, files)
        written = files
    assert b"another machine" in written["summary.json"]
    assert b"another machine" in written["report.html"]
    assert written["percentiles.png"].startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "change",
    [
        {"series": {}},
        {"requests": "many"},
        {"failures": 3},
        {"digits": {"scored": 1}},
    ],
)
def test_altered_result_is_refused_by_name(make_run: MakeRun, change: dict[str, Any]) -> None:
    folder = make_run(**change)
    with pytest.raises(ResultUnreadable, match=folder.name):
        summary.summarise(folder)


def test_unknown_protocol_is_refused(make_run: MakeRun) -> None:
    folder = make_run(settings={"protocol": "smtp"})
    with pytest.raises(ResultUnreadable, match="smtp"):
        summary.summarise(folder)
