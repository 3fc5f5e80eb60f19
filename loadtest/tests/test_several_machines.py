"""Load generators that are not beside the master: they share nothing with it but a socket.

Each runs in a folder of its own and meets the master by Locust's messages alone, as on another
machine.
"""

import signal
import subprocess
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import psutil
import pytest

from polling import eventually
from ports import free_ports

pytestmark = pytest.mark.stack

LOST_WITHIN_S = 5.0
SLACK_S = 3.0  # for processes to end and the report to be written
MAX_LAG_MS = 1000.0  # far above that of a busy machine, which makes a run invalid
OPTIONS = ("--test-type", "js-predict", "--duration", "4", "--rate", "80")


@pytest.fixture
def address() -> str:
    return f"127.0.0.1:{free_ports(1)[0]}"


def locust_of(process: "subprocess.Popen[str]") -> psutil.Process:
    def started() -> list[psutil.Process]:
        children = psutil.Process(process.pid).children()
        return [child for child in children if "--worker" in child.cmdline()]

    return eventually(started, "a Locust process")[0]


@pytest.mark.parametrize("protocol", ["rest", "grpc"])
def test_two_load_generators_elsewhere_are_one_run(
    protocol: str, address: str, start_queue: Any, begin_launch: Any, finish_launch: Any
) -> None:
    stub = start_queue("--service-ms", "1", "--servers", "4")
    test_type = {"rest": "js-predict", "grpc": "grpc-predict"}[protocol]
    options = ("--test-type", test_type, *OPTIONS[2:], "--locust-slaves", "2")
    ports = {"host": stub.port, "grpc": stub.grpc_port}
    master = begin_launch("master", *options, "--bind", address, **ports)
    workers = [
        begin_launch(f"elsewhere-{n}", *options, "--worker-of", address, **ports) for n in range(2)
    ]
    done = finish_launch("master", master)
    for number, worker in enumerate(workers):
        part = finish_launch(f"elsewhere-{number}", worker)
        assert part.status == 0, part.err
        assert "load generator finished" in part.out
        assert not part.results.exists()
    figures = done.summary
    # On a machine that is busy with other work requests are sent late, and that is said.
    late = [reason for reason in figures["invalid_because"] if reason.startswith("dispatch lag")]
    assert figures["invalid_because"] == late
    assert len(late) <= 1
    assert figures["valid"] is not bool(late)
    assert done.status == len(late), done.err
    assert figures["latency_ms"]["lag"]["count"] == figures["requests"]
    assert figures["latency_ms"]["lag"]["p99"] < MAX_LAG_MS
    assert (figures["processes"], figures["failures"]) == (2, 0)
    # Every arrival of the schedule once, each by one of the two.
    assert figures["requests"] == figures["offered"]["arrivals"]
    measured = [one for one in stub.visits() if one["protocol"] == protocol]
    everything = figures["requests"] + figures["warm_up_requests"] + 3  # three first requests
    assert len(measured) == everything
    assert figures["latency_ms"]["server_every"]["count"] == everything - 3


def test_one_load_generator_elsewhere_is_a_run_that_ends(
    address: str, start_queue: Any, begin_launch: Any, finish_launch: Any
) -> None:
    stub = start_queue("--service-ms", "1")
    options = (*OPTIONS, "--locust-slaves", "1")
    master = begin_launch("master", *options, "--bind", address, host=stub.port)
    worker = begin_launch("elsewhere", *options, "--worker-of", address, host=stub.port)
    done = finish_launch("master", master)
    assert finish_launch("elsewhere", worker).status == 0
    assert (done.summary["processes"], done.summary["failures"]) == (1, 0)


def test_a_lost_load_generator_makes_the_run_invalid_at_once(
    address: str, start_queue: Any, begin_launch: Any, finish_launch: Any
) -> None:
    stub = start_queue("--service-ms", "1")
    options = ["--test-type", "js-predict", "--rate", "50", "--duration", "60"]
    options += ["--locust-slaves", "2"]
    master = begin_launch("master", *options, "--bind", address, host=stub.port)
    workers = [
        begin_launch(f"elsewhere-{n}", *options, "--worker-of", address, host=stub.port)
        for n in range(2)
    ]
    eventually(lambda: len(stub.visits()) >= 100, "100 requests")
    lost = locust_of(workers[0])
    lost.suspend()  # as a machine that has lost its network: it says nothing more
    begun = time.monotonic()
    done = finish_launch("master", master)
    took_s = time.monotonic() - begun
    lost.resume()
    assert done.status == 1
    assert "quit or stopped responding" in done.err
    assert not done.summary["valid"]
    assert "load-generator results is" in done.summary["invalid_because"][0]
    assert took_s < LOST_WITHIN_S + SLACK_S


def test_users_elsewhere_are_other_users(
    address: str, start_queue: Any, begin_launch: Any, finish_launch: Any
) -> None:
    stub = start_queue("--service-ms", "1", "--servers", "8")
    options = ["--test-type", "js-predict", "--duration", "4", "--wait", "200-400"]
    options += ["--locust-slaves", "2", "--locust-clients", "16"]
    master = begin_launch("master", *options, "--bind", address, host=stub.port)
    workers = [
        begin_launch(f"elsewhere-{n}", *options, "--worker-of", address, host=stub.port)
        for n in range(2)
    ]
    done = finish_launch("master", master)
    for number, worker in enumerate(workers):
        finish_launch(f"elsewhere-{number}", worker)
    assert done.summary["processes"] == 2, done.err
    arrived = np.sort([one["arrived"] for one in stub.visits()])
    gaps = np.diff(arrived[len(arrived) // 4 :])
    # In lockstep half of them would follow at once; independent ones come some 20 ms apart.
    assert np.mean(gaps < 0.003) < 0.35


def test_ctrl_c_keeps_what_was_measured_elsewhere(
    address: str, start_queue: Any, begin_launch: Any, finish_launch: Any
) -> None:
    stub = start_queue("--service-ms", "1")
    options = ("--test-type", "js-predict", "--rate", "50", "--duration", "60")
    master = begin_launch("master", *options, "--bind", address, host=stub.port)
    worker = begin_launch("elsewhere", *options, "--worker-of", address, host=stub.port)
    eventually(lambda: len(stub.visits()) >= 100, "100 requests")
    master.send_signal(signal.SIGINT)
    done = finish_launch("master", master)
    assert done.status == 130
    assert done.summary["settings"]["interrupted"] is True
    assert done.summary["requests"] >= 50
    assert finish_launch("elsewhere", worker).status == 0


def test_other_settings_elsewhere_are_refused(
    address: str, start_queue: Any, begin_launch: Callable[..., Any], finish_launch: Any
) -> None:
    stub = start_queue("--service-ms", "1")
    master = begin_launch(
        "master", *OPTIONS, "--bind", address, "--locust-slaves", "1", host=stub.port
    )
    begin_launch("elsewhere", *OPTIONS, "--seed", "2", "--worker-of", address, host=stub.port)
    done = finish_launch("master", master)
    assert done.status == 1
    assert "has unequal settings: seed is 2, expected 1" in done.err
