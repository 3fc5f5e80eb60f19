"""Request payloads: held-out MNIST digits, or random numbers as in the original.

All requests are built before the measurement; both protocols send the same instances with the same
decimals.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from urllib.parse import quote

import numpy as np
import orjson
from numpy.typing import NDArray

from loadtest.errors import SettingInvalid
from seldon_pb2 import ClassificationRequest, DefaultCustomPredictRequest
from serving_core.digits import held_out

DIGITS = "digits"
RANDOM = "random"
PAYLOADS = (DIGITS, RANDOM)
FULL = "full"
DECIMALS = ("2", FULL)

DIGIT_SIZE = 784
RANDOM_INSTANCES = 200  # as many as digits; defeats caches

# Not percent-encoded, as in the original's client.
_UNESCAPED = ",:[]"


@dataclass(frozen=True)
class Payloads:
    """The instances in both protocols' encodings, in the same order.

    Attributes:
        documents: JSON documents for REST.
        request_data: Serialised ClassificationRequests with `data` only.
        labels: The digit of each image; None for random payloads.
        images: Images per request; request i has images i, i + 1, …
    """

    documents: tuple[str, ...]
    request_data: tuple[bytes, ...]
    labels: tuple[int, ...] | None
    images: int = 1

    def __len__(self) -> int:
        return len(self.documents)

    @cached_property
    def url_json(self) -> tuple[str, ...]:
        """The documents as the `json` parameter of /js/predict, percent-encoded."""
        return tuple(_escaped(document) for document in self.documents)


def build(
    payload: str, data_size: int, seed: int, decimals: str = FULL, images: int = 1
) -> Payloads:
    """The instances of a run.

    Args:
        payload: One of PAYLOADS.
        data_size: Numbers per instance; 784 for digits.
        seed: Seed of random numbers.
        decimals: Decimal places, or FULL.
        images: Images per request.
    """
    if payload == DIGITS:
        held = held_out()
        return _payloads(held.images, tuple(int(label) for label in held.labels), decimals, images)
    numbers = np.random.default_rng(seed).random((RANDOM_INSTANCES, data_size))
    return _payloads(numbers.astype(np.float32), None, decimals, images)


def digits() -> Payloads:
    """The held-out digits, one per request, with all decimals."""
    return build(DIGITS, DIGIT_SIZE, 0)


def _payloads(
    rows: NDArray[np.float32], labels: tuple[int, ...] | None, decimals: str, images: int
) -> Payloads:
    """Encode; JSON numbers are the shortest that parse to the same float32."""
    if decimals != FULL:
        rows = np.round(rows, int(decimals))
    batches = [
        rows[np.arange(index, index + images) % len(rows)].reshape(images, -1)
        for index in range(len(rows))
    ]
    return Payloads(
        tuple(
            orjson.dumps(
                {"data": batch[0] if images == 1 else batch}, option=orjson.OPT_SERIALIZE_NUMPY
            ).decode()
            for batch in batches
        ),
        tuple(_request_data(batch.ravel().tolist()) for batch in batches),
        labels,
        images,
    )


def order(count: int, seed: int) -> NDArray[np.int64]:
    """A permutation of the instances; the requests of a schedule cycle through it."""
    return np.random.default_rng(seed).permutation(count)


def shuffled(count: int, rng: random.Random) -> Iterator[int]:
    """Cycle through the instances in a random order."""
    order = list(range(count))
    rng.shuffle(order)
    while True:
        yield from order


def misclassified(model_folder: Path | None) -> frozenset[int] | None:
    """The indices of the held-out digits that the model misclassifies; None if unknown.

    Raises:
        SettingInvalid: The folder has no readable model.json.
    """
    if model_folder is None:
        return None
    try:
        held = json.loads((model_folder / "model.json").read_text(encoding="utf-8"))["accuracy"][
            "held_out"
        ]
        return frozenset(int(miss["index"]) for miss in held["wrong"])
    except KeyError:
        return None  # a model without a test on the held-out digits
    except (OSError, ValueError, TypeError) as error:
        raise SettingInvalid(
            f"--model-folder {model_folder} has no readable model.json: {error}"
        ) from error


def _escaped(text: str) -> str:
    return quote(text, safe=_UNESCAPED)


def _request_data(values: Sequence[float]) -> bytes:
    request = ClassificationRequest()
    request.data.Pack(DefaultCustomPredictRequest(values=values))
    return request.SerializeToString()
