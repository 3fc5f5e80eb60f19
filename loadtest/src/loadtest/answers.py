"""Is an answer right? The same test for both protocols, after the clock has stopped."""

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


class WrongAnswer(Exception):
    """`str(error)` is the short reason under which the failure is counted."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason[:_MAX_REASON])


@dataclass(frozen=True)
class Answer:
    """What both protocols answer."""

    puid: str
    classes: tuple[str, ...]
    scores: tuple[float, ...]


@dataclass(frozen=True)
class ServerTiming:
    """What the server says it spent on a request, in milliseconds."""

    queue_ms: float
    compute_ms: float
    total_ms: float


@dataclass(frozen=True)
class GatewayTiming:
    """What the gateway says of a request, in microseconds.

    Attributes:
        in_us: From its first byte to the moment when it went on to a server.
        upstream_us: From then to the first byte of the server's answer.
    """

    in_us: float
    upstream_us: float


def from_jsonp(status: int, body: bytes) -> Any:
    """The document within `j(…)`, or within nothing.

    Raises:
        WrongAnswer: Neither.
    """
    if body.startswith(b"j(") and body.endswith(b")"):
        body = body[2:-1]
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        reason = f"HTTP status {status}" if status != 200 else "the response is not JSON"
        raise WrongAnswer(reason) from None


def of_document(status: int, document: Any) -> Answer:
    """The answer of /js/predict.

    Raises:
        WrongAnswer: An error object, another status than 200, or another shape.
    """
    if isinstance(document, dict) and "error_id" in document:
        raise WrongAnswer(f"error {document['error_id']}: {document.get('error_msg')}")
    if status != 200:
        raise WrongAnswer(f"HTTP status {status}")
    try:
        predictions = document["predictions"]
        return Answer(
            document["meta"]["puid"],
            tuple(prediction["predictedClass"] for prediction in predictions),
            tuple(float(prediction["prediction"]) for prediction in predictions),
        )
    except (KeyError, TypeError, ValueError):
        raise WrongAnswer("the response has an unexpected shape") from None


def of_reply(reply: ClassificationReply) -> Answer:
    """The answer of Classify."""
    return Answer(
        reply.meta.puid,
        tuple(prediction.predictedClass for prediction in reply.predictions),
        tuple(prediction.prediction for prediction in reply.predictions),
    )


def judge(answer: Answer, puid: str, images: int = 1) -> tuple[int, ...]:
    """The digits that a right answer to the request `puid`, of so many images, tells.

    Raises:
        WrongAnswer: Not ten probabilities of the classes 0 to 9 that sum to 1 for each image, or
            the answer to another request.
    """
    width = len(CLASSES)
    if len(answer.scores) != width * images:
        raise WrongAnswer(f"{len(answer.scores)} predictions, expected {width * images}")
    if answer.classes != CLASSES * images:
        raise WrongAnswer("the classes are not 0 to 9 in order")
    if not all(0 <= score <= 1 for score in answer.scores):
        raise WrongAnswer("a prediction is outside [0, 1]")
    told = []
    for start in range(0, width * images, width):
        scores = answer.scores[start : start + width]
        if not abs(sum(scores) - 1) <= SUM_TOLERANCE:
            raise WrongAnswer("the predictions do not sum to 1")
        told.append(max(range(width), key=scores.__getitem__))
    if answer.puid != puid:
        raise WrongAnswer("the puid does not match the request")
    return tuple(told)


def server_timing(text: str | None) -> ServerTiming | None:
    """The three durations of a Server-Timing text; None where it is absent or lacks one."""
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
    """The total of a Server-Timing text, which a refusal states as well; None where it lacks it."""
    total = dict(_TIMING.findall(text or "")).get("total")
    try:
        return None if total is None else float(total)
    except ValueError:
        return None


def gateway_timing(text: str | None) -> GatewayTiming | None:
    """The two durations of the gateway's header; None where it is absent or lacks one."""
    found = _GATEWAY.fullmatch(text or "")
    return GatewayTiming(float(found[1]), float(found[2])) if found else None


def in_metadata(metadata: Sequence[Any] | None, name: str) -> str | None:
    """The text under `name` in a call's metadata."""
    for key, value in metadata or ():
        if key == name and isinstance(value, str):
            return value
    return None
