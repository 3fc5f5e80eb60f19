"""A right answer, and everything that is none."""

import math
from dataclasses import replace

import pytest

from loadtest import answers
from loadtest.answers import Answer, InvalidResponse
from seldon_pb2 import ClassificationReply

RIGHT = Answer("p1", tuple("0123456789"), (0.01, 0.01, 0.91, *[0.01] * 7))


def test_a_valid_response_has_a_digit() -> None:
    assert answers.judge(RIGHT, "p1") == (2,)


def test_every_image_has_its_own_ten() -> None:
    three = replace(RIGHT, scores=(*RIGHT.scores[1:], 0.01))
    both = Answer("p1", RIGHT.classes * 2, RIGHT.scores + three.scores)
    assert answers.judge(both, "p1", 2) == (2, 1)
    with pytest.raises(InvalidResponse, match="20 predictions, expected 10"):
        answers.judge(both, "p1")
    halves = replace(both, scores=(0.05,) * 10 + (0.15,) * 10)
    with pytest.raises(InvalidResponse, match="do not sum to 1"):
        answers.judge(halves, "p1", 2)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (replace(RIGHT, puid="p2"), "the puid does not match the request"),
        (replace(RIGHT, scores=RIGHT.scores[:9]), "9 predictions, expected 10"),
        (replace(RIGHT, scores=()), "0 predictions, expected 10"),
        (replace(RIGHT, classes=tuple("1023456789")), "the classes are not 0 to 9 in order"),
        (replace(RIGHT, scores=(0.1,) * 9 + (0.1002,)), "the predictions do not sum to 1"),
        (replace(RIGHT, scores=(1.5, -0.5) + (0.0,) * 8), "a prediction is outside [0, 1]"),
        (replace(RIGHT, scores=(math.nan,) * 10), "a prediction is outside [0, 1]"),
    ],
)
def test_a_wrong_answer_is_named(answer: Answer, reason: str) -> None:
    with pytest.raises(InvalidResponse) as refused:
        answers.judge(answer, "p1")
    assert str(refused.value) == reason


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (200, b'j({"error_id":3,"error_msg":"Consumer not Authorized"})', "error 3: Consumer"),
        (500, b"<html>no</html>", "HTTP status 500"),
        (502, b"j({})", "HTTP status 502"),
        (200, b"<html>no</html>", "the response is not JSON"),
        (
            200,
            b'j({"meta":null,"predictions":[],"custom":null})',
            "the response has an unexpected shape",
        ),
        (200, b"j([])", "the response has an unexpected shape"),
    ],
)
def test_a_wrong_document_is_named(status: int, body: bytes, reason: str) -> None:
    with pytest.raises(InvalidResponse, match=reason):
        answers.of_document(status, answers.from_jsonp(status, body))


def test_an_empty_reply_is_wrong() -> None:
    with pytest.raises(InvalidResponse, match="0 predictions"):
        answers.judge(answers.of_reply(ClassificationReply()), "p1")


def test_server_timing_is_read() -> None:
    timing = answers.server_timing("queue;dur=0.012, compute;dur=0.613, total;dur=0.901")
    assert timing == answers.ServerTiming(0.012, 0.613, 0.901)
    assert answers.server_timing("queue;dur=1") is None
    assert answers.server_timing(None) is None


def test_gateway_timing_is_read() -> None:
    assert answers.gateway_timing("in=279, upstream=2457") == answers.GatewayTiming(279, 2457)
    assert answers.gateway_timing("in=-, upstream=2457") is None
    assert answers.gateway_timing(None) is None


def test_the_texts_of_metadata_are_found() -> None:
    metadata = [("other", "x"), ("server-timing", "total;dur=1"), ("bytes-bin", b"x")]
    assert answers.in_metadata(metadata, "server-timing") == "total;dur=1"
    assert answers.in_metadata(metadata, "bytes-bin") is None
    assert answers.in_metadata(None, "server-timing") is None
