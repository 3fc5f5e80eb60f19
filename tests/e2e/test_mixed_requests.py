"""32 callers mix all protocols, and two models of other shapes: each gets its own answer.

MIXED_REQUESTS=100000 sends more than a test run has time for.
"""

import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from deploy.deployment import MICROSERVICE
from local_stack import CLIENT, ROOT, Stack
from mixed_requests import BAD_SHARE, SCALING_MODEL, TOLERANCE, Counts, Job, send
from protocol_calls import WAYS, Target
from serving_core import Classifier, Signature, load_predictor, read_model_folder
from serving_core.digits import held_out

REQUESTS = int(os.environ.get("MIXED_REQUESTS", "3200"))
CALLERS, PROCESSES = 32, 4
BLENDS = 400
OTHER_CLIENT, SCALING = "scaling_client", "scaling"
MODEL = ROOT / "models" / "deep_mnist" / "1"

pytestmark = [pytest.mark.stack, pytest.mark.timeout(120 + REQUESTS // 25)]


def target(stack: Stack, client: str, name: str, signature: Signature) -> Target:
    return Target(name, signature, stack.credentials(client).js_key, stack.token(client))


@pytest.fixture
def scaling(stack: Stack, tmp_path: Path) -> Iterator[Target]:
    """The model that scales rows, for a client of its own."""
    (tmp_path / "model.py").write_text(SCALING_MODEL)
    model = str(tmp_path / SCALING)
    stack.run("seldon-cli", "model", "import", str(tmp_path / "model.py"), model)
    setup = ("client", "--action", "setup", "--db-name", "ClientDB", "--client-name", OTHER_CLIENT)
    stack.run("seldon-cli", *setup)
    stack.run(
        *("start-microservice", "--type", "prediction", "--client", OTHER_CLIENT),
        *("-p", SCALING, model, "rest", "1", "-p", SCALING, model, "rpc", "1"),
    )
    signature = read_model_folder(Path(model)).info.signature
    yield target(stack, OTHER_CLIENT, SCALING, signature)
    stack.run("stop-microservice", SCALING)


def distinct_images() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Blends of two digits each, and their scores, which differ by far more than the tolerance."""
    random = np.random.default_rng(1)
    digits = held_out().images
    one, other = (digits[random.integers(len(digits), size=BLENDS)] for _ in range(2))
    share = random.uniform(0.3, 0.7, size=(BLENDS, 1))
    images = (share * one + (1 - share) * other).round(2).astype(np.float32)
    scores = Classifier(load_predictor(MODEL)).predict(images)
    near = np.abs(scores[:, None] - scores).max(axis=2) < 100 * TOLERANCE
    repeats = np.tril(near, -1).any(axis=1)
    return images[~repeats], scores[~repeats]


def table(counts: Counts) -> str:
    return "\n".join(
        f"{number:7,d}  {name}, {model}: {code}"
        for (name, model, code), number in sorted(counts.items())
    )


def test_every_answer_is_its_requests(stack: Stack, scaling: Target) -> None:
    signature = read_model_folder(MODEL).info.signature
    classifier = target(stack, CLIENT, MICROSERVICE, signature)
    images, scores = distinct_images()
    assert len(images) > BLENDS / 2
    before = {process.pid for process in stack.processes()}
    size = CALLERS // PROCESSES
    jobs = [
        Job(
            stack.rest_port,
            stack.grpc_target,
            classifier,
            images,
            scores,
            scaling,
            range(first, first + size),
            REQUESTS // CALLERS,
        )
        for first in range(0, CALLERS, size)
    ]
    started = time.monotonic()
    with ProcessPoolExecutor(PROCESSES, get_context("spawn")) as pool:
        found = list(pool.map(send, jobs))
    seconds = time.monotonic() - started
    counts = sum((counts for counts, _ in found), Counts())
    # What pytest -s and a failure show.
    print(f"{table(counts)}\n{counts.total():7,d}  requests in {seconds:.1f} s")  # noqa: T201
    assert [text for _, wrong in found for text in wrong] == []
    assert counts.total() == REQUESTS // CALLERS * CALLERS
    good = {(name, model) for name, model, code in counts if code in ("200", "OK")}
    assert good == {(name, "classifier") for name in WAYS} | {
        (name, "scaling") for name, way in WAYS.items() if way.named
    }
    answered = sum(counts[one] for one in counts if one[2] in ("200", "OK"))
    assert 1 - answered / counts.total() == pytest.approx(BAD_SHARE, abs=0.03)
    # The gateway tries a request again whose server died.
    assert {process.pid for process in stack.processes()} == before
