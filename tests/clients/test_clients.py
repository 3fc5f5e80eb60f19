"""Clients that others wrote, through the gateway; make test-stack installs them."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deploy.deployment import MICROSERVICE
from local_stack import BIN, ROOT, Stack
from serving_core import Classifier, load_predictor
from serving_core.digits import held_out

PYTHON = ROOT / ".venv-clients" / "bin" / "python"
IMAGES = held_out().images[:64]
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
)


@pytest.fixture(scope="module")
def scores() -> np.ndarray:
    """What the model says of the images, shape (64, 10)."""
    return Classifier(load_predictor(ROOT / "models" / "deep_mnist" / "1")).predict(IMAGES)


def found_by(script: str, environment: str, stack: Stack, folder: Path) -> dict[str, Any]:
    """What a script beside this file found through the gateway."""
    np.save(folder / "images.npy", IMAGES)
    addresses = f"127.0.0.1:{stack.rest_port}", stack.grpc_target
    done = subprocess.run(
        [
            ROOT / environment / "bin" / "python",
            Path(__file__).with_name(script),
            *addresses,
            MICROSERVICE,
            folder / "images.npy",
            stack.token(),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return dict(json.loads(done.stdout))


def assert_scores(found: dict[str, Any], scores: np.ndarray, transport: str, *forms: str) -> None:
    """Take one image and 64 in each form out of what was found."""
    for form in forms:
        for count in (1, 64):
            answer = np.array(found.pop(f"{transport} {form} {count}"))
            assert answer.shape == (count, 10)
            assert np.abs(answer - scores[:count]).max() <= 1e-5


@pytest.mark.stack
def test_tritons_clients_get_health_metadata_and_the_models_scores(
    stack: Stack, tmp_path: Path, scores: np.ndarray
) -> None:
    found = found_by("triton.py", ".venv-clients", stack, tmp_path)
    for protocol, forms in (("http", ("json", "binary")), ("grpc", ("raw", "typed"))):
        assert found.pop(f"{protocol} health") == [True, True, True]
        assert found.pop(f"{protocol} server") == "prediction-services"
        assert found.pop(f"{protocol} metadata") == [
            ["instances", "FP32", [-1, 784]],
            ["probabilities", "FP32", [-1, 10]],
        ]
        assert_scores(found, scores, protocol, *forms)
        assert MICROSERVICE in found.pop(f"{protocol} other")
    assert not found


@pytest.mark.stack
def test_tensorflow_servings_clients_get_metadata_and_the_models_scores(
    stack: Stack, tmp_path: Path, scores: np.ndarray
) -> None:
    found = found_by("tf_serving.py", ".venv-clients", stack, tmp_path)
    assert found.pop("grpc method") == "tensorflow/serving/predict"
    assert found.pop("rest state") == ["1", "AVAILABLE"]
    forms = {
        "grpc": ("content", "values"),
        "rest": ("row", "named row", "column", "only column"),
    }
    refused = {"grpc": "NOT_FOUND", "rest": 404}
    for transport, status in refused.items():
        assert found.pop(f"{transport} metadata") == [
            ["instances", "DT_FLOAT", [-1, 784]],
            ["probabilities", "DT_FLOAT", [-1, 10]],
        ]
        assert_scores(found, scores, transport, *forms[transport])
        for call in ("metadata", "predict"):
            code, text = found.pop(f"{transport} other {call}")
            assert code == status
            assert MICROSERVICE in text
    assert not found


@pytest.mark.stack
def test_seldon_cores_client_gets_the_models_scores(
    stack: Stack, tmp_path: Path, scores: np.ndarray
) -> None:
    found = found_by("seldon_core_client.py", ".venv-seldon-core", stack, tmp_path)
    for transport in ("rest", "grpc"):
        assert_scores(found, scores, transport, "tensor", "ndarray")
        assert found.pop(f"{transport} classes") == list("0123456789")
        assert found.pop(f"{transport} model") == {MICROSERVICE: "1"}
        assert found.pop(f"{transport} no ingress") == [True, ""]
        for case, text in (
            ("wrong shape", "has shape [1, 3], expected [-1, 784]"),
            ("other", MICROSERVICE),
        ):
            success, status = found.pop(f"{transport} {case}")
            assert not success
            assert text in status
    assert not found


@pytest.mark.stack
def test_the_examples_of_the_documentation_recognise_the_digit(
    stack: Stack, tmp_path: Path
) -> None:
    text = (ROOT / "docs" / "protocols.md").read_text(encoding="utf-8")
    (shell,) = re.findall(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    (client,) = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    address = f"127.0.0.1:{stack.rest_port}"
    (tmp_path / "client.py").write_text(client.replace("127.0.0.1:8080", address))
    script = shell.replace("127.0.0.1:8080", address).replace("$PWD/.venv/bin", str(BIN))
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", f"{script}\necho\n{PYTHON} {tmp_path / 'client.py'}"],  # noqa: S607
        cwd=ROOT,
        env=stack.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    by_curl, by_triton = done.stdout.split("\n", 1)
    assert int(np.argmax(json.loads(by_curl)["outputs"][0]["data"])) == 7
    assert by_triton.strip() == "7"


@pytest.mark.stack
def test_what_openapi_describes_is_what_the_server_does(stack: Stack, tmp_path: Path) -> None:
    done = subprocess.run(
        [
            PYTHON.with_name("schemathesis"),
            "run",
            f"{stack.url}/openapi.json",
            "--header",
            f"Authorization: Bearer {stack.token()}",
            "--checks",
            ",".join(CHECKS),
            "--phases",
            "examples,coverage,fuzzing",
            "--max-examples",
            "15",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    generated = re.search(r"(\d+) generated, (\d+) passed", done.stdout)
    assert generated, done.stdout[-2000:]
    assert int(generated[1]) == int(generated[2]) > 100
