"""At full load no answer goes to another request: 32 callers, good and bad ones, each tagged.

CALLS=100000 asks more often than a test run has time for.
"""

import json
import os
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np
import pytest
import requests
from google.protobuf.any_pb2 import Any

import seldon_pb2
import seldon_pb2_grpc
from local_stack import Stack
from serving_core import Classifier, load_predictor
from serving_core.digits import held_out

CALLERS = 32
CALLS = int(os.environ.get("CALLS", "6000"))
BAD_EVERY = 5
MODEL = Path(__file__).parents[2] / "models" / "deep_mnist" / "1"
DIGITS = held_out()
DIGIT_COUNT = len(DIGITS.images)
DOCUMENTS = [json.dumps({"data": image.tolist()}) for image in DIGITS.images]

# Of a digit, with a puid, and whether to ask badly: what is wrong with the answer, or "".
Ask = Callable[[int, str, bool], str]


@pytest.fixture(scope="module")
def scores() -> np.ndarray:
    """What the model says of each held-out digit, shape (200, 10)."""
    predictor = Classifier(load_predictor(MODEL))
    return np.concatenate([predictor.predict(image[np.newaxis]) for image in DIGITS.images])


def mixed_up(make_ask: Callable[[], Ask]) -> tuple[list[str], Counter[str]]:
    """Ask from CALLERS threads; what was wrong, and how many were good and bad."""
    wrong: list[str] = []
    asked: list[str] = []  # appending is safe from many threads

    def call(caller: int) -> None:
        ask = make_ask()
        for number in range(CALLS // CALLERS):
            bad = (caller + number) % BAD_EVERY == 0
            digit = (caller * 31 + number * 7) % DIGIT_COUNT
            said = ask(digit, f"{caller}-{number}", bad)
            asked.append("bad" if bad else "good")
            if said:
                wrong.append(f"{caller}-{number}: {said}")

    threads = [threading.Thread(target=call, args=(caller,)) for caller in range(CALLERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return wrong, Counter(asked)


def test_over_rest_every_answer_is_its_requests(stack: Stack, scores: np.ndarray) -> None:
    token = stack.token()

    def make_ask() -> Ask:
        session = requests.Session()
        session.headers["Authorization"] = f"Bearer {token}"
        session.headers["Content-Type"] = "application/json"

        def ask(digit: int, puid: str, bad: bool) -> str:
            # A bad one names its tag too: the answer must quote it and no other's.
            body = json.dumps({"data": [0.0] * 783 + [puid]}) if bad else DOCUMENTS[digit]
            answer = session.post(
                f"{stack.url}/predict", params={"puid": puid}, data=body, timeout=30
            )
            document = answer.json()
            if bad:
                expected = (400, "data[783] is a string, expected a number")
                return (
                    "" if (answer.status_code, document["error_msg"]) == expected else answer.text
                )
            found = [row["prediction"] for row in document["predictions"]]
            right = document["meta"]["puid"] == puid and np.allclose(
                found, scores[digit], atol=1e-5
            )
            return "" if right else answer.text

        return ask

    wrong, asked = mixed_up(make_ask)
    assert wrong == []
    assert asked["bad"] > CALLS // BAD_EVERY - CALLERS
    assert asked["good"] > asked["bad"]


def test_over_grpc_every_answer_is_its_calls(stack: Stack, scores: np.ndarray) -> None:
    metadata = (("oauth_token", stack.token()),)

    def make_ask() -> Ask:
        # A connection of its own: channels of one address share theirs otherwise.
        options = [("grpc.use_local_subchannel_pool", 1)]
        channel = grpc.insecure_channel(stack.grpc_target, options=options)
        stub = seldon_pb2_grpc.SeldonStub(channel)

        def ask(digit: int, puid: str, bad: bool) -> str:
            data = Any()
            values = DIGITS.images[digit][: 700 + digit % 84 if bad else None]
            data.Pack(seldon_pb2.DefaultCustomPredictRequest(values=values))
            request = seldon_pb2.ClassificationRequest(
                meta=seldon_pb2.ClassificationRequestMeta(puid=puid), data=data
            )
            answer = stub.Classify.future(request, metadata=metadata, timeout=30)
            if bad:
                expected = f"data.values has {len(values)} values, expected 784"
                refusal = (answer.code(), answer.details())
                right = refusal == (grpc.StatusCode.INVALID_ARGUMENT, expected)
                return "" if right else str(refusal)
            reply = answer.result()
            found = [result.prediction for result in reply.predictions]
            right = reply.meta.puid == puid and np.allclose(found, scores[digit], atol=1e-5)
            return "" if right else str(reply)

        return ask

    wrong, asked = mixed_up(make_ask)
    assert wrong == []
    assert asked["good"] > asked["bad"] > CALLS // BAD_EVERY - CALLERS
