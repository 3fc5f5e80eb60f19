"""What the users send: real digits, or random numbers as the original's load test did.

Every text is built once, before any clock runs; both protocols send the same instances.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import numpy as np
import orjson
from numpy.typing import NDArray

from loadtest.errors import SettingInvalid
from model_runtime.digits import held_out
from seldon_pb2 import ClassificationRequest, DefaultCustomPredictRequest

DIGITS = "digits"
RANDOM = "random"
PAYLOADS = (DIGITS, RANDOM)

DIGIT_SIZE = 784
RANDOM_INSTANCES = 200  # as many as there are digits; enough that no cache helps

# Left as they are in a URL, as the original's client left them.
_UNESCAPED = ",:[]"


@dataclass(frozen=True)
class Payloads:
    """The instances to send, each in both protocols' forms, in the same order.

    Attributes:
        url_json: The `json` parameter of /js/predict, percent-encoded.
        request_data: A serialised ClassificationRequest that holds `data` only.
        labels: The digit each instance shows; None where it shows none.
    """

    url_json: tuple[str, ...]
    request_data: tuple[bytes, ...]
    labels: tuple[int, ...] | None

    def __len__(self) -> int:
        return len(self.url_json)


def build(payload: str, data_size: int, seed: int) -> Payloads:
    return digits() if payload == DIGITS else random_numbers(data_size, seed)


def digits() -> Payloads:
    """The held-out digits: in JSON the shortest text that reads back as the same float32."""
    held = held_out()
    return Payloads(
        tuple(
            _escaped(orjson.dumps({"data": image}, option=orjson.OPT_SERIALIZE_NUMPY).decode())
            for image in held.images
        ),
        tuple(_request_data(image.tolist()) for image in held.images),
        tuple(int(label) for label in held.labels),
    )


def random_numbers(data_size: int, seed: int) -> Payloads:
    """Uniform numbers in [0, 1): two decimals in JSON, all of float32's in gRPC.

    Source: the original's seldon_js_predict_locust.py and seldon_grpc_predict_locust.py.
    """
    numbers = np.random.default_rng(seed).random((RANDOM_INSTANCES, data_size))
    return Payloads(
        tuple(
            _escaped(json.dumps({"data": [round(number, 2) for number in row]}))
            for row in numbers.tolist()
        ),
        tuple(_request_data(row) for row in numbers.tolist()),
        None,
    )


def order(count: int, seed: int) -> NDArray[np.int64]:
    """Every index below `count` once; a schedule's requests take them in turn, again and again."""
    return np.random.default_rng(seed).permutation(count)


def in_own_order(count: int, rng: random.Random) -> Iterator[int]:
    """Every index below `count` in an order of `rng`'s choice, again and again."""
    order = list(range(count))
    rng.shuffle(order)
    while True:
        yield from order


def model_wrong(model_folder: Path | None) -> frozenset[int] | None:
    """The held-out digits that the model itself tells wrong, by index; None if that is not known.

    Raises:
        SettingInvalid: The folder is given and holds no model.
    """
    if model_folder is None:
        return None
    try:
        held = json.loads((model_folder / "model.json").read_text(encoding="utf-8"))["accuracy"][
            "held_out"
        ]
        return frozenset(int(miss["index"]) for miss in held["wrong"])
    except KeyError:
        return None  # a model of someone else's training
    except (OSError, ValueError, TypeError) as error:
        raise SettingInvalid(
            f"--model-folder {model_folder} holds no readable model.json: {error}"
        ) from error


def _escaped(text: str) -> str:
    return quote(text, safe=_UNESCAPED)


def _request_data(values: Sequence[float]) -> bytes:
    request = ClassificationRequest()
    request.data.Pack(DefaultCustomPredictRequest(values=values))
    return request.SerializeToString()
