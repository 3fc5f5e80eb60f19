import logging
import re
import struct
import threading

import grpc
import numpy as np
import pytest

import seldon_pb2
from polling import eventually
from seldon_core_pb2 import SeldonMessage
from serving_core import ErrorKind
from serving_core.protocols.grpc import CODES
from serving_core.testing import FakePredictor, expected_scores

CLASSIFY = "/io.seldon.api.rpc.Seldon/Classify"
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
TYPE_URL = b"type.googleapis.com/io.seldon.api.rpc.DefaultCustomPredictRequest"


def test_the_status_table_covers_every_kind_of_error():
    assert set(CODES) == set(ErrorKind)
    assert {grpc.StatusCode[code] for code in CODES.values()}.isdisjoint({grpc.StatusCode.OK})


def test_a_good_request_gets_the_model_s_scores_as_doubles(start, request_bytes):
    values = np.linspace(0, 1, 784, dtype=np.float32)
    reply, _ = start().classify(request_bytes(values, puid="mine"))
    assert reply.meta == seldon_pb2.ClassificationReplyMeta(
        puid="mine", modelName="fake", variation="default"
    )
    scores = expected_scores(values).astype(float).tolist()
    assert [result.prediction for result in reply.predictions] == scores
    assert [result.confidence for result in reply.predictions] == scores
    assert [result.predictedClass for result in reply.predictions] == list("0123456789")


def test_without_a_puid_the_server_makes_one_of_40_hexadecimal_characters(start, request_bytes):
    running = start()
    request = request_bytes(np.zeros(784))
    first, second = (running.classify(request)[0].meta.puid for _ in range(2))
    assert re.fullmatch("[0-9a-f]{40}", first)
    assert first != second


def test_the_bytes_of_an_old_client_are_served(start):
    # Written by hand from the contract's field numbers: meta.puid "7", then the packed Any.
    values = np.linspace(0, 1, 784, dtype=np.float32)
    payload = b"\x0a\xc0\x18" + struct.pack("<784f", *values.tolist())
    data = b"\x0a\x41" + TYPE_URL + b"\x12\xc3\x18" + payload
    request = b"\x0a\x03\x0a\x01\x37" + b"\x12\x89\x19" + data
    reply, _ = start().classify(request)
    assert reply.meta.puid == "7"
    assert [p.prediction for p in reply.predictions] == expected_scores(values).tolist()


def spoilt(value: float) -> np.ndarray:
    values = np.full(784, 0.5)
    values[3] = value
    return values


def wrapped(type_url: str, payload: bytes) -> bytes:
    request = seldon_pb2.ClassificationRequest()
    request.data.type_url, request.data.value = type_url, payload
    return request.SerializeToString()


INVALID = grpc.StatusCode.INVALID_ARGUMENT
BAD_REQUESTS = {
    "empty": (lambda make: b"", INVALID, "data is missing"),
    "noise": (lambda make: b"\xff" * 64, INVALID, "broken protobuf"),
    "cut off": (lambda make: make(np.zeros(784))[:-3], INVALID, "broken protobuf"),
    "puid is no text": (lambda make: b"\x0a\x04\x0a\x02\xff\xff", INVALID, "broken protobuf"),
    "puid too long": (
        lambda make: make(np.zeros(784), puid="x" * 257),
        INVALID,
        "meta.puid has 257 characters, the limit is 256",
    ),
    "another type": (
        lambda make: wrapped("type.googleapis.com/acme.Image", b""),
        INVALID,
        "data is 'type.googleapis.com/acme.Image', "
        "expected a packed io.seldon.api.rpc.DefaultCustomPredictRequest",
    ),
    "broken payload": (
        lambda make: wrapped(TYPE_URL.decode(), b"\x0a\x7f"),
        INVALID,
        "data.value is no io.seldon.api.rpc.DefaultCustomPredictRequest",
    ),
    "no values": (lambda make: make([]), INVALID, "data.values has 0 values, expected 784"),
    "783": (lambda make: make(np.zeros(783)), INVALID, "data.values has 783 values, expected 784"),
    "785": (lambda make: make(np.zeros(785)), INVALID, "data.values has 785 values, expected 784"),
    "NaN": (lambda make: make(spoilt(np.nan)), INVALID, "data.values[3] is nan"),
    "infinity": (lambda make: make(spoilt(-np.inf)), INVALID, "data.values[3] is -inf"),
    "10 MB": (
        lambda make: make(np.zeros(2_500_000)),
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "1048576",
    ),
}


