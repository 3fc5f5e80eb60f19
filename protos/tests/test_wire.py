"""The messages against bytes written by hand from the contract's table of field numbers."""

import struct

import grpc
import pytest
from google.protobuf.any_pb2 import Any

import seldon_pb2
import seldon_pb2_grpc

TYPE_URL = b"type.googleapis.com/io.seldon.api.rpc.DefaultCustomPredictRequest"


def delimited(field: int, content: bytes) -> bytes:
    """A length-delimited field shorter than 128 bytes."""
    return bytes([field << 3 | 2, len(content)]) + content


def double(field: int, value: float) -> bytes:
    return bytes([field << 3 | 1]) + struct.pack("<d", value)


REQUEST = delimited(1, delimited(1, b"7")) + delimited(
    2, delimited(1, TYPE_URL) + delimited(2, delimited(1, struct.pack("<3f", 0.0, 0.5, 1.0)))
)
REPLY = (
    delimited(1, delimited(1, b"7") + delimited(2, b"deep_mnist") + delimited(3, b"deep-mnist-a"))
    + delimited(2, double(1, 0.25) + delimited(2, b"0") + double(3, 0.25))
    + delimited(2, double(1, 0.75) + delimited(2, b"1") + double(3, 0.75))
    + delimited(3, delimited(1, b"type.googleapis.com/acme.Extra") + delimited(2, b"\x08\x01"))
)


def request_message(values: list[float], puid: str) -> seldon_pb2.ClassificationRequest:
    request = seldon_pb2.ClassificationRequest()
    request.meta.puid = puid
    request.data.Pack(seldon_pb2.DefaultCustomPredictRequest(values=values))
    return request


def reply_message() -> seldon_pb2.ClassificationReply:
    return seldon_pb2.ClassificationReply(
        meta=seldon_pb2.ClassificationReplyMeta(
            puid="7", modelName="deep_mnist", variation="deep-mnist-a"
        ),
        predictions=[
            seldon_pb2.ClassificationResult(
                prediction=score, predictedClass=label, confidence=score
            )
            for label, score in (("0", 0.25), ("1", 0.75))
        ],
        custom=Any(type_url="type.googleapis.com/acme.Extra", value=b"\x08\x01"),
    )


def test_request_is_the_contract_s_bytes():
    assert request_message([0.0, 0.5, 1.0], "7").SerializeToString(deterministic=True) == REQUEST


def test_request_is_read_from_the_contract_s_bytes():
    request = seldon_pb2.ClassificationRequest.FromString(REQUEST)
    payload = seldon_pb2.DefaultCustomPredictRequest()
    assert request.data.Unpack(payload)
    assert (request.meta.puid, list(payload.values)) == ("7", [0.0, 0.5, 1.0])


def test_reply_is_the_contract_s_bytes():
    assert reply_message().SerializeToString(deterministic=True) == REPLY


def test_reply_is_read_from_the_contract_s_bytes():
    assert seldon_pb2.ClassificationReply.FromString(REPLY) == reply_message()


def test_values_may_come_unpacked():
    unpacked = b"".join(b"\x0d" + struct.pack("<f", value) for value in (0.5, 1.0))
    assert list(seldon_pb2.DefaultCustomPredictRequest.FromString(unpacked).values) == [0.5, 1.0]


def test_request_of_784_values_has_the_contract_s_size():
    assert len(request_message([0.5] * 784, "12345678").SerializeToString()) == 3224


def test_file_and_package_are_the_original_s():
    descriptor = seldon_pb2.DESCRIPTOR
    assert (descriptor.name, descriptor.package) == ("seldon.proto", "io.seldon.api.rpc")
    assert [dependency.name for dependency in descriptor.dependencies] == [
        "google/protobuf/any.proto"
    ]


def test_java_options_are_the_original_s():
    options = seldon_pb2.DESCRIPTOR.GetOptions()
    assert options.java_package == "io.seldon.api.rpc"
    assert options.java_outer_classname == "PredictionAPI"
    assert options.java_multiple_files


def test_seldon_has_the_one_unary_method_classify():
    service = seldon_pb2.DESCRIPTOR.services_by_name["Seldon"]
    (method,) = service.methods
    assert f"/{service.full_name}/{method.name}" == "/io.seldon.api.rpc.Seldon/Classify"
    assert not method.client_streaming
    assert not method.server_streaming
    assert method.input_type.name == "ClassificationRequest"
    assert method.output_type.name == "ClassificationReply"


class RecordingChannel(grpc.Channel):
    """A channel that keeps the paths a stub asks it for; calls go nowhere."""

    def __init__(self) -> None:
        self.paths: list[str] = []

    def unary_unary(self, method, *arguments, **options):
        self.paths.append(method)

    def _unused(self, *arguments, **options):
        pytest.fail("only unary calls exist")

    unary_stream = stream_unary = stream_stream = _unused
    subscribe = unsubscribe = close = __enter__ = __exit__ = _unused


def test_stub_calls_the_contract_s_path():
    channel = RecordingChannel()
    seldon_pb2_grpc.SeldonStub(channel)
    assert channel.paths == ["/io.seldon.api.rpc.Seldon/Classify"]
