import re
import struct

import numpy as np
import pytest

import seldon_pb2
from serving_core import Computed, InvalidInput, Served, Signature, TensorSpec
from serving_core.exchange import InferenceRequest
from serving_core.predictor import ModelInfo, classifier_of
from serving_core.protocols.seldon import grpc
from serving_core.testing import classifier_info

SERVED = Served(classifier_info(name="deep_mnist"), "blue")
TYPE_URL = b"type.googleapis.com/io.seldon.api.rpc.DefaultCustomPredictRequest"
VALUES = np.linspace(0.0, 1.0, 784, dtype=np.float32)


def read_request(message: bytes) -> tuple[np.ndarray, str]:
    """The instances, one without its batch of one, and the puid."""
    request = grpc.decode(message, SERVED)
    rows = request.inputs["instances"]
    assert request.rows == len(rows)
    return (rows[0] if len(rows) == 1 else rows), request.id


def write_reply(scores: np.ndarray, served: Served, puid: str) -> bytes:
    request = InferenceRequest({}, len(scores), puid, classifier_of(served.model))
    computed = Computed({"probabilities": scores}, 0.0, 0.0, len(scores))
    reply = grpc.encode(b"", request, computed, served)
    assert (reply.code, reply.details) == ("OK", "")
    assert reply.message is not None
    return reply.message


def varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*encoded, number])


def delimited(field: int, content: bytes) -> bytes:
    return bytes([field << 3 | 2]) + varint(len(content)) + content


def packed(values) -> bytes:
    return delimited(1, np.asarray(values, "<f4").tobytes())


def unpacked(values) -> bytes:
    return b"".join(b"\x0d" + struct.pack("<f", value) for value in values)


def message(payload: bytes, type_url: bytes = TYPE_URL, puid: bytes = b"p") -> bytes:
    return delimited(1, delimited(1, puid)) + delimited(
        2, delimited(1, type_url) + delimited(2, payload)
    )


UNKNOWN_FIELD = delimited(15, b"from a later version")

EQUIVALENT = {
    "one packed run": packed(VALUES),
    "unpacked": unpacked(VALUES),
    "several runs": packed(VALUES[:100]) + packed(VALUES[100:]),
    "packed, then unpacked": packed(VALUES[:100]) + unpacked(VALUES[100:]),
    "empty run first": packed([]) + packed(VALUES),
    "unknown field behind": packed(VALUES) + UNKNOWN_FIELD,
    "unknown field in front": UNKNOWN_FIELD + packed(VALUES),
    "length in a longer varint": b"\x0a\xc0\x98\x80\x00" + VALUES.tobytes(),
}


@pytest.mark.parametrize("payload", EQUIVALENT.values(), ids=EQUIVALENT)
def test_every_encoding_of_the_values_gives_the_same_instance(payload):
    instance, puid = read_request(message(payload))
    assert instance.dtype == np.float32
    assert instance.flags.aligned
    np.testing.assert_array_equal(instance, VALUES)
    assert puid == "p"


def test_fields_may_come_in_any_order():
    data = delimited(2, packed(VALUES)) + delimited(1, TYPE_URL)
    instance, puid = read_request(delimited(2, data) + delimited(1, delimited(1, b"q")))
    np.testing.assert_array_equal(instance, VALUES)
    assert puid == "q"


def test_only_the_name_behind_the_last_slash_of_a_type_url_counts():
    url = TYPE_URL.replace(b"type.googleapis.com", b"example.org/types")
    read_request(message(packed(VALUES), url))


@pytest.mark.parametrize("meta", [b"", delimited(1, b""), delimited(1, delimited(1, b""))])
def test_without_a_puid_each_request_gets_a_fresh_one(meta):
    request = meta + delimited(2, delimited(1, TYPE_URL) + delimited(2, packed(VALUES)))
    puids = {read_request(request)[1] for _ in range(100)}
    assert len(puids) == 100
    assert all(re.fullmatch("[0-9a-f]{40}", puid) for puid in puids)


def test_a_puid_of_256_characters_is_kept():
    assert read_request(message(packed(VALUES), puid=b"x" * 256))[1] == "x" * 256


