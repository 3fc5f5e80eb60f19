"""Parses and validates responses, the same for both protocols, outside the measured time."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from seldon_pb2 import ClassificationReply

CLASSES = tuple("0123456789")
SUM_TOLERANCE = 1e-4
CALLBACK = "j"

SERVER_TIMING = "server-timing"
GATEWAY_TIMING = "x-gateway-timing"
_GATEWAY = re.compile(r"in=([0-9]+), upstream=([0-9]+)")
_TIMING = re.compile(r"([a-z]+);dur=([0-9.]+)")
_MAX_REASON = 120


class InvalidResponse(Exception):
    """A response is invalid; `str(error)` is the reason that failures are counted by."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason[:_MAX_REASON])


@dataclass(frozen=True)
class Answer:
    """A response of either protocol."""

    puid: str
    classes: tuple[str, ...]
    scores: tuple[float, ...]


@dataclass(frozen=True)
class ServerTiming:
    """The Server-Timing of a response, milliseconds."""

    queue_ms: float
    compute_ms: float
    total_ms: float


@dataclass(frozen=True)
class GatewayTiming:
    """The gateway's timing of a response, microseconds.

    Attributes:
        in_us: From the first downstream byte to the upstream request.
        upstream_us: From the upstream request to the first response byte.
    """

    in_us: float
    upstream_us: float


def from_jsonp(status: int, body: bytes) -> Any:
    """Parse a JSONP or JSON body.

    Raises:
        InvalidResponse: The body is neither.
    """
    if body.startswith(b"j(") and body.endswith(b")"):
        body = body[2:-1]
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        reason = f"HTTP status {status}" if status != 200 else "the response is not JSON"
        raise InvalidResponse(reason) from None


def of_document(status: int, document: Any) -> Answer:
    """Parse a /js/predict response.

    Raises:
        InvalidResponse: An error object, a status other than 200, or an unexpected shape.
    """
    if isinstance(document, dict) and "error_id" in document:
        raise InvalidResponse(f"error {document['error_id']}: {document.get('error_msg')}")
    if status != 200:
        raise InvalidResponse(f"HTTP status {status}")
    try:
        predictions = document["predictions"]
        return Answer(
            document["meta"]["puid"],
            tuple(prediction["predictedClass"] for prediction in predictions),
            tuple(float(prediction["prediction"]) for prediction in predictions),
        )
    except (KeyError, TypeError, ValueError):
        raise InvalidResponse("the response has an unexpected shape") from None


def of_reply(reply: ClassificationReply) -> Answer:
    """Parse a Classify reply."""
    return Answer(
        reply.meta.puid,
        tuple(prediction.predictedClass for prediction in reply.predictions),
        tuple(prediction.prediction for prediction in reply.predictions),
    )


def judge(answer: Answer, puid: str, images: int = 1) -> tuple[int, ...]:
    """Validate the response to the request `puid` of `images` images.

    Returns:
        The predicted digit of each image.

    Raises:
        InvalidResponse: Not ten probabilities of the classes 0 to 9 with sum 1 per image, or a
            response to another request.
    """
    width = len(CLASSES)
    if len(answer.scores) != width * images:
        raise InvalidResponse(f"{len(answer.scores)} predictions, expected {width * images}")
    if answer.classes != CLASSES * images:
        raise InvalidResponse("the classes are not 0 to 9 in order")
    if not all(0 <= score <= 1 for score in answer.scores):
        raise InvalidResponse("a prediction is outside [0, 1]")
    predicted = []
    for start in range(0, width * images, width):
        scores = answer.scores[start : start + width]
        if not abs(sum(scores) - 1) <= SUM_TOLERANCE:
            raise InvalidResponse("the predictions do not sum to 1")
        predicted.append(max(range(width), key=scores.__getitem__))
    if answer.puid != puid:
        raise InvalidResponse("the puid does not match the request")
    return tuple(predicted)


def server_timing(text: str | None) -> ServerTiming | None:
    """Parse a Server-Timing header; None if it is absent or incomplete."""
    if text is None:
        return None
    durations = dict(_TIMING.findall(text))
    try:
        return ServerTiming(
            float(durations["queue"]), float(durations["compute"]), float(durations["total"])
        )
    except (KeyError, ValueError):
        return None


def server_total_ms(text: str | None) -> float | None:
    """The total of a Server-Timing header, which error responses carry too; None if absent."""
    total = dict(_TIMING.findall(text or "")).get("total")
    try:
        return None if total is None else float(total)
    except ValueError:
        return None


def gateway_timing(text: str | None) -> GatewayTiming | None:
    """Parse the gateway's timing header; None if it is absent or incomplete."""
    found = _GATEWAY.fullmatch(text or "")
    return GatewayTiming(float(found[1]), float(found[2])) if found else None


def in_metadata(metadata: Sequence[Any] | None, name: str) -> str | None:
    """The text value of `name` in a call's metadata."""
    for key, value in metadata or ():
        if key == name and isinstance(value, str):
            return value
    return None
