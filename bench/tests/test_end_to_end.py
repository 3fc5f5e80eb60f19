"""The benchmark as a person runs it, as short as can be."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from bench.__main__ import INTERRUPTED, engine_of
from bench.errors import BenchError
from deploy import stack_processes
from polling import eventually
from ports import free_ports
from serving_core.digits import held_out

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "models/deep_mnist/1"


def start(output: Path, *words: str, **environment: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "bench", "--output", str(output), "--callers", "2", *words]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def result_in(output: Path) -> dict[str, Any]:
    (file,) = output.glob("*-bench.json")
    return dict(json.loads(file.read_text()))


@pytest.mark.stack
def test_a_short_run(tmp_path: Path) -> None:
    words = ("--rounds", "1", "--seconds", "1", "--cases", "grpc-gateway,null-rest-post")
    bench = start(tmp_path, *words)
    printed, progress = bench.communicate(timeout=100)
    assert bench.returncode == 0, progress
    result = result_in(tmp_path)
    assert "incomplete" not in result
    figures = {case["case"]: case for case in result["summary"]["cases"]}
    assert set(figures) == {"grpc-gateway", "null-rest-post"}
    for case in figures.values():
        assert case["valid"]
        assert case["per_s"]["median"] > 0
        assert case["ratio"]["median"] > 0
        assert sum(case["by_batch"].values()) > 0
    assert figures["grpc-gateway"]["gateway_cpu_ms"]["median"] > 0
    assert figures["null-rest-post"]["gateway_cpu_ms"] is None
    for server in ("grpc", "null-rest"):
        assert result["summary"]["servers"][server]["cold_start_s"]["median"] > 0
        assert result["summary"]["servers"][server]["rss_mb"]["median"] > 10
    assert {row["batch"] for row in result["raw"]} == {1, 2, 4, 8, 16, 32}
    assert result["settings"]["engine"] == "litert"
    real = figures["grpc-gateway"]
    assert real["model_ms"]["median"] > 0
    assert figures["null-rest-post"]["model_ms"] is None
    assert result["machine"]["cpu"]
    assert "[2/2]" in progress
    (table,) = tmp_path.glob("*-bench.md")
    for text in (printed, table.read_text()):
        assert "raw-1" in text
        assert "null-rest-post" in text
        assert "≤ 1.35" in text


@pytest.mark.tensorflow
def test_the_second_engine(tmp_path: Path) -> None:
    words = ("--rounds", "1", "--seconds", "1", "--cases", "rest-post,null-grpc")
    bench = start(tmp_path, *words, "--engine", "tensorflow")
    printed, progress = bench.communicate(timeout=100)
    assert bench.returncode == 0, progress
    assert "models/deep_mnist/1 with TensorFlow" in printed
    result = result_in(tmp_path)
    assert result["settings"]["engine"] == "tensorflow"
    assert result["machine"]["packages"]["tensorflow-cpu"]
    servers = result["summary"]["servers"]
    # Only what has loaded TensorFlow takes so much.
    assert servers["rest"]["rss_mb"]["median"] > 250 > servers["null-grpc"]["rss_mb"]["median"]


@pytest.mark.stack
def test_one_core_and_two(tmp_path: Path) -> None:
    names = [f"null-grpc-on-{cores}" for cores in ("1-core", "2-cores")]
    words = ("--rounds", "1", "--seconds", "1", "--cases", ",".join(names))
    bench = start(tmp_path, *words)
    printed, progress = bench.communicate(timeout=100)
    assert bench.returncode == 0, progress
    assert "Scaling from 1 core to 2" in printed
    summary = result_in(tmp_path)["summary"]
    raw_alone, raw_batches, null = summary["scaling"]
    assert (raw_alone["name"], raw_batches["name"]) == ("raw, batches of 1", "raw, batches of 16")
    assert (null["name"], null["callers_per_core"]) == ("null-grpc", 32)
    for line in summary["scaling"]:
        for cores in ("one", "two"):
            assert line[cores]["per_s"]["median"] > 0
            assert line[cores][line["cost"]]["median"] > 0
        assert line["gain"]["median"] > 0
    assert 0.5 <= null["two"]["busiest_worker"]["median"] <= 1
    assert [case["callers"] for case in summary["cases"]] == [32, 64]


@pytest.mark.stack
def test_the_gateways_threads(tmp_path: Path) -> None:
    words = ("--rounds", "1", "--seconds", "1", "--cases", "gateway-grpc-on-2-cores")
    bench = start(tmp_path, *words)
    _, progress = bench.communicate(timeout=100)
    assert bench.returncode == 0, progress
    result = result_in(tmp_path)
    for case in result["summary"]["cases"]:
        assert case["gateway_cpu_ms"]["median"] > 0
        assert case["server_cpu_ms"] is None
        assert case["ratio"] is None
        # One thread of one would have done all.
        assert 0.5 <= case["busiest_worker"]["median"] < 1
    assert [case["callers"] for case in result["summary"]["cases"]] == [16, 64]
    assert all(sample["upstream_cpu_ms"] > 0 for sample in result["samples"])


@pytest.mark.stack
def test_other_servers_and_our_own_generator(tmp_path: Path) -> None:
    """The other server is our own with a recorded request; one more cannot be started."""
    (port, nobody) = free_ports(2)
    body = tmp_path / "body.json"
    body.write_text(json.dumps({"data": held_out().images[0].tolist()}))
    serve = f"{sys.executable} -m serving_rest"
    settings = f"MODEL_FOLDER={ROOT / 'models/deep_mnist/1'} REST_WORKERS=1 REST_PORT={port}"
    peers = [
        {
            "name": "other",
            "command": f"env {settings} {serve}",
            "url": f"http://127.0.0.1:{port}/predict",
            "body": str(body),
        },
        {"name": "broken", "command": "false", "url": f"http://127.0.0.1:{nobody}/v1/models/m"},
    ]
    file = tmp_path / "peers.json"
    file.write_text(json.dumps(peers))
    words = ("--rounds", "1", "--seconds", "1", "--cases", "other,broken", "--own-load")
    bench = start(tmp_path, *words, "--peers", str(file))
    _, progress = bench.communicate(timeout=100)
    assert bench.returncode == 1, progress
    assert "INVALID: broken at 2 connections: broken exited with status 1" in progress
    figures = {case["case"]: case for case in result_in(tmp_path)["summary"]["cases"]}
    assert figures["other"]["valid"]
    assert figures["other"]["tool"] == "own"
    assert figures["other"]["server_cpu_ms"]["median"] > 0
    assert not figures["broken"]["valid"]


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """Not tmp_path: a Unix socket's path has a limit."""
    with tempfile.TemporaryDirectory(prefix="b-") as folder:
        yield Path(folder).resolve()