SPOILT = VALUES.copy()
SPOILT[7] = np.nan
LARGE = VALUES.copy()
LARGE[783] = np.inf

REFUSED = {
    "broken message": (b"\xff\xff\xff", "the request is no .*ClassificationRequest: broken"),
    "cut off": (message(packed(VALUES))[:-1], "the request is no .*ClassificationRequest: broken"),
    "puid is no UTF-8": (message(packed(VALUES), puid=b"\xff"), "broken protobuf"),
    "puid too long": (
        message(packed(VALUES), puid=b"x" * 257),
        "^meta.puid has 257 characters, the limit is 256$",
    ),
    "nothing": (b"", "^data is missing, expected a packed io.seldon.api.rpc.DefaultCustom"),
    "no type": (message(packed(VALUES), b""), "^data is missing"),
    "another type": (
        message(packed(VALUES), b"type.googleapis.com/acme.Other"),
        "^data is 'type.googleapis.com/acme.Other', expected .*DefaultCustomPredictRequest$",
    ),
    "a type without end": (message(b"", b"x" * 10_000), "^data is 'x{100}', expected"),
    "broken payload": (message(b"\x0a\xff"), "^data.value is no .*DefaultCustomPredictRequest"),
    "run of a broken length": (message(delimited(1, b"12345")), "^data.value is no "),
    "no payload": (message(b""), "^data.values has 0 values, expected 784$"),
    "one value short": (message(packed(VALUES[1:])), "^data.values has 783 values, expected 784$"),
    "one value more": (
        message(packed([*VALUES, 0.5])),
        "^data.values has 785 values, expected 784$",
    ),
    "not a number": (message(packed(SPOILT)), r"^data.values\[7\] is nan, expected a finite"),
    "infinite": (message(packed(LARGE)), r"^data.values\[783\] is inf, expected a finite"),
    "infinite, unpacked": (message(unpacked(LARGE)), r"^data.values\[783\] is inf"),
}


@pytest.mark.parametrize(("request_bytes", "text"), REFUSED.values(), ids=REFUSED)
def test_a_bad_request_is_refused_with_field_and_limit(request_bytes, text):
    with pytest.raises(InvalidInput, match=text):
        read_request(request_bytes)


def test_a_reply_has_one_prediction_a_class_in_class_order():
    scores = np.array([0.0, 0.1, 0.2, 0.3, 0.4, 0.0, 0.0, 0.0, 0.0, 1e-30], dtype=np.float32)
    encoded = write_reply(scores[np.newaxis], SERVED, "p")
    reply = seldon_pb2.ClassificationReply.FromString(encoded)
    assert reply.meta == seldon_pb2.ClassificationReplyMeta(
        puid="p", modelName="deep_mnist", variation="blue"
    )
    assert [result.predictedClass for result in reply.predictions] == list("0123456789")
    # The double nearest to the float32 is the float32: nothing is rounded on the way.
    assert [result.prediction for result in reply.predictions] == scores.astype(float).tolist()
    assert [result.confidence for result in reply.predictions] == scores.astype(float).tolist()
    assert not reply.HasField("custom")


@pytest.mark.parametrize("classes", [("",), ("a", "", "é" * 300), tuple("0123456789")])
@pytest.mark.parametrize("instances", [1, 3])
def test_any_classes_and_numbers_are_encoded_as_protobuf_reads_them(classes, instances):
    signature = Signature(
        (TensorSpec("instances", "FP32", (-1, 784)),),
        (TensorSpec("probabilities", "FP32", (-1, len(classes))),),
    )
    served = Served(ModelInfo("m", "1", "fake", signature, classes), "")
    scores = np.linspace(-1, 1e38, instances * len(classes), dtype=np.float32)
    scores = scores.reshape(instances, len(classes))
    reply = seldon_pb2.ClassificationReply.FromString(write_reply(scores, served, ""))
    assert [result.predictedClass for result in reply.predictions] == [*classes] * instances
    for field in ("prediction", "confidence"):
        assert [getattr(result, field) for result in reply.predictions] == scores.ravel().tolist()
