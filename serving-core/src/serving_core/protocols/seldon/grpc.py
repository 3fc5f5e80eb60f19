"""Classify of seldon.proto."""

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
from serving_core.batching import Computed
from serving_core.errors import InvalidInput
from serving_core.exchange import InferenceRequest, Served
from serving_core.predictor import ClassifierView, classifier_of
from serving_core.protocols.grpc import GrpcReply, refuse
from serving_core.protocols.seldon.instances import check_instances

MAX_PUID = 256

_REQUEST_TYPE = ClassificationRequest.DESCRIPTOR.full_name
_PAYLOAD_TYPE = DefaultCustomPredictRequest.DESCRIPTOR.full_name
_VALUES_TAG = bytes([DefaultCustomPredictRequest.VALUES_FIELD_NUMBER << 3 | 2])
_MAX_SHOWN = 100

__all__ = ["decode", "encode", "refuse"]

# Its bytes are not valid UTF-8, so no label contains them.
_PLACEHOLDER = sys.float_info.max
_PLACEHOLDER_BYTES = struct.pack("<d", _PLACEHOLDER)


def decode(message: bytes, served: Served) -> InferenceRequest:
    """Decode a ClassificationRequest; its id is the puid, or a new one of 40 hex digits.

    Raises:
        InvalidInput: Invalid protobuf, wrong payload type, not a whole number of instances or
            too many, a value that is not finite, a puid that is too long.
    """
    view = classifier_of(served.model)
    try:
        request = ClassificationRequest.FromString(message)
    except DecodeError:
        raise InvalidInput(f"the request is no {_REQUEST_TYPE}: broken protobuf") from None
    puid = request.meta.puid or secrets.token_hex(20)
    if len(puid) > MAX_PUID:
        raise InvalidInput(f"meta.puid has {len(puid)} characters, the limit is {MAX_PUID}")
    data = request.data
    type_url = data.type_url
    if type_url.rpartition("/")[2] != _PAYLOAD_TYPE:
        actual = repr(type_url[:_MAX_SHOWN]) if type_url else "missing"
        raise InvalidInput(f"data is {actual}, expected a packed {_PAYLOAD_TYPE}")
    values = _read_values(data.value, view.features)
    instances = check_instances(values, view.features, "data.values")
    inputs = view.inputs(instances)
    return InferenceRequest(inputs, len(inputs[view.input]), puid, view)


def _read_values(payload: bytes, features: int) -> NDArray[np.float32]:
    head = _packed_head(features)
    # As every known client encodes it: one packed run of little-endian float32.
    if len(payload) == len(head) + 4 * features and payload.startswith(head):
        return np.frombuffer(payload, "<f4", offset=len(head)).astype(np.float32)
    # Other valid encodings: unpacked, several runs, unknown fields, another count.
    try:
        values = DefaultCustomPredictRequest.FromString(payload).values
    except DecodeError:
        raise InvalidInput(f"data.value is no {_PAYLOAD_TYPE}: broken protobuf") from None
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


def encode(
    message: bytes, request: InferenceRequest, computed: Computed, served: Served
) -> GrpcReply:
    """Encode a ClassificationReply; each score is widened to a double."""
    view: ClassifierView = request.options
    meta = ClassificationReplyMeta(
        puid=request.id, modelName=served.model.name, variation=served.variation
    )
    encode_row = _predictions_encoder(view.classes)
    pieces = [ClassificationReply(meta=meta).SerializeToString()]
    pieces += [encode_row(row) for row in view.scores(computed.outputs).tolist()]
    return GrpcReply(b"".join(pieces))


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