@pytest.mark.stack
def test_interrupted_it_ends_its_servers_and_keeps_what_it_has(
    tmp_path: Path, short_folder: Path
) -> None:
    words = ("--rounds", "9", "--seconds", "1", "--cases", "null-grpc,null-rest-jsonp-gateway")
    bench = start(tmp_path, *words, TMPDIR=str(short_folder))

    def first_round_is_over() -> bool:
        assert bench.poll() is None
        return any(tmp_path.glob("*.json"))

    eventually(first_round_is_over, within_s=60)
    (home,) = (script.parents[1] for script in short_folder.rglob("envoy.sh"))
    gateway = stack_processes.of_stack(home)
    servers = psutil.Process(bench.pid).children(recursive=True)
    assert len(gateway) >= 3
    bench.send_signal(signal.SIGTERM)
    _, progress = bench.communicate(timeout=60)
    assert bench.returncode == INTERRUPTED, progress
    assert "INCOMPLETE: interrupted in round 2 of 9" in progress
    assert "interrupted" in result_in(tmp_path)["incomplete"]
    assert stack_processes.wait_gone([*gateway, *servers], 5) == []
    assert list(short_folder.iterdir()) == []


def test_an_engine_that_is_not_there_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BenchError, match="ENGINE: engine is 'jax', expected one of litert, tens"):
        engine_of(MODEL, "jax")
    int8 = ROOT / "models/deep_mnist/2"
    with pytest.raises(BenchError, match="names no file for the engine tensorflow"):
        engine_of(int8, "tensorflow")
    assert (engine_of(MODEL, ""), engine_of(int8, "")) == ("litert", "litert")
    monkeypatch.setitem(sys.modules, "tensorflow", None)  # as if it were not installed
    with pytest.raises(BenchError, match=r"not installed; run make setup-tensorflow$"):
        engine_of(MODEL, "tensorflow")


def test_wrong_settings_are_reported_in_a_sentence(tmp_path: Path) -> None:
    bench = start(tmp_path, "--cases", "nonsense")
    _, said = bench.communicate(timeout=60)
    assert bench.returncode == 1
    assert said.startswith("bench: CASES has 'nonsense', expected a pattern of: ")
    bench = start(tmp_path, "--model", str(tmp_path))
    _, said = bench.communicate(timeout=60)
    assert bench.returncode == 1
    assert said.startswith(f"bench: MODEL: {tmp_path} is not a model folder: it has no model.json")
    assert said.count("\n") == 1
    assert not list(tmp_path.iterdir())
