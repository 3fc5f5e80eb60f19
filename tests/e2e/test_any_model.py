"""The load test of a model with two inputs: from a file's rows to the accuracy, or one error."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model_servers import Servers, serving

from local_stack import Stack

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]

NAME = "nearest"
MODEL = """
import numpy as np


class Model:
    inputs = {"at": ("FP32", [-1, 2]), "points": ("INT64", [-1, 3, 2])}

    def load(self, folder):
        pass

    def predict(self, inputs):
        distances = np.linalg.norm(inputs["points"] - inputs["at"][:, None], axis=2)
        return {
            "nearness": (1 / (1 + distances)).astype(np.float32),
            "name": np.array([b"abc"[i : i + 1] for i in distances.argmin(axis=1)], object),
        }
"""
ROWS = 60
WRONG = 6  # of the labels
PROTOCOLS = {"rest": "js-predict", "grpc": "grpc-predict"}
BRIEF = ("--duration", "1", "--warmup", "0.5", "--wait", "20-40", "--locust-hatch-rate", "100")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the model, and beside it files of rows."""
    folder = tmp_path_factory.mktemp("models") / NAME
    folder.mkdir()
    (folder / "model.py").write_text(MODEL)
    rng = np.random.default_rng(1)
    at, points = rng.random((ROWS, 2)) * 9, rng.integers(0, 9, (ROWS, 3, 2))
    labels = np.linalg.norm(points - at[:, None].astype(np.float32), axis=2).argmin(axis=1)
    labels[:WRONG] = (labels[:WRONG] + 1) % 3
    np.savez(folder.parent / "rows.npz", at=at, points=points, labels=labels)
    with (folder.parent / "rows.jsonl").open("w") as file:
        for one, others in zip(at.tolist(), points.tolist(), strict=True):
            file.write(json.dumps({"inputs": {"at": one, "points": others}}) + "\n")
    np.savez(folder.parent / "flat.npz", at=at, points=points.reshape(ROWS, 6))
    return folder


@pytest.fixture(scope="module")
def servers(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    log = tmp_path_factory.mktemp("servers") / "log"
    with serving(model, log, MODEL_NAME=NAME) as running:
        yield running


def launch(
    servers: Servers, protocol: str, folder: Path, *options: str
) -> subprocess.CompletedProcess[str]:
    """Load-test the servers without a gateway."""
    command = [
        *(sys.executable, "-m", "loadtest.cli", "--seldon-client", "any"),
        *("--test-type", PROTOCOLS[protocol], "--seldon-oauth-endpoint", "none"),
        *("--host", servers.url, "--seldon-grpc-endpoint", servers.grpc_target),
        *("--locust-clients", "4", *BRIEF, *options),
    ]
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("SELDON_", "LOADTEST_"))}
    return subprocess.run(
        command, cwd=folder, env=kept, capture_output=True, text=True, timeout=100, check=False
    )


def summary_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "latest" / "summary.json").read_text())
    return found


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("payload", ["rows.npz", "rows.jsonl"])
def test_the_rows_of_a_file(
    protocol: str, payload: str, servers: Servers, model: Path, tmp_path: Path
) -> None:
    file = model.parent / payload
    options = ("--payload", str(file), "--model-name", NAME, "--images", "3")
    done = launch(servers, protocol, tmp_path, *options)
    assert done.returncode == 0, done.stdout + done.stderr
    summary = summary_of(tmp_path / "results")
    assert summary["requests"] > 20
    settings = summary["settings"]
    assert (settings["payload"], settings["dialect"]) == (payload, "Open Inference")
    assert str(model.parent) not in json.dumps(summary)
    assert payload in done.stdout
    if payload == "rows.npz":
        digits = summary["digits"]
        assert digits["scored"] == 3 * summary["requests"]
        assert 0.8 < digits["accuracy"] < 1
        assert "accuracy" in done.stdout
    else:
        assert summary["digits"] is None
        assert "accuracy" not in done.stdout


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("payload", "name", "sentence"),
    [
        ("flat.npz", NAME, "array 'points' of flat.npz has shape [60, 6], expected [rows, 3, 2]"),
        ("random", "other", "model name is 'other', expected one of: nearest; name the model with"),
        ("rows.npy", NAME, "rows.npy is one array, expected a .npz with an array for each input"),
        ("none.npz", NAME, "none.npz is not readable: No such file or directory"),
    ],
)
def test_what_does_not_suit_the_model_is_said_before_the_load(
    protocol: str,
    payload: str,
    name: str,
    sentence: str,
    servers: Servers,
    model: Path,
    tmp_path: Path,
) -> None:
    file = payload if payload == "random" else str(model.parent / payload)
    done = launch(servers, protocol, tmp_path, "--payload", file, "--model-name", name)
    assert done.returncode == 1
    assert sentence in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "results").exists()


def test_through_the_gateway_with_a_token(
    new_stack: Callable[[], Stack], model: Path, tmp_path: Path
) -> None:
    stack, client = new_stack(), "nearest_client"
    stack.run("seldon-up")
    stack.run(
        *("seldon-cli", "client", "--action", "setup"),
        *("--db-name", "ClientDB", "--client-name", client),
    )
    for protocol, test_type in PROTOCOLS.items():
        kind = {"rest": "rest", "grpc": "rpc"}[protocol]
        stack.run(
            *("start-microservice", "--type", "prediction", "--client", client),
            *("-p", NAME, str(model), kind, "1.0"),
        )
        for payload in ("random", str(model.parent / "rows.npz")):
            output = tmp_path / protocol / Path(payload).name
            stack.run(
                *("launch-locust-load-test", "--seldon-client", client, "--test-type", test_type),
                *("--payload", payload, "--model-name", NAME, "--output", str(output)),
                *("--locust-clients", "4", *BRIEF),
            )
            summary = summary_of(output)
            assert (summary["valid"], summary["failures"]) == (True, 0)
            assert summary["requests"] > 20
            assert not [text for text in summary["warnings"] if "x-gateway-timing" in text]
    stack.undeploy()
