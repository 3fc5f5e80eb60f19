"""What is packed is what a server decodes; what it answers is accepted, and nothing else."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import numpy as np
import orjson
import pytest

from loadtest import wire
from loadtest.answers import InvalidResponse
from loadtest.credentials import TokenSource
from loadtest.datasets import Rows, random_rows
from loadtest.errors import SettingInvalid
from loadtest.locustfiles.rest_connection import RestConnection, RestRequests
from loadtest.open_inference import OpenInferencePayload
from loadtest.settings import LoadTestSettings
from models_under_test import MIXED, computed
from open_inference_pb2 import ModelInferResponse
from serving_core import Computed, Served
from serving_core.protocols.http import HttpRequest
from serving_core.protocols.open_inference import grpc, rest
from serving_core.tensors import Signature, TensorSpec

SIGNATURE = MIXED.model.signature
ROWS = random_rows(SIGNATURE, 1, 1, None)
OUTPUTS = {
    "y": np.array([[0.25, 0.75], [1, 0]], np.float32),
    "t": np.array([b"a", "é".encode()], object),
}
LABELLED = replace(ROWS, labels=(1,) * len(ROWS))


def payload(protocol: str, rows: Rows = ROWS, images: int = 2) -> OpenInferencePayload:
    return OpenInferencePayload("mixed", SIGNATURE, rows, images, protocol=protocol)


def over_rest(
    sent: OpenInferencePayload, index: int, puid: str, answer: Computed, served: Served
) -> tuple[Any, Any]:
    """What the server decodes of a request, and the document that it answers."""
    method, target, body = sent.template(index).completed(puid)
    message = HttpRequest(target, method, "", body=body)
    request = rest.decode(message, served)
    return request, orjson.loads(rest.encode(message, request, answer, served).body)


def over_grpc(
    sent: OpenInferencePayload, index: int, puid: str, answer: Computed, served: Served
) -> tuple[Any, Any]:
    message = sent.message(index, puid)
    request = grpc.decode(message, served)
    reply = grpc.encode(message, request, answer, served).message
    assert reply is not None
    return request, ModelInferResponse.FromString(reply)


EXCHANGE: dict[str, Callable[..., tuple[Any, Any]]] = {"rest": over_rest, "grpc": over_grpc}


def judge(sent: OpenInferencePayload, protocol: str, response: Any, puid: str) -> Any:
    if protocol == "rest":
        return sent.judge_document(200, response, puid)
    return sent.judge_reply(response, puid)


@pytest.mark.parametrize("protocol", EXCHANGE)
def test_a_server_decodes_the_rows_and_its_answer_is_accepted(protocol: str) -> None:
    sent = payload(protocol)
    assert len(sent) == len(ROWS)
    for index in (0, 7, len(ROWS) - 1):
        request, response = EXCHANGE[protocol](sent, index, "1-7", computed(**OUTPUTS), MIXED)
        assert (request.id, request.rows) == ("1-7", 2)
        for name, array in request.inputs.items():
            column = ROWS.inputs[name]
            expected = np.stack([column[index], column[(index + 1) % len(ROWS)]])
            np.testing.assert_array_equal(array, expected)
        assert judge(sent, protocol, response, "1-7") is None


@pytest.mark.parametrize("protocol", EXCHANGE)
def test_with_labels_the_scores_tell_the_class_of_each_row(protocol: str) -> None:
    sent = payload(protocol, LABELLED)
    _, response = EXCHANGE[protocol](sent, 0, "p", computed(**OUTPUTS), MIXED)
    assert judge(sent, protocol, response, "p") == (1, 0)


@pytest.mark.parametrize("protocol", EXCHANGE)
@pytest.mark.parametrize(
    ("puid", "change", "reason"),
    [
        ("other", {}, "the id does not match the request"),
        ("p", {"y": OUTPUTS["y"][:1], "t": OUTPUTS["t"][:1]}, r"output y has shape \[1, 2\]"),
        ("p", {"y": np.ones((2, 3), np.float32)}, r"output y has shape \[2, 3\]"),
    ],
)
def test_another_answer_is_a_failure(
    protocol: str, puid: str, change: dict[str, Any], reason: str
) -> None:
    sent = payload(protocol)
    answer = computed(**OUTPUTS | change)
    _, response = EXCHANGE[protocol](sent, 0, "p", answer, MIXED)
    with pytest.raises(InvalidResponse, match=reason):
        judge(sent, protocol, response, puid)


def test_what_is_not_finite_is_a_failure() -> None:
    sent = payload("grpc")
    answer = computed(**OUTPUTS | {"y": np.array([[1, np.nan], [0, 1]], np.float32)})
    _, reply = over_grpc(sent, 0, "p", answer, MIXED)
    with pytest.raises(InvalidResponse, match="output y has a value that is no finite number"):
        sent.judge_reply(reply, "p")


Y = {"name": "y", "shape": [2, 2], "data": [1, 0, 0, 1]}
T = {"name": "t", "shape": [2], "data": ["a", "b"]}


@pytest.mark.parametrize(
    ("status", "document", "reason"),
    [
        (400, {"error": "input 'x' is missing"}, "HTTP status 400: input 'x' is missing"),
        (503, "no healthy upstream", "HTTP status 503"),
        (200, [], "the response has an unexpected shape"),
        (200, {"outputs": [{"name": "y"}]}, "the response has an unexpected shape"),
        (200, {"outputs": [Y | {"data": [[1], [1, 2]]}, T]}, "an unexpected shape"),
        (200, {"outputs": [T, Y]}, "the outputs are t, y"),
        (200, {"outputs": [Y]}, "the outputs are y"),
        (200, {"outputs": [Y | {"data": [1, 0]}, T]}, "output y has 2 elements"),
        (200, {"outputs": [Y | {"data": [1, 0, 0, None]}, T]}, "y has a value that is no finite"),
        (200, {"outputs": [Y | {"data": ["1", "0", "0", "1"]}, T]}, "y has a value that is no fin"),
    ],
)
def test_a_document_of_another_form_is_a_failure(status: int, document: Any, reason: str) -> None:
    with pytest.raises(InvalidResponse, match=reason):
        payload("rest").judge_document(status, document, "p")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda reply: reply.raw_output_contents.pop(), "1 raw outputs, expected 2"),
        (lambda reply: reply.raw_output_contents.__setitem__(0, b"123"), "output y has 3 bytes"),
        (lambda reply: reply.raw_output_contents.__setitem__(0, b"1234"), "y has 1 elements"),
    ],
)
def test_a_reply_of_another_form_is_a_failure(change: Callable[[Any], Any], reason: str) -> None:
    sent = payload("grpc")
    _, reply = over_grpc(sent, 0, "p", computed(**OUTPUTS), MIXED)
    change(reply)
    with pytest.raises(InvalidResponse, match=reason):
        sent.judge_reply(reply, "p")


@pytest.mark.parametrize(("puid", "token"), [("1-2", ""), ("1-23456", "a.b.c")])
def test_a_request_is_complete_with_its_id_and_token(puid: str, token: str) -> None:
    settings = LoadTestSettings("c", "js-predict", payload="random")
    sent = payload("rest")
    requests = RestRequests(settings, sent, TokenSource(lambda: (token, 60.0)))
    head, _, body = requests.request(3, puid, token).partition(b"\r\n\r\n")
    line, *headers = head.decode().split("\r\n")
    assert line == "POST /v2/models/mixed/infer HTTP/1.1"
    fields = dict(header.split(": ", 1) for header in headers)
    assert fields["Content-Length"] == str(len(body))
    assert fields.get("Authorization") == (f"Bearer {token}" if token else None)
    assert body == sent.template(3).completed(puid)[2]
    assert orjson.loads(body)["id"] == puid


@contextmanager
def renewing(accepted: str, seen: list[str]) -> Iterator[str]:
    """A server that accepts one token; its URL."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            request = orjson.loads(self.rfile.read(int(self.headers["Content-Length"])))
            seen.append(self.headers["Authorization"])
            known = seen[-1] == f"Bearer {accepted}"
            answer = {"id": request["id"], "outputs": [Y, T]} if known else {"error": "refused"}
            body = orjson.dumps(answer)
            self.send_response(200 if known else 401)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("accepted", "failure"), [("second", None), ("none", "HTTP status 401: refused")]
)
def test_a_refused_token_is_renewed_once_within_the_request(
    accepted: str, failure: str | None
) -> None:
    seen: list[str] = []
    fetched = iter([("first", 60.0), ("second", 60.0), ("third", 60.0)])
    with renewing(accepted, seen) as host:
        settings = LoadTestSettings("c", "js-predict", payload="random", host=host)
        requests = RestRequests(settings, payload("rest"), TokenSource(lambda: next(fetched)))
        connection = RestConnection(requests)
        outcome = connection.predict(0, "p")
        connection.close()
    assert (outcome.failure, seen) == (failure, ["Bearer first", "Bearer second"])


