"""docs/models.md: six models, from the script that makes them to predictions and load tests."""

import http.client
import json
import os
import re
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model_servers import Servers, serving

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
# By section: the engine, and the tier that runs it, None for the default one.
SECTIONS = {
    "A Keras 3 network": ("tensorflow", pytest.mark.tensorflow),
    "A TensorFlow 1 signature": ("tensorflow", pytest.mark.tensorflow),
    "An int8 LiteRT file": ("litert", pytest.mark.tensorflow),
    "A scikit-learn pipeline": ("onnx", pytest.mark.stack),
    "A Python class": ("python", None),
    "A PyTorch network": ("python", pytest.mark.stack),
}
TOLERANCE = 0.02  # of int8
BRIEF = {"LOADTEST_DURATION": "1", "LOADTEST_WARMUP": "0.5", "LOADTEST_WAIT": "50-100"}


def blocks(section: str, language: str) -> list[str]:
    text = PAGE.read_text().partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def run(words: list[str], folder: Path, **environment: str) -> str:
    """Run a command in `folder`; its standard output."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        words,
        cwd=folder,
        env={**os.environ, "PATH": path, "TF_CPP_MIN_LOG_LEVEL": "3", **environment},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def answer(
    connection: http.client.HTTPConnection, method: str, path: str, body: bytes | None = None
) -> tuple[int, bytes]:
    connection.request(method, path, body)
    response = connection.getresponse()
    return response.status, response.read()


def infer(connection: http.client.HTTPConnection, name: str, body: bytes) -> dict[str, Any]:
    status, text = answer(connection, "POST", f"/v2/models/{name}/infer", body)
    assert status == 200, text
    document: dict[str, Any] = json.loads(text)
    return document


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    "section",
    [
        pytest.param(section, marks=[tier] if tier else [])
        for section, (_, tier) in SECTIONS.items()
    ],
)
def test_a_model_of_the_page_is_served(section: str, tmp_path: Path) -> None:
    (script,), (command,) = blocks(section, "python"), blocks(section, "sh")
    (tmp_path / "make_model.py").write_text(script)
    expected = json.loads(run([sys.executable, "make_model.py"], tmp_path).splitlines()[-1])
    report = run(["bash", "-ec", command], tmp_path)
    engine, _ = SECTIONS[section]
    name = command.split()[4]
    assert f"engine {engine}" in report
    assert "batch of 16" in report
    again = run(["bash", "-ec", command], tmp_path)
    assert "nothing was changed" in again
    assert f"engine {engine}" in run(["seldon-cli", "model", "show", name], tmp_path)

    imported = json.loads((tmp_path / name / "model.json").read_text())
    body = (tmp_path / "request.json").read_bytes()
    with (
        serving(tmp_path / name, tmp_path / "server.log") as servers,
        closing(http.client.HTTPConnection(servers.rest_target, timeout=20)) as connection,
    ):
        (output,) = infer(connection, imported["name"], body)["outputs"]
        assert output["data"] == pytest.approx(expected, abs=TOLERANCE)
        if "range" in imported["inputs"][0]:
            request = json.loads(body)
            request["inputs"][0]["data"][5] = 255
            status, text = answer(
                connection,
                "POST",
                f"/v2/models/{imported['name']}/infer",
                json.dumps(request).encode(),
            )
            assert status == 400
            assert "255.0 at [0, " in json.loads(text)["error"]
        if "classes" in imported:
            pixels = np.linspace(0, 1, 784).tolist()
            status, text = answer(
                connection, "POST", "/predict", json.dumps({"data": pixels}).encode()
            )
            predictions = json.loads(text)["predictions"]
            assert [entry["predictedClass"] for entry in predictions] == ["cat", "dog", "fox"]
            assert [entry["prediction"] for entry in predictions] == pytest.approx(
                expected, abs=TOLERANCE
            )
        called = call_over_grpc(tmp_path, servers, imported["name"])
        assert called == pytest.approx(expected, abs=TOLERANCE)
        check_load_tests(tmp_path, servers, imported["name"])


def call_over_grpc(folder: Path, servers: Servers, name: str) -> list[float]:
    """The result of the page's script."""
    (script,) = blocks("Over gRPC", "python")
    (folder / "call_grpc.py").write_text(script)
    called: list[float] = json.loads(
        run([sys.executable, "call_grpc.py", servers.grpc_target, name], folder)
    )
    return called


def check_load_tests(folder: Path, servers: Servers, name: str) -> None:
    """Run the page's load tests, with the rows of the model's own script if it writes any."""
    rows = next(folder.glob("rows.*"), None)
    command, *_ = blocks("Load tests", "sh")
    for text, actual in {
        "--payload random": f"--payload {rows.name if rows else 'random'}",
        " NAME ": f" {name} ",
        "127.0.0.1:8500": servers.rest_target,
        "127.0.0.1:8600": servers.grpc_target,
    }.items():
        assert text in command
        command = command.replace(text, actual)
    run(["bash", "-ec", command], folder, **BRIEF, LOADTEST_USERS="4")
    summaries = {
        summary["protocol"]: summary
        for path in folder.glob("results/*/summary.json")
        if (summary := json.loads(path.read_text()))
    }
    assert set(summaries) == {"rest", "grpc"}
    for summary in summaries.values():
        assert summary["settings"]["dialect"] == "Open Inference"
        assert (summary["valid"], summary["failures"]) == (True, 0)
        assert summary["requests"] > 10
        labelled = rows is not None and rows.suffix == ".npz"
        assert (summary["digits"] is not None) == labelled
        if labelled:
            assert summary["digits"]["accuracy"] > 0.9
