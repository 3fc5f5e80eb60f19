"""What the users send: real digits, or random numbers as the original's load test did.

Every text is built once, before any clock runs; both protocols send the same instances, to the
same decimals.
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
from model_runtime.digits import held_out
from seldon_pb2 import ClassificationRequest, DefaultCustomPredictRequest

DIGITS = "digits"
RANDOM = "random"
PAYLOADS = (DIGITS, RANDOM)
FULL = "full"
DECIMALS = ("2", FULL)

DIGIT_SIZE = 784
RANDOM_INSTANCES = 200  # as many as there are digits; enough that no cache helps

# Left as they are in a URL, as the original's client left them.
_UNESCAPED = ",:[]"


@dataclass(frozen=True)
class Payloads:
    """What to send, in both protocols' forms, in the same order.

    Attributes:
        documents: The JSON of REST.
        request_data: A serialised ClassificationRequest that holds `data` only.
        labels: The digit each image shows; None where it shows none.
        images: How many a request carries: that of index i has images i, i + 1, …
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
        data_size: Numbers of an instance; 784 of digits.
        seed: Of random numbers.
        decimals: FULL, or as many as every number is rounded to, in both protocols.
        images: Instances in a request.
    """
    if payload == DIGITS:
        held = held_out()
        return _payloads(held.images, tuple(int(label) for label in held.labels), decimals, images)
    numbers = np.random.default_rng(seed).random((RANDOM_INSTANCES, data_size))
    return _payloads(numbers.astype(np.float32), None, decimals, images)


def digits() -> Payloads:
    """The held-out digits, one a request, with all their decimals."""
    return build(DIGITS, DIGIT_SIZE, 0)


def _payloads(
    rows: NDArray[np.float32], labels: tuple[int, ...] | None, decimals: str, images: int
) -> Payloads:
    """JSON has the shortest text that reads back as the same float32."""
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
            f"--model-folder {model_folder} has no readable model.json: {error}"
        ) from error


def _escaped(text: str) -> str:
    return quote(text, safe=_UNESCAPED)


def _request_data(values: Sequence[float]) -> bytes:
    request = ClassificationRequest()
    request.data.Pack(DefaultCustomPredictRequest(values=values))
    return request.SerializeToString()
