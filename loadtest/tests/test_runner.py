"""Real Locust against real servers that count: what is reported is what has happened."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from polling import eventually
from ports import free_ports

DELAY_S = 0.01
KEYS = {
    "SELDON_JS_KEY": "js-key",
    "SELDON_OAUTH_KEY": "all-key",
    "SELDON_OAUTH_SECRET": "all-secret",
}
TYPES = {"rest": ("js-predict", "http_stub"), "grpc": ("grpc-predict", "grpc_stub")}


def locusts_of(folder: Path) -> list[psutil.Process]:
    """The Locust processes whose run is below `folder`."""
    found = []
    for process in psutil.process_iter():
        try:
            ours = process.cwd().startswith(str(folder.resolve()))
            if ours and "locust" in process.cmdline():
                found.append(process)
        except psutil.Error:
            continue
    return found


def progress_says(results: Path, phase: str) -> bool:
    said = [json.loads(path.read_text()) for path in results.glob("*/progress/*.json")]
    return bool(said) and all(one["phase"] == phase for one in said)


@pytest.mark.parametrize(
    ("protocol", "workers"),
    [
        ("rest", 1),
        pytest.param("grpc", 1, marks=pytest.mark.stack),
        pytest.param("rest", 2, marks=pytest.mark.stack),
        pytest.param("grpc", 2, marks=pytest.mark.stack),
    ],
)
def test_the_report_agrees_with_the_server(
    protocol: str, workers: int, start_stub: Any, launch: Any, tmp_path: Path
) -> None:
    test_type, name = TYPES[protocol]
    http = start_stub("http_stub", delay_s=DELAY_S)
    stub = start_stub(name, delay_s=DELAY_S) if protocol == "grpc" else http
    model = tmp_path / "model"
    model.mkdir()
    (model / "model.json").write_text('{"accuracy": {"held_out": {"wrong": []}}}')
    done = launch(
        "run",
        *("--test-type", test_type, "--duration", "1.5", "--locust-slaves", str(workers)),
        *("--model-folder", str(model)),
        host=http.port,
        grpc=stub.port,
    )
    assert done.status == 0, done.err + done.out
    summary = done.summary
    assert summary["valid"]
    assert summary["failures"] == 0
    assert summary["requests"] > 50
    assert summary["processes"] == workers
    # Every request but the preflight's is in one of the two counts; a user may have decided to
    # send its last one before the window closed, and have sent it after.
    counted = summary["requests"] + summary["warm_up_requests"]
    assert 0 <= stub.counts()["requests"] - 1 - counted <= 1
    # Kept connections: one for each user, and the preflight's; the stub's own page is another.
    assert stub.counts()["connections"] <= 8 + 1 + 4
    latency = summary["latency_ms"]
    assert DELAY_S * 1000 <= latency["client"]["p50"] < 10 * DELAY_S * 1000
    assert latency["client"]["count"] == latency["server_total"]["count"] == summary["requests"]
    server = {name: latency[f"server_{name}"]["mean"] for name in ("queue", "compute", "total")}
    assert server == {"queue": 0.25, "compute": 1.5, "total": 2.0}
    digits = summary["digits"]
    assert digits["scored"] == digits["correct"] == digits["expected_correct"]
    assert digits["scored"] == summary["requests"]
    raw = [json.loads(path.read_text()) for path in sorted((done.folder / "raw").iterdir())]
    assert len(raw) == workers
    assert all(one["requests"] > 0 and one["cpu_s"] > 0 for one in raw)
    assert summary["settings"]["interrupted"] is False
    assert "results/" in done.out.splitlines()[-1]
    assert not (done.folder / "progress").exists()
    assert not locusts_of(tmp_path)
    for path in done.folder.rglob("*"):
        if path.is_file():
            text = path.read_bytes()
            assert not any(key in text for key in (b"js-key", b"all-key", b"all-secret", b"token-"))


@pytest.mark.stack
def test_the_benchmark_runs_both_and_compares(start_stub: Any, tmp_path: Path) -> None:
    rest, grpc = start_stub("http_stub", delay_s=0.03), start_stub("grpc_stub", delay_s=0.01)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "loadtest", "benchmark", "--client", "c"),
            *("--blocks", "2"),
            *("--host", f"http://127.0.0.1:{rest.port}"),
            *("--seldon-grpc-endpoint", f"127.0.0.1:{grpc.port}"),
            *("--locust-clients", "8", "--locust-hatch-rate", "100"),
            *("--duration", "1", "--warmup", "0.5", "--wait-ms", "10", "20"),
        ],
        cwd=tmp_path,
        env={**os.environ, **KEYS},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "results" / "latest"
    verdict = json.loads((folder / "summary.json").read_text())["verdicts"][0]
    assert verdict["slower"] == "rest"
    assert 100 < verdict["percent"] < 210
    assert verdict["unfair"] == []
    assert "Request latency (client side), ms" in done.stdout
    assert "Server latency, ms" in done.stdout
    assert verdict["sentence"] in done.stdout
    assert done.stdout.splitlines()[-1].endswith("-rest-vs-grpc/report.html")
    assert {path.name for path in folder.iterdir()} == {
        *("rest", "grpc", "sides.json", "summary.json"),
        *("percentiles.png", "summary.png", "report.html"),
    }


@pytest.mark.stack
def test_of_runs_that_share_the_servers_no_counts_are_read(start_stub: Any, tmp_path: Path) -> None:
    rest, grpc = start_stub("http_stub"), start_stub("grpc_stub")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "loadtest", "matrix", "--client", "c"),
            *("--blocks", "2", "--ways", "get,post,grpc"),
            *("--host", f"http://127.0.0.1:{rest.port}"),
            *("--seldon-grpc-endpoint", f"127.0.0.1:{grpc.port}"),
            *("--locust-clients", "2", "--locust-hatch-rate", "100"),
            *("--duration", "0.5", "--warmup", "0.5", "--wait-ms", "10", "20"),
            *("--server-metrics", "http://127.0.0.1:1/metrics"),
        ],
        cwd=tmp_path,
        env={**os.environ, **KEYS},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    runs = json.loads((tmp_path / "results" / "latest" / "summary.json").read_text())["runs"]
    assert runs["get"]["server_metrics"] is None
    assert runs["post"]["server_metrics"] is None
    assert "refused" in runs["grpc"]["server_metrics"]["missing_because"]


@pytest.mark.stack
def test_every_wrong_answer_is_a_failure(
    start_stub: Any, begin_launch: Any, finish_launch: Any
) -> None:
    reasons = {
        "rest": {
            "sum": "the predictions do not sum to 1",
            "puid": "the puid does not match the request",
            "status": "error 13: A generic error occurred",
            "close": "connection closed",
        },
        "grpc": {
            "sum": "the predictions do not sum to 1",
            "puid": "the puid does not match the request",
            "status": "INTERNAL",
        },
    }
    tokens = start_stub("http_stub")
    running = []
    for protocol, modes in reasons.items():
        test_type, name = TYPES[protocol]
        for mode, reason in modes.items():
            stub = start_stub(name, mode)
            host = stub if protocol == "rest" else tokens
            process = begin_launch(
                f"{protocol}-{mode}",
                *("--test-type", test_type, "--duration", "1"),
                host=host.port,
                grpc=stub.port,
            )
            running.append((f"{protocol}-{mode}", process, stub, reason))
    for name, process, stub, reason in running:
        done = finish_launch(name, process)
        assert done.status == 1, name
        summary = done.summary
        assert list(summary["failures_by_reason"]) == [reason], name
        assert 0 < summary["failures"] <= stub.counts()["spoiled"], name
        assert summary["failures"] == pytest.approx(summary["requests"] / 3, abs=10), name
        succeeded = summary["requests"] - summary["failures"]
        assert summary["latency_ms"]["client"]["count"] == succeeded, name
        assert reason in " ".join(done.out.split()), name


@pytest.mark.stack
def test_an_accuracy_off_the_models_makes_a_run_invalid(
    start_stub: Any, launch: Any, tmp_path: Path
) -> None:
    stub = start_stub("http_stub", "digit")
    (tmp_path / "model.json").write_text('{"accuracy": {"held_out": {"wrong": []}}}')
    done = launch(
        "run",
        *("--test-type", "js-predict", "--duration", "1", "--model-folder", str(tmp_path)),
        host=stub.port,
    )
    assert done.status == 1
    assert done.summary["failures"] == 0
    assert not done.summary["valid"]
    (reason,) = done.summary["invalid_because"]
    assert reason.startswith("accuracy is ")


@pytest.mark.stack
def test_the_originals_connections(start_stub: Any, begin_launch: Any, finish_launch: Any) -> None:
    http, grpc = start_stub("http_stub"), start_stub("grpc_stub")
    options = ("--connections", "per-call", "--duration", "1")
    running = {
        protocol: begin_launch(
            protocol, "--test-type", TYPES[protocol][0], *options, host=http.port, grpc=grpc.port
        )
        for protocol in TYPES
    }
    for protocol, stub in (("rest", http), ("grpc", grpc)):
        done = finish_launch(protocol, running[protocol])
        assert done.status == 0, done.err
        counts = stub.counts()
        # A port may come back within the test, so gRPC's peers are counted a little short.
        assert counts["connections"] >= 0.9 * counts["requests"], protocol
        assert "--connections per-call" in done.summary["settings"]["command"]


@pytest.mark.stack
def test_a_refused_token_is_renewed_within_the_request(start_stub: Any, launch: Any) -> None:
    # The preflight's token is the first; the load test's, the second, counts as expired.
    http, grpc = start_stub("http_stub"), start_stub("grpc_stub", "expired")
    done = launch(
        "run",
        *("--test-type", "grpc-predict", "--duration", "1"),
        host=http.port,
        grpc=grpc.port,
    )
    assert done.status == 0, done.err
    assert done.summary["failures"] == 0
    assert 1 <= grpc.counts()["refused"] <= 8
    assert http.counts()["tokens"] == 3


@pytest.mark.stack
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_keeps_what_was_measured(
    signum: int, start_stub: Any, begin_launch: Any, finish_launch: Any, tmp_path: Path
) -> None:
    stub = start_stub("http_stub")
    process = begin_launch(
        "run",
        *("--test-type", "js-predict", "--duration", "60", "--locust-slaves", "2"),
        host=stub.port,
    )
    eventually(lambda: progress_says(tmp_path / "run" / "results", "measuring"))
    time.sleep(0.5)  # some requests
    process.send_signal(signum)
    done = finish_launch("run", process)
    assert done.status == 130, done.err
    assert "interrupted" in done.err
    assert done.summary["settings"]["interrupted"] is True
    assert done.summary["requests"] > 0
    assert 0 < done.summary["measured_s"] < 20
    assert not locusts_of(tmp_path)


@pytest.mark.stack
@pytest.mark.parametrize(
    ("given", "has"),
    [({}, "-event_engine_client"), ({"GRPC_EXPERIMENTS": "tcp_rcv_lowat"}, "tcp_rcv_lowat")],
)
def test_a_load_generator_waits_on_the_socket_itself_unless_told_otherwise(
    given: dict[str, str],
    has: str,
    start_stub: Any,
    begin_launch: Any,
    finish_launch: Any,
    tmp_path: Path,
) -> None:
    http, grpc = start_stub("http_stub"), start_stub("grpc_stub")  # tokens are HTTP's
    process = begin_launch(
        "run",
        *("--test-type", "grpc-predict", "--duration", "60"),
        host=http.port,
        grpc=grpc.port,
        keys=KEYS | given,
    )
    eventually(lambda: progress_says(tmp_path / "run" / "results", "measuring"))
    (locust,) = locusts_of(tmp_path)
    assert locust.environ()["GRPC_EXPERIMENTS"] == has
    time.sleep(0.3)  # some requests
    process.send_signal(signal.SIGINT)
    done = finish_launch("run", process)
    assert done.summary["requests"] > 0
    assert done.summary["failures"] == 0


@pytest.mark.stack
def test_a_locust_process_that_dies_ends_the_run(
    start_stub: Any, begin_launch: Any, finish_launch: Any, tmp_path: Path
) -> None:
    stub = start_stub("http_stub")
    process = begin_launch(
        "run",
        *("--test-type", "js-predict", "--duration", "60", "--locust-slaves", "2"),
        host=stub.port,
    )
    eventually(lambda: progress_says(tmp_path / "run" / "results", "measuring"))
    worker = next(one for one in locusts_of(tmp_path) if "--worker" in one.cmdline())
    worker.kill()
    done = finish_launch("run", process)
    assert done.status == 1
    assert "exited on signal 9 before the end of the test; last lines of locust.log:" in done.err
    # What the other one has measured is kept, and is no result.
    assert not done.summary["valid"]
    assert "load-generator results is 1, expected 2" in done.summary["invalid_because"][0]
    assert not locusts_of(tmp_path)


@pytest.mark.stack
@pytest.mark.parametrize(("load", "workers"), [("--wait=10-20", 1), ("--rate=40", 2)])
def test_locusts_own_page_shows_the_run(
    load: str, workers: int, start_stub: Any, begin_launch: Any, finish_launch: Any, tmp_path: Path
) -> None:
    stub = start_stub("http_stub")
    (port,) = free_ports(1)
    process = begin_launch(
        "run",
        *("--test-type", "js-predict", "--duration", "6", "--web-port", str(port), load),
        *("--locust-slaves", str(workers)),
        host=stub.port,
    )
    eventually(lambda: progress_says(tmp_path / "run" / "results", "measuring"))

    def shown() -> dict[str, Any] | None:
        stats = requests.get(f"http://127.0.0.1:{port}/stats/requests", timeout=5).json()
        named = {one["name"]: one for one in stats["stats"]}
        return named.get("/js/predict")

    page = eventually(shown)
    assert page["num_requests"] > 0
    assert page["num_failures"] == 0
    assert "<title>Locust" in requests.get(f"http://127.0.0.1:{port}/", timeout=5).text
    done = finish_launch("run", process)
    assert done.summary["requests"] >= page["num_requests"] - done.summary["warm_up_requests"]
    assert not locusts_of(tmp_path)


@pytest.mark.stack
def test_no_locust_process_outlives_a_killed_parent(
    start_stub: Any, begin_launch: Any, tmp_path: Path
) -> None:
    stub = start_stub("http_stub")
    process: subprocess.Popen[str] = begin_launch(
        "run",
        *("--test-type", "js-predict", "--duration", "60", "--locust-slaves", "2"),
        host=stub.port,
    )
    eventually(lambda: len(locusts_of(tmp_path)) == 3)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    eventually(lambda: not locusts_of(tmp_path))
