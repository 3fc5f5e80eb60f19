"""Load tests of a server whose behaviour is known: the figures are those of the arithmetic."""

import json
import signal
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from queue_simulation import departures, mean_latency, percentile

from loadtest import arrivals
from polling import eventually

pytestmark = pytest.mark.truth

PROTOCOLS = {"rest": "js-predict", "grpc": "grpc-predict"}
WARM_UP_S = 0.5  # of every launch


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_queue_is_measured_as_it_is(protocol: str, launch: Any, start_queue: Any) -> None:
    service_s, rate, seconds = 0.02, 40.0, 20.0
    stub = start_queue("--service-ms", str(service_s * 1000))
    done = launch(
        protocol,
        *("--test-type", PROTOCOLS[protocol], "--seed", "4"),
        *("--rate", str(rate), "--duration", str(seconds)),
        host=stub.port,
        grpc=stub.grpc_port,
    )
    due = arrivals.schedule("poisson", rate, WARM_UP_S + seconds, 4)
    asked, *visits = stub.visits()  # first, whether anybody answers
    assert len(visits) == len(due)
    assert asked["answered"] < visits[0]["arrived"] - 0.1
    # When the queue took each request in and answered it, from when it was due. A machine that
    # is at work elsewhere delays both; the least delay of all is what a request takes at best.
    begun = min(visit["arrived"] - at for visit, at in zip(visits, due, strict=True))
    left = np.array([visit["answered"] for visit in visits]) - begun
    true_ms = (left - due)[due >= WARM_UP_S] * 1000
    found = done.summary["latency_ms"]["client"]
    assert found["count"] == len(true_ms)
    assert found["mean"] == pytest.approx(true_ms.mean(), rel=0.1)
    for name, percent in (("p50", 50), ("p90", 90), ("p99", 99)):
        assert found[name] == pytest.approx(percentile(true_ms, percent), rel=0.1)
    # That is the queue of the schedule, and a draw of Pollaczek's and Khinchine's.
    scheduled_ms = (departures(due, np.full(len(due), service_s)) - due)[due >= WARM_UP_S] * 1000
    assert true_ms.mean() == pytest.approx(scheduled_ms.mean(), rel=0.5)
    theory_ms = mean_latency(rate, service_s) * 1000
    assert scheduled_ms.mean() == pytest.approx(theory_ms, rel=0.5)


def stopped_for(
    seconds: float, begin_launch: Any, finish_launch: Any, stub: Any, name: str, *options: str
) -> dict[str, Any]:
    """The client's latencies of a run in whose midst the server stands still."""
    process = begin_launch(name, *options, host=stub.port, grpc=stub.grpc_port)
    # Once it measures: the stub has seen a second's requests.
    eventually(lambda: len(stub.visits()) >= 200)
    stub.process.send_signal(signal.SIGSTOP)
    time.sleep(seconds)
    stub.process.send_signal(signal.SIGCONT)
    done = finish_launch(name, process)
    assert done.summary["failures"] == 0, done.err
    return done.summary["latency_ms"]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_stall_is_in_the_open_loops_p99_and_not_in_the_closed_loops(
    protocol: str, start_queue: Callable[..., Any], begin_launch: Any, finish_launch: Any
) -> None:
    stall_s, seconds = 1.0, 10.0
    common = ("--test-type", PROTOCOLS[protocol], "--duration", str(seconds))
    stub = start_queue("--service-ms", "1", "--servers", "4")
    opened = stopped_for(
        stall_s, begin_launch, finish_launch, stub, "open", *common, "--rate", "100"
    )
    # The hundredth part of ten seconds lies above it, and the stall's arrivals are the slowest.
    expected_ms = (stall_s - 0.01 * seconds) * 1000
    # The hundred that have piled up are worked off after it: in 0.1 s, or 0.3 on a slow machine.
    assert 0.9 * expected_ms <= opened["client"]["p99"] <= expected_ms + 300
    assert 0.9 * stall_s * 1000 <= opened["client"]["max"] <= stall_s * 1000 + 400
    # 5 users of about 95 requests a second: five of a thousand requests meet the stall.
    stub = start_queue("--service-ms", "1", "--servers", "4")
    users = ("--locust-clients", "5", "--wait", "50")
    closed = stopped_for(stall_s, begin_launch, finish_launch, stub, "closed", *common, *users)
    assert closed["client"]["p99"] < 100
    assert closed["client"]["max"] == pytest.approx(stall_s * 1000, rel=0.15)


def test_four_workers_and_one_agree(launch: Any, start_queue: Any) -> None:
    summaries = {}
    for workers in (1, 4):
        stub = start_queue("--service-ms", "10", "--servers", "2")
        done = launch(
            f"workers-{workers}",
            *("--test-type", "js-predict", "--rate", "100", "--duration", "8"),
            *("--locust-slaves", str(workers)),
            host=stub.port,
        )
        summaries[workers] = done.summary
        raw = [json.loads(path.read_text()) for path in sorted((done.folder / "raw").iterdir())]
        assert len(raw) == workers
    one, four = summaries[1], summaries[4]
    # The very same schedule, split.
    assert one["requests"] == four["requests"]
    for name in ("mean", "p50", "p90"):
        assert four["latency_ms"]["client"][name] == pytest.approx(
            one["latency_ms"]["client"][name], rel=0.15
        )