@pytest.mark.parametrize(("build", "code", "text"), BAD_REQUESTS.values(), ids=BAD_REQUESTS)
def test_a_bad_request_gets_its_status_and_the_next_good_one_is_served(
    build, code, text, start, request_bytes, good
):
    running = start()
    refusal = running.refusal(build(request_bytes))
    assert refusal.code() is code
    assert text in refusal.details()
    assert "Traceback" not in refusal.details()
    assert running.predictor.batches == []
    assert running.classify(good)[0].meta.puid == "good"


def test_a_gzip_bomb_is_refused_and_the_next_good_one_is_served(start, good):
    running = start()
    refusal = running.refusal(bytes(50_000_000), compression=grpc.Compression.Gzip)
    assert refusal.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert running.classify(good, compression=grpc.Compression.Gzip)[0].meta.puid == "good"


def test_an_unknown_method_is_unimplemented(start, good):
    running = start()
    unknown = running.channel.unary_unary("/io.seldon.api.rpc.Seldon/Recommend")
    with pytest.raises(grpc.RpcError) as caught:
        unknown(good, timeout=10)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_the_gateway_s_metadata_name_variation_and_client(start, good):
    running = start()
    metadata = (("x-seldon-client", "acme"), ("x-seldon-variation", "blue"))
    assert running.classify(good, metadata=metadata)[0].meta.variation == "blue"
    assert running.count("OK", client="acme", variation="blue") == 1


@pytest.mark.parametrize("names", ["blue", "green,blue"])
def test_a_deployment_of_seldon_core_is_one_of_the_gateway_s_models(names, start):
    running = start()
    predict = running.channel.unary_unary("/seldon.protos.Seldon/Predict")
    message = SeldonMessage()
    message.data.tensor.shape.extend((1, 784))
    message.data.tensor.values.extend([0.0] * 784)

    def call(*metadata: tuple[str, str]) -> dict[str, str]:
        reply = predict(message.SerializeToString(), metadata=metadata, timeout=10)
        return dict(SeldonMessage.FromString(reply).meta.requestPath)

    gateway = (("x-seldon-variation", "blue"), ("x-seldon-models", names))
    assert call(*gateway, ("seldon", "blue"), ("namespace", "any")) == {"blue": "1"}
    assert call(*gateway) == {"blue": "1"}
    assert call(("seldon", "other")) == {"fake": "1"}  # no gateway
    with pytest.raises(grpc.RpcError) as refused:
        call(*gateway, ("seldon", "other"))
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND
    expected = f"model name is 'other', expected one of: {names.replace(',', ', ')}"
    assert refused.value.details() == expected
    assert running.count("NOT_FOUND", client="direct", variation="blue") == 1


def test_an_answer_carries_its_server_timing(start, good):
    _, call = start().classify(good)
    timing = dict(call.trailing_metadata())["server-timing"]
    number = r"(\d+\.\d{3})"
    match = re.fullmatch(f"queue;dur={number}, compute;dur={number}, total;dur={number}", timing)
    assert match is not None, timing
    queue, compute, total = map(float, match.groups())
    assert 0 <= queue + compute <= total


def test_a_refusal_carries_its_server_timing_too(start):
    timing = dict(start().refusal(b"").trailing_metadata())["server-timing"]
    assert re.fullmatch(r"total;dur=\d+\.\d{3}", timing)


