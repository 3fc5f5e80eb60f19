"""docs/models.md: five models, from the script that makes them to a prediction."""

import contextlib
import http.client
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from polling import eventually
from ports import free_ports

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
SECTIONS = {
    "A Keras 3 network": ("tensorflow", True),
    "A TensorFlow 1 signature": ("tensorflow", True),
    "An int8 LiteRT file": ("litert", True),
    "A scikit-learn pipeline": ("onnx", True),
    "A Python class": ("python", True),
}
WITH_TENSORFLOW = tuple(SECTIONS)[:3]
TOLERANCE = 0.02  # of int8
READY_S = 60.0


def blocks(section: str, language: str) -> list[str]:
    text = PAGE.read_text().partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def run(words: list[str], folder: Path) -> str:
    """Run a command in `folder`; its standard output."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        words,
        cwd=folder,
        env={**os.environ, "PATH": path, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextlib.contextmanager
def serving(folder: Path, log: Path) -> Iterator[http.client.HTTPConnection]:
    (port,) = free_ports(1)
    settings = {"MODEL_FOLDER": str(folder), "REST_PORT": str(port), "REST_WORKERS": "1"}
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "serving_rest"],
            env=os.environ | settings | {"REST_DRAIN_DELAY_S": "0"},
            stdout=stream,
            stderr=stream,
        )
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)

    def is_ready() -> bool:
        assert process.poll() is None, log.read_text()
        with contextlib.suppress(OSError, http.client.HTTPException):
            return answer(connection, "GET", "/health/ready")[0] == 200
        connection.close()
        return False

    try:
        eventually(is_ready, "a ready server", READY_S)
        yield connection
    finally:
        connection.close()
        process.terminate()
        process.wait(20)


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
        pytest.param(section, marks=[pytest.mark.tensorflow] if section in WITH_TENSORFLOW else [])
        for section in SECTIONS
    ],
)
def test_a_model_of_the_page_is_served(section: str, tmp_path: Path) -> None:
    (script,), (command,) = blocks(section, "python"), blocks(section, "sh")
    (tmp_path / "make_model.py").write_text(script)
    expected = json.loads(run([sys.executable, "make_model.py"], tmp_path).splitlines()[-1])
    report = run(["bash", "-ec", command], tmp_path)
    engine, batched = SECTIONS[section]
    name = command.split()[4]
    assert f"engine {engine}" in report
    assert ("batch of 16" in report) == batched
    again = run(["bash", "-ec", command], tmp_path)
    assert "nothing was changed" in again
    assert f"engine {engine}" in run(["seldon-cli", "model", "show", name], tmp_path)

    imported = json.loads((tmp_path / name / "model.json").read_text())
    body = (tmp_path / "request.json").read_bytes()
    with serving(tmp_path / name, tmp_path / "server.log") as connection:
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
