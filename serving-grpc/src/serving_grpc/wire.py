"""Between the bytes of seldon.proto and arrays; nothing of gRPC, nothing of the model."""

import secrets
import struct
import sys
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from model_runtime import InvalidInstances, ModelInfo, Scored, check_instances
from seldon_pb2 import (
    ClassificationReply,
    ClassificationReplyMeta,
    ClassificationRequest,
    DefaultCustomPredictRequest,
)

MAX_PUID = 256

_REQUEST_TYPE = ClassificationRequest.DESCRIPTOR.full_name
_PAYLOAD_TYPE = DefaultCustomPredictRequest.DESCRIPTOR.full_name
_VALUES_TAG = bytes([DefaultCustomPredictRequest.VALUES_FIELD_NUMBER << 3 | 2])
_LONGEST_SHOWN = 100

# Its bytes are no UTF-8, so they are in no label.
_NUMBER = sys.float_info.max
_NUMBERS_BYTES = struct.pack("<d", _NUMBER)


def read_request(message: bytes, features: int) -> tuple[NDArray[np.float32], str]:
    """Read one ClassificationRequest.

    Args:
        message: Its protobuf encoding.
        features: Width of the model's input.

    Returns:
        The instance, shape (features,), or several, (instances, features), float32, finite; and
        the puid: the caller's, else a fresh one of 40 hexadecimal characters.

    Raises:
        InvalidInstances: Broken protobuf, another payload type, no whole number of instances or
            too many, a value that is not finite, a puid that is too long.
    """
    try:
        request = ClassificationRequest.FromString(message)
    except DecodeError:
        raise InvalidInstances(f"the request is no {_REQUEST_TYPE}: broken protobuf") from None
    puid = request.meta.puid or secrets.token_hex(20)
    if len(puid) > MAX_PUID:
        raise InvalidInstances(f"meta.puid has {len(puid)} characters, the limit is {MAX_PUID}")
    data = request.data
    type_url = data.type_url
    if type_url.rpartition("/")[2] != _PAYLOAD_TYPE:
        given = repr(type_url[:_LONGEST_SHOWN]) if type_url else "missing"
        raise InvalidInstances(f"data is {given}, expected a packed {_PAYLOAD_TYPE}")
    return check_instances(_read_values(data.value, features), features, "data.values"), puid


def _read_values(payload: bytes, features: int) -> NDArray[np.float32]:
    head = _packed_head(features)
    # As every known client writes it: one packed run, little-endian float32 already.
    if len(payload) == len(head) + 4 * features and payload.startswith(head):
        return np.frombuffer(payload, "<f4", offset=len(head)).astype(np.float32)
    # As protobuf also allows: unpacked, in several runs, beside unknown fields, another count.
    try:
        values = DefaultCustomPredictRequest.FromString(payload).values
    except DecodeError:
        raise InvalidInstances(f"data.value is no {_PAYLOAD_TYPE}: broken protobuf") from None
    return np.array(values, dtype=np.float32)


@lru_cache(maxsize=8)
def _packed_head(features: int) -> bytes:
    """Tag and length of a packed run of `features` floats."""
    length = 4 * features
    varint = bytearray()
    while length > 0x7F:
        varint.append(length & 0x7F | 0x80)
        length >>= 7
    varint.append(length)
    return _VALUES_TAG + bytes(varint)


def write_reply(scores: NDArray[np.float32], info: ModelInfo, puid: str, variation: str) -> bytes:
    """Encode one ClassificationReply.

    Args:
        scores: Shape (classes,), or (instances, classes) of several, one after the other; each
            goes out widened to a double, as prediction and confidence.
        info: Names the model and its classes.
        puid: The prediction's id.
        variation: The label of the variation that answered.
    """
    meta = ClassificationReplyMeta(puid=puid, modelName=info.name, variation=variation)
    packed = _predictions_form(info.classes)
    pieces = [ClassificationReply(meta=meta).SerializeToString()]
    pieces += [packed(row) for row in scores.reshape(-1, len(info.classes)).tolist()]
    return b"".join(pieces)


@lru_cache(maxsize=8)
def _predictions_form(classes: tuple[str, ...]) -> Callable[[list[float]], bytes]:
    """Encodes the predictions of one instance.

    Of every answer of a model only the numbers differ, and each has its eight bytes at the same
    place: protobuf writes the text between them once, here (see docs/performance-log.md).
    """
    text: list[bytes | float] = []
    for label in classes:
        reply = ClassificationReply()
        reply.predictions.add(prediction=_NUMBER, predictedClass=label, confidence=_NUMBER)
        before, between, _ = reply.SerializeToString().split(_NUMBERS_BYTES)
        text += [before, _NUMBER, between, _NUMBER]
    form = "".join(f"{len(part)}s" if isinstance(part, bytes) else "d" for part in text)
    pack = struct.Struct(f"<{form}").pack

    def packed(row: list[float]) -> bytes:
        parts = text.copy()
        parts[1::4] = parts[3::4] = row
        return pack(*parts)

    return packed


def server_timing(total_s: float, scored: Scored | None) -> str:
    """The Server-Timing text: milliseconds with microsecond digits.

    Args:
        total_s: Seconds from the request read to the answer written.
        scored: None when the request never reached the engine; then only the total is known.
    """
    if scored is None:
        return f"total;dur={total_s * 1e3:.3f}"
    return (
        f"queue;dur={scored.queue_s * 1e3:.3f}, compute;dur={scored.compute_s * 1e3:.3f}, "
        f"total;dur={total_s * 1e3:.3f}"
    )