@pytest.mark.parametrize("runs_engine", [False, True])
def test_eight_callers_get_each_their_own_answers(runs_engine, start, request_bytes):
    running = start(runs_engine=runs_engine)
    wrong = []

    def call(tag: int) -> None:
        for number in range(40):
            values = np.full(784, (tag + number * 8) / 512, dtype=np.float32)
            puid = f"{tag}-{number}"
            reply, _ = running.classify(request_bytes(values, puid=puid))
            scores = [result.prediction for result in reply.predictions]
            if (reply.meta.puid, scores) != (puid, expected_scores(values).tolist()):
                wrong.append(puid)

    callers = [threading.Thread(target=call, args=(tag,)) for tag in range(8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert wrong == []
    assert running.count("OK") == 320
    assert sum(running.predictor.batches) == 320


def test_a_deadline_shorter_than_the_queue_ends_the_call_and_it_is_not_computed(start, good):
    running = start()
    running.predictor.gate.clear()
    first = running.begin(good)
    eventually(lambda: running.predictor.computing and running.batcher.queued == 0)
    late = running.begin(good, timeout=0.15)
    assert late.exception(timeout=10).code() is grpc.StatusCode.DEADLINE_EXCEEDED
    running.predictor.gate.set()
    first.result(timeout=10)
    eventually(lambda: running.count("DEADLINE_EXCEEDED") == 1)
    running.classify(good)
    assert running.predictor.batches == [1, 1]


@pytest.mark.parametrize("timeout", [None, 1e9])
def test_a_call_without_a_deadline_or_with_one_far_away_is_served(timeout, start, good):
    assert start().channel.unary_unary(CLASSIFY)(good, timeout=timeout)


def test_calls_that_came_while_the_loop_ran_the_engine_share_its_next_call(start, good):
    running = start(runs_engine=True)
    running.predictor.gate.clear()
    first = running.begin(good)
    eventually(lambda: running.predictor.computing and running.batcher.queued == 0)
    others = [running.begin(good) for _ in range(8)]
    late = running.begin(good, timeout=0.1)
    assert late.exception(timeout=10).code() is grpc.StatusCode.DEADLINE_EXCEEDED
    running.predictor.gate.set()
    assert all(call.result(timeout=10) for call in [first, *others])
    assert running.predictor.batches == [1, 8]
    eventually(lambda: running.count("DEADLINE_EXCEEDED") == 1)
    assert running.count("OK") == 9


def test_a_full_queue_refuses_at_once_and_health_still_answers(start, good, check):
    running = start(GRPC_QUEUE_LIMIT="2")
    running.predictor.gate.clear()
    computed = running.begin(good)
    eventually(lambda: running.predictor.computing and running.batcher.queued == 0)
    waiting = [running.begin(good) for _ in range(2)]
    eventually(lambda: running.batcher.queued == 2)
    refusal = running.refusal(good)
    assert refusal.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "2 requests, the limit" in refusal.details()
    assert check(running.channel) == "SERVING"
    running.predictor.gate.set()
    for call in (computed, *waiting):
        assert call.result(timeout=10)
    assert running.count("RESOURCE_EXHAUSTED") == 1
    assert running.count("OK") == 3


def test_predictions_need_no_thread_of_the_others(start, good):
    running = start(GRPC_THREADS="1")
    over = threading.Event()

    def nothing():
        over.wait()
        yield from ()

    held = running.channel.stream_stream(REFLECTION)(nothing())
    for _ in range(20):
        assert running.classify(good)
    over.set()
    held.cancel()


def test_a_call_without_a_message_is_refused(start):
    running = start()
    nothing = running.channel.stream_unary(CLASSIFY)
    with pytest.raises(grpc.RpcError) as refused:
        nothing(iter(()), timeout=10)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "no message" in str(refused.value.details())
    eventually(lambda: running.count("INVALID_ARGUMENT") == 1)


def test_a_caller_that_leaves_before_its_message_has_come_made_no_mistake(start):
    running = start()
    nothing = running.channel.stream_unary(CLASSIFY)
    leaving = threading.Event()

    def message():
        leaving.wait()
        yield from ()

    call = nothing.future(message(), timeout=10)
    eventually(lambda: running.server.in_flight == 1)
    call.cancel()
    eventually(lambda: running.count("CANCELLED") == 1)
    leaving.set()
    assert running.count("INVALID_ARGUMENT") == 0
    assert running.in_flight() == 0


def test_a_model_that_fails_is_internal_without_its_words(start, good, caplog):
    running = start(FakePredictor(failure=RuntimeError("secret path")))
    with caplog.at_level(logging.ERROR):
        refusal = running.refusal(good)
    assert refusal.code() is grpc.StatusCode.INTERNAL
    assert "secret" not in refusal.details()
    assert "secret path" in caplog.text
    running.predictor.failure = None
    assert running.classify(good)


def test_a_fault_of_our_own_is_internal_without_its_words(start, good, caplog):
    class WrongShape(FakePredictor):
        def scores(self, rows):
            return super().scores(rows)[:, :3]

    with caplog.at_level(logging.ERROR):
        refusal = start(WrongShape()).refusal(good)
    assert refusal.code() is grpc.StatusCode.INTERNAL
    assert refusal.details() == "the server failed on this request"
    assert "Traceback" in caplog.text


def test_before_the_model_is_ready_a_call_is_unavailable(start, good):
    refusal = start(ready=False).refusal(good)
    assert refusal.code() is grpc.StatusCode.UNAVAILABLE


def test_every_call_is_counted_by_its_end(start, good):
    running = start()
    for _ in range(3):
        running.classify(good)
    running.refusal(b"")
    assert running.count("OK") == 3
    assert running.count("INVALID_ARGUMENT") == 1
    labels = {"protocol": "grpc", "variation": "default"}
    durations = running.registry.get_sample_value("seldon_request_duration_seconds_count", labels)
    computed = running.registry.get_sample_value("seldon_compute_duration_seconds_count", labels)
    assert (durations, computed, running.in_flight()) == (4, 3, 0)