WITHOUT_BATCH = Signature(
    (TensorSpec("x", "FP32", (2,)),), (TensorSpec("y", "FP32", (3,)),), batched=False
)


@pytest.mark.parametrize(
    ("signature", "rows", "images", "sentence"),
    [
        (
            WITHOUT_BATCH,
            Rows({"x": np.ones((1, 2), np.float32)}),
            2,
            "--images is 2, expected 1: model m has no batch",
        ),
        (
            WITHOUT_BATCH,
            Rows({"x": np.ones((1, 2), np.float32)}, (0,)),
            1,
            r"has labels and the model the outputs y \[3\], expected one output of class scores",
        ),
        (
            SIGNATURE,
            replace(ROWS, labels=(0, 2)),
            1,
            "a label of the payload is 2, expected 0 to 1",
        ),
        (
            replace(SIGNATURE, outputs=(TensorSpec("y", "FP32", (-1, -1)),)),
            replace(ROWS, labels=(0, -1)),
            1,
            "a label of the payload is -1, expected 0 or more",
        ),
        (
            Signature((TensorSpec("x", "FP32", (-1, -1)),), SIGNATURE.outputs),
            Rows({"x": [np.ones(2, np.float32), np.ones(3, np.float32)]}),
            2,
            "--images is 2, expected 1: the rows of the payload differ in shape",
        ),
        (
            Signature((TensorSpec("x", "BYTES", (-1,)),), SIGNATURE.outputs),
            Rows({"x": np.array([b"\xff"], object)}),
            1,
            "a string that is not UTF-8, which JSON cannot hold",
        ),
    ],
)
def test_rows_that_cannot_be_sent_are_refused(
    signature: Signature, rows: Rows, images: int, sentence: str
) -> None:
    with pytest.raises(SettingInvalid, match=sentence):
        OpenInferencePayload("m", signature, rows, images, protocol="rest")


def test_without_a_token_a_call_has_no_metadata_of_it() -> None:
    assert wire.oauth_metadata("") == ()
