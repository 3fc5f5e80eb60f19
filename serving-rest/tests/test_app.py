import contextlib
import gzip
import http.client
import json
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import numpy as np
import pytest
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry
from werkzeug.test import Client, TestResponse

from polling import eventually
from rest_loop import Serving, serving
from serving_core import MicroBatcher
from serving_core.testing import FakePredictor, expected_scores
from serving_rest.settings import Settings

INSTANCE = (np.arange(784) % 256 / np.float32(255)).astype(np.float32)
DOCUMENT = json.dumps({"data": INSTANCE.tolist()})
TIMING = r"queue;dur=\d+\.\d{3}, compute;dur=\d+\.\d{3}, total;dur=\d+\.\d{3}"


@dataclass
class Bench:
    """The server in front of a real batcher, and the fake model behind it."""

    client: Client
    predictor: FakePredictor
    batcher: MicroBatcher
    server: Serving

    @property
    def registry(self) -> CollectorRegistry:
        return self.server.registry

    def count(self, client: str, variation: str, code: str) -> float:
        labels = {"protocol": "rest", "client": client, "variation": variation, "code": code}
        return self.registry.get_sample_value("seldon_requests_total", labels) or 0.0


class HeldPredictor(FakePredictor):
    """Held back until its gate is set; says when a call has arrived."""

    def __init__(self) -> None:
        super().__init__()
        self.gate.clear()
        self.entered = threading.Event()

    def scores(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        self.entered.set()
        return super().scores(rows)


BenchMaker = Callable[..., Bench]


@pytest.fixture
def make_bench() -> Iterator[BenchMaker]:
    made: list[Bench] = []
    servers = contextlib.ExitStack()

    def make(predictor: FakePredictor | None = None, max_queue: int = 256, **limits: Any) -> Bench:
        predictor = predictor or FakePredictor()
        batcher = MicroBatcher(predictor, max_queue=max_queue)
        batcher.start()
        server = servers.enter_context(serving(batcher, Settings(Path("unused"), **limits)))
        made.append(Bench(server.client(), predictor, batcher, server))
        return made[-1]

    yield make
    for bench in made:
        bench.predictor.gate.set()
        assert bench.batcher.close(5.0)
    servers.close()


@pytest.fixture
def bench(make_bench: BenchMaker) -> Bench:
    return make_bench()


def unwrap(text: str, callback: str) -> Any:
    assert text.startswith(callback + "(")
    assert text.endswith(")")
    return json.loads(text[len(callback) + 1 : -1])


def scores_of(document: Any) -> NDArray[np.float32]:
    predictions = document["predictions"]
    assert isinstance(predictions, list)
    return np.array([entry["prediction"] for entry in predictions], np.float32)


def assert_right(document: Any, instance: NDArray[np.float32] = INSTANCE) -> None:
    assert np.array_equal(scores_of(document), expected_scores(instance))


def assert_good_request_is_served(bench: Bench) -> None:
    response = bench.client.post("/predict", data=DOCUMENT, content_type="application/json")
    assert response.status_code == 200
    assert_right(response.json)


# Good requests


def test_json_post_is_answered_in_the_contracts_shape(bench: Bench) -> None:
    response = bench.client.post("/predict", data=DOCUMENT, content_type="application/json")
    assert response.status_code == 200
    assert response.content_type == "application/json"
    assert response.headers["Cache-Control"] == "no-store"
    document = response.get_json()
    assert list(document) == ["meta", "predictions", "custom"]
    assert document["meta"]["modelName"] == "fake"
    assert document["meta"]["variation"] == "default"
    assert len(document["meta"]["puid"]) == 40
    assert_right(document)


@pytest.mark.parametrize("path", ["/js/predict", "/predict"])
@pytest.mark.parametrize(
    "content_type", ["application/json", "application/json; charset=utf-8", "application/ld+json"]
)
def test_json_post_works_on_both_paths(bench: Bench, path: str, content_type: str) -> None:
    response = bench.client.post(path, data=DOCUMENT, content_type=content_type)
    assert_right(response.json)


def test_a_body_without_content_type_is_json(bench: Bench) -> None:
    assert_right(bench.client.post("/predict", data=DOCUMENT).json)


def test_get_with_a_callback_is_jsonp(bench: Bench) -> None:
    response = bench.client.get(
        "/js/predict", query_string={"json": DOCUMENT, "jsonpCallback": "app.on_1$"}
    )
    assert response.status_code == 200
    assert response.content_type == "application/javascript; charset=utf-8"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert_right(unwrap(response.text, "app.on_1$"))


@pytest.mark.parametrize("parameters", [{}, {"jsonpCallback": ""}])
def test_get_without_a_callback_is_plain_json(bench: Bench, parameters: dict[str, str]) -> None:
    response = bench.client.get("/js/predict", query_string={"json": DOCUMENT} | parameters)
    assert response.content_type == "application/json"
    assert_right(response.json)


def test_form_post_carries_every_field(bench: Bench) -> None:
    response = bench.client.post(
        "/js/predict", data={"json": DOCUMENT, "puid": "p 1é", "jsonpCallback": "j"}
    )
    document = unwrap(response.text, "j")
    assert document["meta"]["puid"] == "p 1é"
    assert_right(document)


def test_json_post_takes_puid_and_callback_from_the_query(bench: Bench) -> None:
    response = bench.client.post(
        "/js/predict?puid=q&jsonpCallback=j", data=DOCUMENT, content_type="application/json"
    )
    assert unwrap(response.text, "j")["meta"]["puid"] == "q"


def test_the_query_wins_over_the_form(bench: Bench) -> None:
    response = bench.client.post("/js/predict?puid=query", data={"json": DOCUMENT, "puid": "form"})
    assert response.get_json()["meta"]["puid"] == "query"


def test_predict_answers_an_old_gateways_get(bench: Bench) -> None:
    response = bench.client.get(
        "/predict", query_string={"client": "c", "json": DOCUMENT, "jsonpCallback": "j"}
    )
    assert_right(response.json)  # and knows no callback


@pytest.mark.parametrize(
    ("parameter", "meta", "puid"),
    [("mine", "other", "mine"), (None, "other", "other"), ("", "other", "other")],
)
def test_puid_is_the_callers(bench: Bench, parameter: str | None, meta: str, puid: str) -> None:
    document = json.dumps({"data": INSTANCE.tolist(), "meta": {"puid": meta}})
    query = {} if parameter is None else {"puid": parameter}
    response = bench.client.post(
        "/predict", query_string=query, data=document, content_type="application/json"
    )
    assert response.get_json()["meta"]["puid"] == puid


@pytest.mark.parametrize(
    "data",
    [
        INSTANCE.tolist(),
        INSTANCE.reshape(28, 28).tolist(),
        [INSTANCE.tolist()],
        {f"x{index:03d}": value for index, value in enumerate(INSTANCE.tolist())},
        dict(reversed([(f"x{i:03d}", value) for i, value in enumerate(INSTANCE.tolist())])),
    ],
    ids=["list", "28x28", "batch of one", "object", "object in another order"],
)
def test_every_form_of_data_is_the_same_instance(bench: Bench, data: object) -> None:
    response = bench.client.post("/predict", json={"data": data})
    assert_right(response.json)


def test_the_gateways_headers_name_variation_and_client(bench: Bench) -> None:
    headers = {"x-seldon-client": "deep_mnist_client", "x-seldon-variation": "canary"}
    response = bench.client.post("/predict", data=DOCUMENT, headers=headers)
    assert response.get_json()["meta"]["variation"] == "canary"
    assert bench.count("deep_mnist_client", "canary", "200") == 1


def test_label_values_are_bounded(bench: Bench) -> None:
    headers = {"x-seldon-client": "c" * 5000, "x-seldon-variation": "v" * 5000}
    bench.client.post("/predict", data=DOCUMENT, headers=headers)
    assert bench.count("c" * 64, "v" * 64, "200") == 1


def test_head_and_options_have_no_body(bench: Bench) -> None:
    head = bench.client.head("/js/predict", query_string={"json": DOCUMENT})
    assert (head.status_code, head.data) == (200, b"")
    options = bench.client.options("/predict")
    assert options.status_code == 200
    assert set(options.allow) == {"GET", "HEAD", "POST", "OPTIONS"}


def test_every_answer_says_where_its_time_went(bench: Bench) -> None:
    good = bench.client.post("/predict", data=DOCUMENT)
    assert re.fullmatch(TIMING, good.headers["Server-Timing"])
    bad = bench.client.post("/predict", data="{")
    assert re.fullmatch(r"total;dur=\d+\.\d{3}", bad.headers["Server-Timing"])


def test_concurrent_callers_get_their_own_answers(bench: Bench) -> None:
    wrong: list[int] = []

    def call(tag: int) -> None:
        client = bench.server.client()
        instance = np.full(784, tag / 8, np.float32)
        for turn in range(20):
            response = client.post(f"/predict?puid={tag}-{turn}", json={"data": instance.tolist()})
            right = np.array_equal(scores_of(response.json), expected_scores(instance))
            if not right or response.get_json()["meta"]["puid"] != f"{tag}-{turn}":
                wrong.append(tag)

    threads = [threading.Thread(target=call, args=(tag,)) for tag in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert sum(bench.predictor.batches) == 160


# Bad requests: each gets its own id and status, and the next good one is served


@dataclass(frozen=True)
class Bad:
    name: str
    status: int
    error_id: int
    message: str
    path: str = "/predict"
    method: str = "POST"
    body: str | bytes | None = None
    content_type: str | None = "application/json"
    headers: tuple[tuple[str, str], ...] = ()


def with_data(data: object) -> str:
    return json.dumps({"data": data})


def with_value(value: object) -> str:
    return with_data([*INSTANCE.tolist()[:783], value])


FORM = "application/x-www-form-urlencoded"
OBJECT = {f"x{index:03d}": value for index, value in enumerate(INSTANCE.tolist())}

BAD = [
    Bad("empty body", 400, 40, "json is missing", body=""),
    Bad("broken json", 400, 38, "at line 1 column 13", body='{"data":[1,2'),
    Bad("trailing text", 400, 38, "after document", body=DOCUMENT + "x"),
    Bad("nan", 400, 38, "Invalid JSON", body='{"data":[NaN]}'),
    Bad("infinity", 400, 38, "Invalid JSON", body='{"data":[Infinity]}'),
    Bad("number beyond double", 400, 38, "infinity", body='{"data":[1e999]}'),
    Bad("deep nesting", 400, 38, "depth limit", body="[" * 10_000 + "]" * 10_000),
    Bad("deep objects", 400, 38, "depth limit", body='{"data":' * 10_000 + "1" + "}" * 10_000),
    Bad("nested lists", 400, 40, "nested deeper", body=with_data([[[[[INSTANCE.tolist()]]]]])),
    Bad("duplicate data", 400, 38, "'data' appears twice", body=DOCUMENT[:-1] + ',"data":[1]}'),
    Bad(
        "duplicate column",
        400,
        38,
        "'x000' appears twice",
        body=with_data(OBJECT)[:-2] + ',"x000":1}}',
    ),
    Bad("invalid utf-8", 400, 38, "UTF-8", body=b'{"data":["\xff\xfe"]}'),
    Bad("list document", 400, 40, "the body is a list", body="[1]"),
    Bad("number document", 400, 40, "the body is a number", body="1"),
    Bad("no data", 400, 40, "data is missing", body='{"meta":{}}'),
    Bad("data is a path", 400, 40, "data is a string", body=with_data("/etc/passwd")),
    Bad("data is a url", 400, 40, "data is a string", body=with_data("s3://bucket/key")),
    Bad("data is null", 400, 40, "data is null", body=with_data(None)),
    Bad("data is a number", 400, 40, "data is a number", body=with_data(7)),
    Bad("no values", 400, 40, "data has 0 values, expected 784", body=with_data([])),
    Bad("783 values", 400, 40, "data has 783 values, expected 784", body=with_data([0] * 783)),
    Bad("785 values", 400, 40, "data has 785 values, expected 784", body=with_data([0] * 785)),
    Bad("a string value", 400, 40, "data[783] is a string", body=with_value("1")),
    Bad("a null value", 400, 40, "data[783] is null", body=with_value(None)),
    Bad("a boolean value", 400, 40, "data[783] is a boolean", body=with_value(True)),
    Bad("beyond float32", 400, 40, "data[783] is not finite", body=with_value(1e39)),
    Bad("ragged", 400, 40, "ragged", body=with_data([[0] * 28] * 27 + [[0] * 27])),
    Bad("missing column", 400, 40, "data.x001", body=with_data({**OBJECT, "x001": None})),
    Bad("unknown column", 400, 40, "'y'", body=with_data({**OBJECT, "y": 1})),
    Bad("meta is a list", 400, 40, "meta is a list", body='{"data":[1],"meta":[1]}'),
    Bad("puid is a number", 400, 40, "meta.puid is a number", body='{"data":[],"meta":{"puid":1}}'),
    Bad("long puid", 400, 40, "puid has 257", path=f"/predict?puid={'p' * 257}", body=DOCUMENT),
    Bad(
        "long puid in meta",
        400,
        40,
        "meta.puid has 300",
        body=json.dumps({"data": INSTANCE.tolist(), "meta": {"puid": "p" * 300}}),
    ),
    Bad("text", 415, 45, "text/plain", body=DOCUMENT, content_type="text/plain"),
    Bad("multipart", 415, 45, "multipart/form-data", body="x", content_type="multipart/form-data"),
    Bad(
        "compressed",
        415,
        45,
        "Content-Encoding",
        body=gzip.compress(DOCUMENT.encode()),
        headers=(("Content-Encoding", "gzip"),),
    ),
    Bad("too large", 413, 44, "1048576 bytes", body=b" " * 1_048_577),
    Bad("form without json", 400, 40, "json is missing", body="puid=1", content_type=FORM),
    Bad("form with empty json", 400, 38, "json is empty", body="json=", content_type=FORM),
    Bad("json sent as a form", 400, 40, "Content-Type", body=DOCUMENT, content_type=FORM),
    Bad("form that is not utf-8", 400, 38, "UTF-8", body="json=%ff", content_type=FORM),
    Bad("get without json", 400, 40, "json is missing", method="GET"),
    Bad("get with empty json", 400, 38, "json is empty", method="GET", path="/js/predict?json="),
    Bad(
        "get with broken json",
        400,
        38,
        "Invalid JSON",
        method="GET",
        path="/js/predict?json=" + quote('{"data":'),
    ),
    Bad("features outside data", 400, 40, "json is missing", method="GET", path="/predict?x000=1"),
    Bad(
        "callback",
        400,
        46,
        "jsonpCallback",
        method="GET",
        path="/js/predict?" + urlencode({"json": DOCUMENT, "jsonpCallback": "alert(1)//"}),
    ),
]


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.name)
def test_bad_request_is_named_and_the_next_good_one_served(
    bench: Bench, bad: Bad, caplog: pytest.LogCaptureFixture
) -> None:
    response = bench.client.open(
        bad.path,
        method=bad.method,
        data=bad.body,
        content_type=bad.content_type if bad.body is not None else None,
        headers=list(bad.headers),
    )
    assert_error(response, bad.status, bad.error_id, bad.message)
    assert response.headers["Server-Timing"].startswith("total;dur=")
    assert bench.count("direct", "default", str(bad.status)) == 1
    assert bench.predictor.batches == []
    assert caplog.records == []
    assert_good_request_is_served(bench)


def assert_error(response: TestResponse, status: int, error_id: int, message: str) -> None:
    assert response.status_code == status
    assert response.content_type == "application/json"
    document = response.get_json()
    assert list(document) == ["error_id", "error_msg", "http_response"]
    assert (document["error_id"], document["http_response"]) == (error_id, status)
    assert message in document["error_msg"]
    assert "Traceback" not in document["error_msg"]


@pytest.mark.parametrize(
    ("query", "body", "error_id", "status"),
    [
        ({"json": "{"}, None, 38, 400),
        ({}, None, 40, 400),
        ({}, b" " * 1_048_577, 44, 413),
        ({}, with_data([1]).encode(), 40, 400),
    ],
)
def test_errors_with_a_callback_are_wrapped_with_status_200(
    bench: Bench, query: dict[str, str], body: bytes | None, error_id: int, status: int
) -> None:
    response = bench.client.open(
        "/js/predict",
        method="GET" if body is None else "POST",
        query_string=query | {"jsonpCallback": "j"},
        data=body,
    )
    assert response.status_code == 200
    document = unwrap(response.text, "j")
    assert (document["error_id"], document["http_response"]) == (error_id, status)
    assert bench.count("direct", "default", str(status)) == 1


def test_errors_in_a_form_with_a_callback_are_wrapped(bench: Bench) -> None:
    response = bench.client.post("/js/predict", data={"json": "[", "jsonpCallback": "j"})
    assert unwrap(response.text, "j")["error_id"] == 38


@pytest.mark.parametrize("path", ["/", "/nothing", "/predict/", "//predict", "/static/x"])
def test_unknown_path_is_404(bench: Bench, path: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", bench.server.port, timeout=20)
    with contextlib.closing(connection):
        connection.request("GET", path)
        response = connection.getresponse()
        assert response.status == 404
        assert json.loads(response.read()) == {
            "error_id": 21,
            "error_msg": "Requested resource not found",
            "http_response": 404,
        }


@pytest.mark.parametrize("path", ["/predict", "/js/predict"])
@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH"])
def test_wrong_method_is_405_with_allow(bench: Bench, path: str, method: str) -> None:
    response = bench.client.open(path, method=method, data=DOCUMENT)
    assert_error(response, 405, 11, "Method")
    assert {"GET", "POST"} <= set(response.allow)
    assert_good_request_is_served(bench)


def test_the_limit_of_a_body_is_the_settings(make_bench: BenchMaker) -> None:
    bench = make_bench(max_body_bytes=20_000)
    assert_good_request_is_served(bench)
    assert_error(bench.client.post("/predict", data=b" " * 20_001), 413, 44, "20000 bytes")


# What the model does


def test_a_failing_model_is_500_without_its_traceback(
    make_bench: BenchMaker, caplog: pytest.LogCaptureFixture
) -> None:
    bench = make_bench(FakePredictor(failure=RuntimeError("secret detail")))
    response = bench.client.post("/predict", data=DOCUMENT)
    assert_error(response, 500, 13, "failed")
    assert "secret" not in response.text
    assert "secret detail" in caplog.text
    bench.predictor.failure = None
    assert_good_request_is_served(bench)


def test_an_unexpected_error_is_500_with_its_traceback_in_the_log(
    bench: Bench, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench.predictor, "info", None)  # breaks what answers are made of
    response = bench.client.post("/predict", data=DOCUMENT)
    assert_error(response, 500, 13, "A generic error occurred")
    assert "AttributeError" in caplog.text
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


def test_a_full_queue_is_429_at_once(make_bench: BenchMaker) -> None:
    predictor = HeldPredictor()
    bench = make_bench(predictor, max_queue=2)
    statuses: list[int] = []

    def call() -> None:
        client = bench.server.client()
        statuses.append(client.post("/predict", data=DOCUMENT).status_code)

    threads = [threading.Thread(target=call) for _ in range(3)]
    threads[0].start()
    assert predictor.entered.wait(10)
    for thread in threads[1:]:
        thread.start()
    eventually(lambda: bench.batcher.queued == 2, "two wait")
    response = bench.client.post("/predict", data=DOCUMENT)
    assert_error(response, 429, 42, "2 requests, the limit")
    assert response.headers["Retry-After"] == "1"
    bench.predictor.gate.set()
    for thread in threads:
        thread.join()
    assert statuses == [200, 200, 200]
    assert_good_request_is_served(bench)


def in_flight(bench: Bench) -> float | None:
    return bench.registry.get_sample_value("seldon_requests_in_flight", {"protocol": "rest"})


def test_past_the_gateways_deadline_nothing_is_computed(make_bench: BenchMaker) -> None:
    predictor = HeldPredictor()
    bench = make_bench(predictor)
    headers = {"x-envoy-expected-rq-timeout-ms": "20"}
    blocker = threading.Thread(target=lambda: bench.server.client().post("/predict", data=DOCUMENT))
    blocker.start()
    assert predictor.entered.wait(10)
    response = bench.client.post("/predict", data=DOCUMENT, headers=headers)
    assert_error(response, 504, 43, "deadline")
    bench.predictor.gate.set()
    blocker.join()
    assert_good_request_is_served(bench)
    assert sum(bench.predictor.batches) == 2


def test_the_deadline_counts_from_the_requests_arrival(bench: Bench) -> None:
    # The body comes slowly: nothing is left of the deadline when it is there.
    head = f"POST /predict HTTP/1.1\r\nContent-Length: {len(DOCUMENT)}\r\n"
    head += "x-envoy-expected-rq-timeout-ms: 100\r\n\r\n"
    with bench.server.connect() as caller:
        caller.sendall(head.encode() + DOCUMENT[:100].encode())
        eventually(lambda: in_flight(bench) == 1, "it is in flight")
        began = time.monotonic()
        response = http.client.HTTPResponse(caller)
        response.begin()
        assert time.monotonic() - began < 5
        assert (response.status, json.loads(response.read())["error_id"]) == (504, 43)
        assert response.headers["Connection"] == "close"  # the rest of the body is not awaited
    assert bench.predictor.batches == []
    assert bench.count("direct", "default", "504") == 1


@pytest.mark.parametrize("value", ["", "soon", "-5", "9" * 5000, "15000"])
def test_a_strange_deadline_is_no_deadline(bench: Bench, value: str) -> None:
    headers = {"x-envoy-expected-rq-timeout-ms": value}
    response = bench.client.post("/predict", data=DOCUMENT, headers=headers)
    assert response.status_code == 200


# Health and metrics


def test_live_and_ready(bench: Bench) -> None:
    assert bench.client.get("/health/live").status_code == 200
    ready = bench.client.get("/health/ready")
    assert (ready.status_code, ready.get_json()["model"]) == (200, "fake")


def test_a_draining_server_is_live_not_ready_and_still_serves(bench: Bench) -> None:
    bench.server.draining = True
    assert_error(bench.client.get("/health/ready"), 503, 41, "stopping")
    assert bench.client.get("/health/live").status_code == 200
    assert_good_request_is_served(bench)


def test_a_closed_batcher_is_not_ready(bench: Bench) -> None:
    bench.batcher.close()
    assert_error(bench.client.get("/health/ready"), 503, 41, "not ready")
    assert_error(bench.client.post("/predict", data=DOCUMENT), 503, 41, "not ready")


def test_metrics_count_every_prediction_once(bench: Bench) -> None:
    for _ in range(3):
        bench.client.post("/predict", data=DOCUMENT)
    bench.client.post("/predict", data="{")
    bench.client.get("/health/ready")
    response = bench.client.get("/metrics")
    assert response.content_type.startswith("text/plain; version=")
    assert "seldon_request_duration_seconds_bucket" in response.text
    assert bench.count("direct", "default", "200") == 3
    assert bench.count("direct", "default", "400") == 1
    assert in_flight(bench) == 0


def test_metrics_come_as_openmetrics_when_asked(bench: Bench) -> None:
    response = bench.client.get("/metrics", headers={"Accept": "application/openmetrics-text"})
    assert response.content_type.startswith("application/openmetrics-text")
    assert response.text.endswith("# EOF\n")
