"""Request payloads: what every payload does, and the held-out MNIST digits.

All requests are packed before the measurement; both protocols send the same instances with the same
decimals.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from urllib.parse import quote

import numpy as np
import orjson
from numpy.typing import NDArray

from loadtest.errors import SettingInvalid
from seldon_pb2 import ClassificationRequest, DefaultCustomPredictRequest
from serving_core.digits import held_out

DIGITS = "digits"
RANDOM = "random"
SELDON = "Seldon"
OPEN_INFERENCE = "Open Inference"
FULL = "full"
DECIMALS = ("2", FULL)

DIGIT_SIZE = 784

# Not percent-encoded, as in the original's client.
_UNESCAPED = ",:[]"


class Template(NamedTuple):
    """An HTTP request without its puid.

    Attributes:
        method: The method.
        target: Path and query.
        body: The body.
        id_at: Where in the body the puid belongs; None if it ends the target.
    """

    method: str
    target: str
    body: bytes
    id_at: int | None = None

    def completed(self, puid: str) -> tuple[str, str, bytes]:
        """Method, target and body of the request."""
        if self.id_at is None:
            return self.method, self.target + puid, self.body
        body = self.body[: self.id_at] + puid.encode() + self.body[self.id_at :]
        return self.method, self.target, body


class Payload(Protocol):
    """The requests of a run in one dialect, packed, and the check of their responses.

    Attributes:
        dialect: The protocol's name in reports.
        method: The gRPC method.
        needs_token: Whether REST requests carry an access token.
    """

    dialect: str
    method: str
    needs_token: bool

    @property
    def labels(self) -> tuple[int, ...] | None:
        """The class of each instance; None if unknown."""

    @property
    def images(self) -> int:
        """Instances per request; request i begins with instance i."""

    def __len__(self) -> int:
        """The number of instances, and of requests."""

    def template(self, instance: int) -> Template:
        """The HTTP request of an instance."""

    def message(self, instance: int, puid: str) -> bytes:
        """The gRPC request of an instance."""

    def reply(self, message: bytes) -> Any:
        """Parse a gRPC reply."""

    def judge_document(self, status: int, document: Any, puid: str) -> tuple[int, ...] | None:
        """Validate the JSON response to the request `puid`.

        Returns:
            The predicted class of each instance; None without labels.

        Raises:
            InvalidResponse: An error, an unexpected form, or a response to another request.
        """

    def judge_reply(self, reply: Any, puid: str) -> tuple[int, ...] | None:
        """The same for a gRPC reply."""


@dataclass(frozen=True)
class Payloads:
    """The digits in both protocols' encodings, in the same order.

    Attributes:
        documents: JSON documents for REST.
        request_data: Serialised ClassificationRequests with `data` only.
        labels: The digit of each image.
        images: Images per request; request i has images i, i + 1, …
    """

    documents: tuple[str, ...]
    request_data: tuple[bytes, ...]
    labels: tuple[int, ...]
    images: int = 1

    def __len__(self) -> int:
        return len(self.documents)

    @cached_property
    def url_json(self) -> tuple[str, ...]:
        """The documents as the `json` parameter of /js/predict, percent-encoded."""
        return tuple(_escaped(document) for document in self.documents)


def digits(decimals: str = FULL, images: int = 1) -> Payloads:
    """The held-out digits.

    Args:
        decimals: Decimal places, or FULL: JSON numbers are the shortest that parse to the same
            float32.
        images: Images per request.
    """
    held = held_out()
    rows = held.images if decimals == FULL else np.round(held.images, int(decimals))
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
        tuple(int(label) for label in held.labels),
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
