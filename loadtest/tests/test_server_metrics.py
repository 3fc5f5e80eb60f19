"""The servers' own counts: read from real metrics, over HTTP, and held against the answers'."""

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from wsgiref.simple_server import WSGIServer

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, generate_latest, start_http_server

from loadtest import server_metrics, summary
from loadtest.errors import SettingInvalid
from loadtest.run_folder import RunFolder
from loadtest.series import Series
from loadtest.server_metrics import Reading, Scrape
from loadtest.settings import LoadTestSettings
from monitoring.histograms import quantile
from monitoring.metrics import ServingMetrics

Serve = Callable[[CollectorRegistry], str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Serve a registry and return its address."""
    started: list[tuple[WSGIServer, threading.Thread]] = []

    def start(registry: CollectorRegistry) -> str:
        server, thread = start_http_server(0, "127.0.0.1", registry)
        started.append((server, thread))
        return f"127.0.0.1:{server.server_port}"

    yield start
    for server, thread in started:
        server.shutdown()
        server.server_close()
        thread.join()


def observed(metrics: ServingMetrics, seconds: float) -> None:
    metrics.observe("a-client", "a-variation", "200", seconds, 0.0, seconds / 2, 1)


def test_servers_of_one_protocol_are_added_up(serve: Serve, tmp_path: Path) -> None:
    addresses = []
    for protocol, times in (("rest", 3), ("rest", 4), ("grpc", 5)):
        registry = CollectorRegistry()
        metrics = ServingMetrics(registry, protocol, "m", "1")
        for _ in range(times):
            observed(metrics, 0.002)
        addresses.append(serve(registry))
    targets = [
        {"targets": addresses[:2], "labels": {"protocol": "rest"}},
        {"targets": addresses[2:], "labels": {"protocol": "grpc"}},
    ]
    file = tmp_path / "targets.json"
    file.write_text(json.dumps(targets))
    for protocol, count in (("rest", 7), ("grpc", 5)):
        pages = server_metrics.urls(str(file), protocol)
        found = server_metrics.scrape(pages, protocol)
        assert found.count == found.buckets["+Inf"] == count
        assert server_metrics.scrape(pages * 2, protocol).count == 2 * count
    given = ", ".join(f"http://{address}/metrics" for address in addresses)
    assert server_metrics.scrape(server_metrics.urls(given, "grpc"), "grpc").count == 5


def test_what_is_no_source_of_metrics_is_refused(tmp_path: Path) -> None:
    wrong = tmp_path / "targets.json"
    wrong.write_text('{"targets": 1}')
    for source in (str(wrong), str(tmp_path / "missing.json")):
        with pytest.raises(SettingInvalid, match="--server-metrics"):
            server_metrics.urls(source, "rest")
    with pytest.raises(OSError, match="refused"):
        server_metrics.scrape(["http://127.0.0.1:1/metrics"], "rest")


@pytest.mark.parametrize("median_ms", [0.5, 2, 20, 200])
def test_the_histograms_p99_is_within_five_per_cent(median_ms: float) -> None:
    registry = CollectorRegistry()
    metrics = ServingMetrics(registry, "rest", "m", "1")
    answers = Series()
    before = server_metrics.aggregate([generate_latest(registry).decode()], "rest")
    for ms in np.random.default_rng(1).lognormal(np.log(median_ms), 0.5, 20_000):
        observed(metrics, ms / 1000)
        answers.record(ms * 1000)
    after = server_metrics.aggregate([generate_latest(registry).decode()], "rest")
    found = server_metrics.figures(Reading(before, after), answers)
    assert found["count"] == found["answers"] == 20_000
    assert found["p99_ms"] == pytest.approx(found["answers_p99_ms"], rel=0.05)
    assert server_metrics.disagreements(found) == []


def test_a_quantile_beyond_the_last_bound_is_that_bound() -> None:
    found = quantile({"0.5": 1, "1.0": 2, "+Inf": 100}, 0.99)
    assert found is not None
    assert found.s == 1
    assert quantile({"1.0": 0, "+Inf": 0}, 0.5) is None
    half = quantile({"1.0": 0, "2.0": 10, "+Inf": 10}, 0.5)
    assert half == (1.5, (1.0, 2.0))


def test_disagreement_is_reported() -> None:
    answers = Series()
    for _ in range(10):
        answers.record(2000)
    three_ms = {"0.0025": 0.0, "0.003": 9.0, "+Inf": 9.0}
    none = dict.fromkeys(three_ms, 0.0)
    found = server_metrics.figures(
        Reading(Scrape(0, none, 1.0), Scrape(9, three_ms, 1.018)), answers
    )
    assert found["cpu_ms"] == 2
    count, p99 = server_metrics.disagreements(found)
    assert count.startswith("predictions are 9 by server metrics, expected the 10 of the responses")
    assert p99.startswith("server latency p99 is 2.995 ms by server metrics, expected the 2.000 ms")
    for cpu in (0.9, 1.0):
        again = Reading(Scrape(0, none, 50.0), Scrape(9, three_ms, cpu))
        assert server_metrics.figures(again, answers)["missing_because"] is not None
    restarted = server_metrics.figures(Reading(Scrape(9, three_ms), Scrape(0, none)), answers)
    assert server_metrics.disagreements(restarted) == [
        "server metrics are missing: a server restarted during the run"
    ]


def test_a_page_that_cannot_be_read_is_in_the_report(make_run: Callable[..., Path]) -> None:
    folder = make_run()
    RunFolder(folder).write_server_metrics(Reading(missing_because="nothing listens"))
    summary.write_report(folder)
    told = "server metrics are missing: nothing listens"
    assert summary.summarise(folder)["warnings"] == [told]
    assert told in (folder / "report.html").read_text(encoding="utf-8")


def test_the_stack_deployed_here_is_asked_and_no_other(tmp_path: Path) -> None:
    (tmp_path / "targets.json").write_text("[]")
    here = {"SELDON_HOME": str(tmp_path), "SELDON_REST_PORT": "18080"}
    given = {"client": "c", "test_type": "js-predict"}

    def source(**more: str) -> str | None:
        return LoadTestSettings.from_env(here, **given, **more).server_metrics

    assert source() == source(host="http://127.0.0.1:18080") == str(tmp_path / "targets.json")
    assert source(host="http://elsewhere:80") is None
    assert source(grpc_endpoint="elsewhere:5000") is None
    assert source(host="http://elsewhere:80", server_metrics="http://x/m") == "http://x/m"
