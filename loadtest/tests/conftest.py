"""Stub servers, as processes of their own, load tests against them, and runs made by hand."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import requests

from loadtest.attribution import Row
from loadtest.run_folder import RunFolder
from loadtest.series import Series

STUBS = Path(__file__).parent / "stubs"
KEYS = {
    "SELDON_JS_KEY": "js-key",
    "SELDON_OAUTH_KEY": "all-key",
    "SELDON_OAUTH_SECRET": "all-secret",
}


SETTINGS = {
    "test_type": "js-predict",
    "users": 50,
    "hatch_rate": 5.0,
    "wait_ms": [900.0, 1100.0],
    "duration_s": 10.0,
    "warmup_s": 5.0,
    "payload": "digits",
    "connections": "kept",
    "seed": 1,
    "processes": 1,
    "endpoint": "127.0.0.1:8080",
    "command": "launch-locust-load-test --seldon-client c",
    "interrupted": False,
}
LATENCIES_US = (1000.0, 2000.0, 3000.0, 4000.0)
# Of the client's time.
SHARES = {
    "client": 1.0,
    "gateway": 0.125,
    "upstream": 0.625,
    "server_total": 0.5,
    "server_queue": 0.1,
    "server_compute": 0.25,
}


@dataclass
class Stub:
    """One running stub."""

    process: subprocess.Popen[str]
    port: int
    counts_port: int

    def counts(self) -> dict[str, int]:
        return requests.get(f"http://127.0.0.1:{self.counts_port}/counts", timeout=5).json()


@dataclass
class QueueStub(Stub):
    """A running queue_stub: `port` is that of HTTP."""

    grpc_port: int

    def visits(self) -> list[dict[str, Any]]:
        """Every request's times in the order of arrival, see queue_stub.Visit."""
        return requests.get(f"http://127.0.0.1:{self.port}/visits", timeout=5).json()


@dataclass
class Launched:
    """A finished launch-locust-load-test."""

    status: int
    out: str
    err: str
    results: Path
    summary: dict[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return (self.results / "latest").resolve()


@pytest.fixture
def start_stub() -> Iterator[Callable[..., Stub]]:
    """Start `http_stub` or `grpc_stub` in a mode; all end with the test."""
    started: list[subprocess.Popen[str]] = []

    def start(name: str, mode: str = "right", delay_s: float = 0.0) -> Stub:
        process = subprocess.Popen(
            [sys.executable, str(STUBS / f"{name}.py"), "--mode", mode, "--delay", str(delay_s)],
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout is not None
        ports = [int(port) for port in process.stdout.readline().split()]
        return Stub(process, ports[0], ports[-1])

    yield start
    for process in started:
        process.kill()
    for process in started:
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


@pytest.fixture
def start_queue() -> Iterator[Callable[..., QueueStub]]:
    """Start `queue_stub` with its own options; all end with the test."""
    started: list[subprocess.Popen[str]] = []

    def start(*options: str) -> QueueStub:
        process = subprocess.Popen(
            [sys.executable, str(STUBS / "queue_stub.py"), *options],
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout is not None
        http_port, grpc_port = (int(port) for port in process.stdout.readline().split())
        return QueueStub(process, http_port, http_port, grpc_port)

    yield start
    for process in started:
        process.kill()  # a stopped one as well
    for process in started:
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


@pytest.fixture
def begin_launch(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start launch-locust-load-test in a folder of its own, away from any model."""
    begun: list[subprocess.Popen[str]] = []

    def begin(
        name: str, *options: str, keys: Mapping[str, str] = KEYS, host: int = 1, grpc: int = 1
    ) -> subprocess.Popen[str]:
        folder = tmp_path / name
        folder.mkdir()
        environment = {
            variable: value
            for variable, value in os.environ.items()
            if not variable.startswith(("LOADTEST_", "SELDON_", "LOCUST_"))
        }
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "loadtest.cli", "--seldon-client", "a-client"),
                *("--host", f"http://127.0.0.1:{host}"),
                *("--seldon-grpc-endpoint", f"127.0.0.1:{grpc}"),
                *("--locust-clients", "8", "--locust-hatch-rate", "100"),
                *("--warmup", "0.5", "--wait", "10-20", *options),
            ],
            cwd=folder,
            env={**environment, **keys},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        begun.append(process)
        return process

    yield begin
    for process in begun:
        if process.poll() is None:
            process.kill()
            process.communicate()


@pytest.fixture
def finish_launch(tmp_path: Path) -> Callable[[str, "subprocess.Popen[str]"], Launched]:
    """Wait for a launch and read what it has left."""

    def finish(name: str, process: "subprocess.Popen[str]") -> Launched:
        out, err = process.communicate(timeout=60)
        launched = Launched(process.returncode, out, err, tmp_path / name / "results")
        summary = launched.folder / "summary.json"
        if summary.exists():
            launched.summary = json.loads(summary.read_text())
        return launched

    return finish


@pytest.fixture
def launch(
    begin_launch: Callable[..., "subprocess.Popen[str]"],
    finish_launch: Callable[..., Launched],
) -> Callable[..., Launched]:
    """Start and wait."""

    def run(name: str, *options: str, **more: Any) -> Launched:
        return finish_launch(name, begin_launch(name, *options, **more))

    return run


@pytest.fixture(scope="session")
def raw_result() -> Callable[..., dict[str, Any]]:
    """What a load generator writes that measured these latencies; `changes` replace its fields."""

    def make(
        protocol: str = "rest", latencies_us: Sequence[float] = LATENCIES_US, **changes: Any
    ) -> dict[str, Any]:
        series = {name: Series() for name in SHARES}
        for name, share in SHARES.items():
            for us in latencies_us:
                series[name].record(us * share)
        count = len(latencies_us)
        rows = [
            Row(us, 0.0, 0.125 * us, 0.625 * us, 0.5 * us, 0.1 * us, 0.25 * us)
            for us in latencies_us
        ]
        return {
            "process": "locust",
            "protocol": protocol,
            "measured_s": 10.0,
            "started": "2026-01-02T03:04:05.000+00:00",
            "requests": count,
            "warm_up_requests": 7,
            "failures": {},
            "digits": {"scored": count, "correct": count, "expected_correct": count},
            "cpu_s": 2.5,
            "cpu_over_s": 10.0,
            "series": {name: one.encode() for name, one in series.items()},
            "rows": rows,
            "rows_of": count,
            **changes,
        }

    return make


@pytest.fixture
def make_run(tmp_path: Path, make_run_in: Callable[..., Path]) -> Callable[..., Path]:
    """Write a run's folder: one load generator with these latencies and changes, or `raw`."""
    return partial(make_run_in, tmp_path / "runs")


@pytest.fixture(scope="session")
def make_run_in(raw_result: Callable[..., dict[str, Any]]) -> Callable[..., Path]:
    """The same, below a folder of the caller's."""

    def make(
        runs: Path,
        protocol: str = "rest",
        latencies_us: Sequence[float] = LATENCIES_US,
        *,
        settings: Mapping[str, Any] | None = None,
        raw: Sequence[Mapping[str, Any]] | None = None,
        **changes: Any,
    ) -> Path:
        folder = RunFolder.create(runs, protocol)
        folder.write_settings({"protocol": protocol, **SETTINGS, **(settings or {})})
        results = [raw_result(protocol, latencies_us, **changes)] if raw is None else raw
        for number, result in enumerate(results):
            folder.write_raw(f"worker-{number}", result)
        return folder.path

    return make
