"""Decode requests and encode replies of seldon.proto."""

import secrets
import struct
import sys
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from seldon_pb2 import (
    ClassificationReply,
    ClassificationReplyMeta,
    ClassificationRequest,
    DefaultCustomPredictRequest,
)
from serving_core import InvalidInstances, ModelInfo, Scored, check_instances

MAX_PUID = 256

_REQUEST_TYPE = ClassificationRequest.DESCRIPTOR.full_name
_PAYLOAD_TYPE = DefaultCustomPredictRequest.DESCRIPTOR.full_name
_VALUES_TAG = bytes([DefaultCustomPredictRequest.VALUES_FIELD_NUMBER << 3 | 2])
_MAX_SHOWN = 100

# Its bytes are not valid UTF-8, so no label contains them.
_PLACEHOLDER = sys.float_info.max
_PLACEHOLDER_BYTES = struct.pack("<d", _PLACEHOLDER)


def read_request(message: bytes, features: int) -> tuple[NDArray[np.float32], str]:
    """Decode one ClassificationRequest.

    Args:
        message: Its protobuf encoding.
        features: Width of the model's input.

    Returns:
        The instances, shape (features,) or (instances, features), float32, finite; and the puid:
        the client's, or a new one of 40 hexadecimal characters.

    Raises:
        InvalidInstances: Invalid protobuf, wrong payload type, not a whole number of instances or
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
        actual = repr(type_url[:_MAX_SHOWN]) if type_url else "missing"
        raise InvalidInstances(f"data is {actual}, expected a packed {_PAYLOAD_TYPE}")
    return check_instances(_read_values(data.value, features), features, "data.values"), puid


def _read_values(payload: bytes, features: int) -> NDArray[np.float32]:
    head = _packed_head(features)
    # As every known client encodes it: one packed run of little-endian float32.
    if len(payload) == len(head) + 4 * features and payload.startswith(head):
        return np.frombuffer(payload, "<f4", offset=len(head)).astype(np.float32)
    # Other valid encodings: unpacked, several runs, unknown fields, another count.
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
        scores: Shape (classes,), or (instances, classes) for several instances; each is widened to
            a double, as prediction and confidence.
        info: Name and classes of the model.
        puid: The prediction's id.
        variation: The variation's label.
    """
    meta = ClassificationReplyMeta(puid=puid, modelName=info.name, variation=variation)
    encode = _predictions_encoder(info.classes)
    pieces = [ClassificationReply(meta=meta).SerializeToString()]
    pieces += [encode(row) for row in scores.reshape(-1, len(info.classes)).tolist()]
    return b"".join(pieces)


@lru_cache(maxsize=8)
def _predictions_encoder(classes: tuple[str, ...]) -> Callable[[list[float]], bytes]:
    """Return an encoder of the predictions of one instance.

    The replies of a model differ only in the scores, which have fixed positions of eight bytes:
    protobuf encodes the bytes between them once (docs/performance-log.md).
    """
    text: list[bytes | float] = []
    for label in classes:
        reply = ClassificationReply()
        reply.predictions.add(
            prediction=_PLACEHOLDER, predictedClass=label, confidence=_PLACEHOLDER
        )
        before, between, _ = reply.SerializeToString().split(_PLACEHOLDER_BYTES)
        text += [before, _PLACEHOLDER, between, _PLACEHOLDER]
    form = "".join(f"{len(part)}s" if isinstance(part, bytes) else "d" for part in text)
    pack = struct.Struct(f"<{form}").pack

    def encode(row: list[float]) -> bytes:
        parts = text.copy()
        parts[1::4] = parts[3::4] = row
        return pack(*parts)

    return encode


def server_timing(total_s: float, scored: Scored | None) -> str:
    """The Server-Timing text: milliseconds with microsecond digits.

    Args:
        total_s: Server latency in seconds.
        scored: None if the request never reached the engine; only the total is known then.
    """
    if scored is None:
        return f"total;dur={total_s * 1e3:.3f}"
    return (
        f"queue;dur={scored.queue_s * 1e3:.3f}, compute;dur={scored.compute_s * 1e3:.3f}, "
        f"total;dur={total_s * 1e3:.3f}"
    )
