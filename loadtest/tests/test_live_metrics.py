"""What a load test reports while it runs, read over HTTP as Prometheus reads it."""

import socket
from typing import Any

import numpy as np
import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from loadtest import live_metrics
from loadtest.series import Series
from loadtest.settings import LoadTestSettings
from monitoring.histograms import quantile
from monitoring.metrics import DURATION_BUCKETS
from polling import eventually
from ports import free_ports


@pytest.fixture
def bind() -> str:
    return f"127.0.0.1:{free_ports(1)[0]}"


def read(bind: str) -> dict[tuple[str, str], float]:
    """Values by name and by protocol with the other label."""
    found = {}
    text = requests.get(f"http://{bind}/metrics", timeout=5).text
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            protocol, *others = sorted(
                sample.labels.items(), key=lambda item: item[0] != "protocol"
            )
            found[sample.name, "/".join(value for _, value in (protocol, *others))] = sample.value
    return found


@pytest.mark.stack
def test_while_a_run_goes_on_its_requests_are_there(
    bind: str, start_queue: Any, begin_launch: Any, finish_launch: Any
) -> None:
    stub = start_queue("--service-ms", "5", "--servers", "4")
    process = begin_launch(
        "run",
        *("--test-type", "js-predict", "--rate", "50", "--duration", "6"),
        *("--metrics-bind", bind, "--locust-slaves", "2"),
        host=stub.port,
    )
    count = ("loadtest_request_duration_seconds_count", "rest")
    last: dict[tuple[str, str], float] = {}

    def counted() -> float:
        now = read(bind)
        assert now.get(count, 0) >= last.get(count, 0)  # a counter never goes back
        last.update(now)
        return last.get(count, 0)

    eventually(lambda: counted() >= 150, within_s=60, ignored=requests.ConnectionError)
    done = finish_launch("run", process)
    with pytest.raises(requests.ConnectionError):
        read(bind)
    assert last["loadtest_requests_total", "rest/success"] == last[count]
    assert last["loadtest_requests_total", "rest/failure"] == 0
    assert last["loadtest_offered_per_second", "rest"] == 50
    assert last["loadtest_running", "rest/measuring"] == 2
    assert 0 < last["loadtest_generator_busy_ratio", "rest"] < 1
    assert last["loadtest_part_seconds_total", "rest/server_compute"] > 0.1
    buckets = {
        key[1].removeprefix("rest/"): value
        for key, value in last.items()
        if key[0] == "loadtest_request_duration_seconds_bucket"
    }
    p50 = quantile(buckets, 0.5)
    assert p50 is not None
    assert p50.s * 1000 == pytest.approx(done.summary["latency_ms"]["client"]["p50"], rel=0.2)


def test_the_buckets_are_the_servers_and_hold_everything() -> None:
    series = Series()
    for us in np.random.default_rng(1).lognormal(7, 2, 5000):
        series.record(float(us))
    series.record(60e6)  # beyond the last bound
    found = live_metrics.buckets(series)
    assert [bound for bound, _ in found] == [*map(str, DURATION_BUCKETS), "+Inf"]
    counts = [count for _, count in found]
    assert counts == sorted(counts)
    assert counts[-1] == 5001
    assert counts[-2] == 5000


def test_a_port_that_is_taken_is_no_reason_to_stop(bind: str) -> None:
    host, _, port = bind.partition(":")
    notes: list[str] = []
    settings = LoadTestSettings("c", "js-predict", metrics_bind=bind)
    with socket.socket() as other:
        other.bind((host, int(port)))
        other.listen()
        with live_metrics.served([settings], list, notes.append):
            pass
    (note,) = notes
    assert note.startswith(f"--metrics-bind {bind} is not available, ")
