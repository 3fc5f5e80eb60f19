"""Both front ends, through the gateway, answer the same table of requests alike."""

import json
import urllib.parse
from collections.abc import Iterator

import grpc
import numpy as np
import pytest
import requests
from google.protobuf.any_pb2 import Any

import seldon_pb2
import seldon_pb2_grpc
from local_stack import Stack
from serving_core.digits import held_out

DIGITS = held_out()
DIGIT = DIGITS.images[3].tolist()
NAN = float("nan")
UNAVAILABLE = "Could not determine client from oauth_token"


class Caller:
    """One client's session, channel and credentials."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.credentials = stack.credentials()
        self.token = stack.token()
        self.session = requests.Session()
        self.channel = grpc.insecure_channel(stack.grpc_target)
        self.stub = seldon_pb2_grpc.SeldonStub(self.channel)

    def close(self) -> None:
        self.session.close()
        self.channel.close()

    def js(self, document: str | None, method: str = "GET", **parameters: str) -> requests.Response:
        values = {"consumer_key": self.credentials.js_key, **parameters}
        if document is not None:
            values["json"] = document
        url = f"{self.stack.url}/js/predict"
        if method == "GET":
            return self.session.get(url, params=values, timeout=10)
        return self.session.post(url, data=values, timeout=10)

    def predict(self, body: bytes | str, token: str | None = None) -> requests.Response:
        return self.session.post(
            f"{self.stack.url}/predict",
            data=body,
            headers={
                "Content-Type": "application/json",
                "Authorization": f"Bearer {token or self.token}",
            },
            timeout=10,
        )

    def classify(
        self, request: seldon_pb2.ClassificationRequest, token: str | None = "", timeout: float = 10
    ) -> seldon_pb2.ClassificationReply:
        metadata = (("oauth_token", token or self.token),) if token is not None else ()
        return self.stub.Classify(request, metadata=metadata, timeout=timeout)


@pytest.fixture(scope="module")
def caller(stack: Stack) -> Iterator[Caller]:
    caller = Caller(stack)
    yield caller
    caller.close()


def document(data: object, puid: str | None = None) -> str:
    return json.dumps({"data": data} | ({"meta": {"puid": puid}} if puid else {}))


def request(values: object, puid: str = "") -> seldon_pb2.ClassificationRequest:
    data = Any()
    data.Pack(seldon_pb2.DefaultCustomPredictRequest(values=values))  # type: ignore[arg-type]
    return seldon_pb2.ClassificationRequest(
        meta=seldon_pb2.ClassificationRequestMeta(puid=puid), data=data
    )


def unwrap(answer: requests.Response, callback: str = "j") -> dict[str, object]:
    assert answer.text.startswith(f"{callback}(")
    assert answer.text.endswith(")")
    return dict(json.loads(answer.text[len(callback) + 1 : -1]))


def rest_scores(answer: dict[str, object]) -> list[tuple[str, float, float]]:
    rows = answer["predictions"]
    assert isinstance(rows, list)
    return [(row["predictedClass"], row["prediction"], row["confidence"]) for row in rows]


def grpc_scores(reply: seldon_pb2.ClassificationReply) -> list[tuple[str, float, float]]:
    return [(r.predictedClass, r.prediction, r.confidence) for r in reply.predictions]


def assert_still_serving(caller: Caller) -> None:
    assert caller.predict(document(DIGIT)).status_code == 200
    assert len(caller.classify(request(DIGIT)).predictions) == 10


# Good requests.


@pytest.mark.parametrize("count", [2, 16])
def test_several_images_are_answered_one_after_the_other(caller: Caller, count: int) -> None:
    images = DIGITS.images[:count]
    alone = [score for one in images for score in grpc_scores(caller.classify(request(one)))]
    together = grpc_scores(caller.classify(request(images.ravel())))
    over_rest = rest_scores(caller.predict(document(images.tolist())).json())
    assert together == over_rest
    assert [label for label, _, _ in together] == [label for label, _, _ in alone]
    # The engine rounds otherwise in a larger batch.
    np.testing.assert_allclose([s for _, s, _ in together], [s for _, s, _ in alone], atol=1e-5)


def test_more_images_than_the_limit_are_refused(caller: Caller) -> None:
    images = DIGITS.images[:17]
    refused = caller.predict(document(images.tolist()))
    assert refused.status_code == 400
    assert refused.json()["error_msg"] == "data has 17 instances, the limit is 16"
    with pytest.raises(grpc.RpcError) as failed:
        caller.classify(request(images.ravel()))
    assert failed.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert failed.value.details() == "data.values has 17 instances, the limit is 16"
    assert_still_serving(caller)


@pytest.mark.parametrize("index", range(0, 200, 20))
def test_every_front_door_gives_the_same_scores(caller: Caller, index: int) -> None:
    digit = DIGITS.images[index].tolist()
    reply = caller.classify(request(digit, "from-grpc"))
    scores = grpc_scores(reply)
    assert [label for label, _, _ in scores] == [str(label) for label in range(10)]
    assert abs(sum(score for _, score, _ in scores) - 1) < 1e-5
    assert all(0 <= score <= 1 and score == again for _, score, again in scores)

    answers = [
        unwrap(caller.js(document(digit), jsonpCallback="j")),
        unwrap(caller.js(document(digit), "POST", jsonpCallback="j")),
        caller.js(document(digit)).json(),
        caller.predict(document(digit)).json(),
        caller.predict(document(np.reshape(digit, (28, 28)).tolist())).json(),
        caller.predict(document({f"x{i:03d}": value for i, value in enumerate(digit)})).json(),
    ]
    for answer in answers:
        assert set(answer) == {"meta", "predictions", "custom"}
        assert answer["custom"] is None
        assert np.allclose(
            [score for _, score, _ in rest_scores(answer)], [s for _, s, _ in scores], atol=1e-6
        )
        meta = answer["meta"]
        assert isinstance(meta, dict)
        assert meta["modelName"] == reply.meta.modelName == "tensorflow-deep-mnist"
        assert meta["variation"] == reply.meta.variation == "tensorflow-deep-mnist"
        assert len(meta["puid"]) == 40


def test_held_out_digits_are_recognised_alike(caller: Caller) -> None:
    def best(scores: list[tuple[str, float, float]]) -> int:
        return int(max(scores, key=lambda row: row[1])[0])

    rest = [best(rest_scores(caller.predict(document(d.tolist())).json())) for d in DIGITS.images]
    rpc = [best(grpc_scores(caller.classify(request(d)))) for d in DIGITS.images]
    assert rest == rpc
    assert sum(int(a == b) for a, b in zip(rest, DIGITS.labels, strict=True)) >= 196


def test_a_puid_of_the_callers_comes_back(caller: Caller) -> None:
    assert caller.classify(request(DIGIT, "7")).meta.puid == "7"
    assert caller.predict(document(DIGIT, "7")).json()["meta"]["puid"] == "7"
    wrapped = caller.js(document(DIGIT, "other"), jsonpCallback="j", puid="abc")
    assert unwrap(wrapped)["meta"]["puid"] == "abc"  # type: ignore[index]


def test_fresh_puids_differ(caller: Caller) -> None:
    puids = {caller.predict(document(DIGIT)).json()["meta"]["puid"] for _ in range(5)}
    puids |= {caller.classify(request(DIGIT)).meta.puid for _ in range(5)}
    assert len(puids) == 10


def test_both_protocols_say_where_the_time_went(caller: Caller) -> None:
    rest = caller.predict(document(DIGIT)).headers["Server-Timing"]
    _, call = caller.stub.Classify.with_call(
        request(DIGIT), metadata=(("oauth_token", caller.token),), timeout=10
    )
    rpc = dict(call.trailing_metadata())["server-timing"]
    for text in (rest, rpc):
        times = dict(part.strip().split(";dur=") for part in str(text).split(","))
        assert set(times) == {"queue", "compute", "total"}
        assert float(times["total"]) >= float(times["compute"]) > 0


def test_the_jsonp_get_of_the_original_guide(caller: Caller) -> None:
    data = np.random.default_rng(1).random(784).round(2).tolist()
    text = json.dumps({"data": data})
    url = (
        f"{caller.stack.url}/js/predict?consumer_key={caller.credentials.js_key}"
        f"&json={urllib.parse.quote(text, safe='[],:')}&jsonpCallback=j"
    )
    answer = caller.session.get(url, timeout=10)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("application/javascript")
    assert np.allclose(
        [score for _, score, _ in rest_scores(unwrap(answer))],
        [score for _, score, _ in grpc_scores(caller.classify(request(data)))],
        atol=1e-6,
    )


# Bad data: one table, both protocols.

BAD_VALUES: list[tuple[str, list[float], str]] = [
    ("783 values", DIGIT[:-1], "has 783 values, expected 784"),
    ("785 values", [*DIGIT, 0.0], "has 785 values, expected 784"),
    ("no values", [], "has 0 values, expected 784"),
    ("an image and a half", [*DIGIT, *DIGIT[:392]], "has 1176 values, expected 784"),
]


@pytest.mark.parametrize(("name", "values", "message"), BAD_VALUES, ids=lambda v: str(v)[:12])
def test_a_wrong_count_is_named_alike(
    caller: Caller, name: str, values: list[float], message: str
) -> None:
    answer = caller.predict(document(values))
    assert (answer.status_code, answer.json()["error_id"]) == (400, 40)
    assert message in answer.json()["error_msg"]
    with pytest.raises(grpc.RpcError) as refused:
        caller.classify(request(values))
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert message in str(refused.value.details())
    assert_still_serving(caller)


@pytest.mark.parametrize("value", [NAN, float("inf"), float("-inf")], ids=["nan", "inf", "-inf"])
def test_a_value_that_is_not_finite_is_refused_alike(caller: Caller, value: float) -> None:
    values = [*DIGIT[:17], value, *DIGIT[18:]]
    answer = caller.predict(document(values))  # json.dumps writes NaN, which is no JSON
    assert answer.status_code == 400
    assert answer.json()["error_id"] == 38
    with pytest.raises(grpc.RpcError) as refused:
        caller.classify(request(values))
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "[17]" in str(refused.value.details())
    assert_still_serving(caller)


@pytest.mark.parametrize("value", [255, 3e38, -0.5])
def test_values_outside_the_models_range_are_refused_alike(caller: Caller, value: float) -> None:
    values = [*DIGIT[:17], value, *DIGIT[18:]]
    answer = caller.predict(document(values))
    assert (answer.status_code, answer.json()["error_id"]) == (400, 40)
    expected = f"has the value {np.float32(value)} at [0, 17], expected 0 to 1"
    assert expected in answer.json()["error_msg"]
    with pytest.raises(grpc.RpcError) as refused:
        caller.classify(request(values))
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert refused.value.details() == answer.json()["error_msg"]
    assert_still_serving(caller)


BAD_BODIES: list[tuple[str, str | bytes, int, int, str]] = [
    ("broken JSON", '{"data": [0.1, ', 400, 38, "Invalid JSON"),
    ("no JSON", "hello", 400, 38, "Invalid JSON"),
    ("empty body", "", 400, 40, "json is missing"),
    ("invalid UTF-8", b'{"data": "\xff"}', 400, 38, "Invalid JSON"),
    ("very deep", "[" * 10_000 + "]" * 10_000, 400, 38, ""),
    ("strings", document([*DIGIT[:5], "0.5", *DIGIT[6:]]), 400, 40, "data[5] is a string"),
    ("null", document([*DIGIT[:5], None, *DIGIT[6:]]), 400, 40, "data[5] is null"),
    ("overflow", document([*DIGIT[:5], 1e39, *DIGIT[6:]]), 400, 40, "data[5] is not finite"),
    ("a path", document("/etc/passwd"), 400, 40, "data is a string"),
    ("no data", "{}", 400, 40, "data"),
    ("a list", "[1, 2]", 400, 40, ""),
    ("10 MB", document([0.123456789] * 900_000), 413, 44, "1048576"),
]


@pytest.mark.parametrize(
    ("body", "status", "error_id", "message"),
    [row[1:] for row in BAD_BODIES],
    ids=[row[0] for row in BAD_BODIES],
)
def test_a_bad_body_gets_a_clear_error(
    caller: Caller, body: str | bytes, status: int, error_id: int, message: str
) -> None:
    answer = caller.predict(body)
    error = answer.json()
    assert (answer.status_code, error["error_id"]) == (status, error_id)
    assert error["http_response"] == status
    assert message in error["error_msg"]
    assert "Traceback" not in answer.text
    assert_still_serving(caller)


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"\xff\xff\xff\xff", grpc.StatusCode.INVALID_ARGUMENT),
        (request(DIGIT).SerializeToString()[:-7], grpc.StatusCode.INVALID_ARGUMENT),
        (b"", grpc.StatusCode.INVALID_ARGUMENT),
        (bytes(10_000_000), grpc.StatusCode.RESOURCE_EXHAUSTED),
    ],
    ids=["no protobuf", "truncated", "empty", "10 MB"],
)
def test_a_bad_message_gets_a_clear_status(
    caller: Caller, raw: bytes, code: grpc.StatusCode
) -> None:
    method = caller.channel.unary_unary("/io.seldon.api.rpc.Seldon/Classify", None, None)
    with pytest.raises(grpc.RpcError) as refused:
        method(raw, metadata=(("oauth_token", caller.token),), timeout=10)
    assert refused.value.code() == code
    details = refused.value.details()
    assert details
    assert "Traceback" not in details
    assert_still_serving(caller)


def test_another_payload_type_is_named(caller: Caller) -> None:
    data = Any()
    data.Pack(seldon_pb2.ClassificationRequestMeta(puid="x"))
    with pytest.raises(grpc.RpcError) as refused:
        caller.classify(seldon_pb2.ClassificationRequest(data=data))
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "DefaultCustomPredictRequest" in str(refused.value.details())


# Credentials.


def altered(token: str) -> str:
    """The same token with another signature."""
    head, body, signature = token.split(".")
    middle = len(signature) // 2
    other = "A" if signature[middle] != "A" else "B"
    return f"{head}.{body}.{signature[:middle]}{other}{signature[middle + 1 :]}"


def test_no_token(caller: Caller) -> None:
    answer = caller.session.post(
        f"{caller.stack.url}/predict",
        data=document(DIGIT),
        headers={"Content-Type": "application/json"},
        timeout=10,
    )
    assert (answer.status_code, answer.json()["error_id"]) == (401, 15)
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    with pytest.raises(grpc.RpcError) as refused:
        caller.classify(request(DIGIT), token=None)
    assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED
    assert str(refused.value.details()).startswith(UNAVAILABLE)
    assert_still_serving(caller)


@pytest.mark.parametrize("kind", ["altered", "nonsense", "unsigned"])
def test_a_token_that_is_not_ours(caller: Caller, kind: str) -> None:
    head = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0"  # {"alg":"none","typ":"JWT"}
    token = {
        "altered": altered(caller.token),
        "nonsense": "4k2vabc",
        "unsigned": f"{head}.{caller.token.split('.')[1]}.",
    }[kind]
    answer = caller.predict(document(DIGIT), token)
    assert (answer.status_code, answer.json()["error_id"]) == (401, 7)
    with pytest.raises(grpc.RpcError) as refused:
        caller.classify(request(DIGIT), token)
    assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED
    details = refused.value.details()
    assert details
    assert token not in details
    assert_still_serving(caller)


@pytest.mark.parametrize("key", ["nobody", "", None])
def test_a_wrong_or_missing_consumer_key(caller: Caller, key: str | None) -> None:
    parameters = {"json": document(DIGIT)} | ({} if key is None else {"consumer_key": key})
    expected = 3 if key else 16
    url = f"{caller.stack.url}/js/predict"
    plain = caller.session.get(url, params=parameters, timeout=10)
    assert (plain.status_code, plain.json()["error_id"]) == (401, expected)
    wrapped = caller.session.get(url, params={**parameters, "jsonpCallback": "j"}, timeout=10)
    assert wrapped.status_code == 200
    assert unwrap(wrapped)["error_id"] == expected
    if expected == 16:
        assert unwrap(wrapped) == {
            "error_id": 16,
            "error_msg": "Please specify your consumer_key",
            "http_response": 400,
        }


def test_an_oauth_key_is_no_js_key(caller: Caller) -> None:
    parameters = {"consumer_key": caller.credentials.key, "json": document(DIGIT)}
    answer = caller.session.get(f"{caller.stack.url}/js/predict", params=parameters, timeout=10)
    assert (answer.status_code, answer.json()["error_id"]) == (401, 3)


@pytest.mark.parametrize(
    ("key", "secret", "status", "error_id"),
    [
        (None, None, 400, 16),
        ("right", None, 400, 17),
        ("wrong", "right", 401, 5),
        ("right", "wrong", 401, 6),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_the_token_endpoint_refuses(
    caller: Caller, key: str | None, secret: str | None, status: int, error_id: int, method: str
) -> None:
    values = {}
    if key:
        values["consumer_key"] = caller.credentials.key if key == "right" else "nobody"
    if secret:
        values["consumer_secret"] = caller.credentials.secret if secret == "right" else "guess"
    url = f"{caller.stack.url}/token"
    if method == "GET":
        answer = caller.session.get(url, params=values, timeout=10)
    else:
        answer = caller.session.post(url, data=values, timeout=10)
    assert (answer.status_code, answer.json()["error_id"]) == (status, error_id)


def test_the_token_endpoint_speaks_oauth2(caller: Caller) -> None:
    answer = caller.session.post(
        f"{caller.stack.url}/token",
        data={"grant_type": "client_credentials"},
        auth=(caller.credentials.key, caller.credentials.secret),
        timeout=10,
    )
    assert answer.status_code == 200
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.json()["token_type"].lower() == "bearer"
    assert caller.predict(document(DIGIT), answer.json()["access_token"]).status_code == 200
    refused = caller.session.post(
        f"{caller.stack.url}/token",
        data={"grant_type": "client_credentials"},
        auth=(caller.credentials.key, "guess"),
        timeout=10,
    )
    assert refused.status_code == 401
    assert refused.json()["error"] == "invalid_client"


def test_identity_headers_of_the_callers_are_worth_nothing(caller: Caller) -> None:
    spoofed = {
        "x-seldon-client": "deep_mnist_client",
        "x-seldon-variation": "mine",
        "x-seldon-consumer-key": caller.credentials.key,
    }
    answer = caller.session.post(
        f"{caller.stack.url}/predict",
        data=document(DIGIT),
        headers={"Content-Type": "application/json", **spoofed},
        timeout=10,
    )
    assert answer.status_code == 401
    authenticated = caller.session.post(
        f"{caller.stack.url}/predict",
        data=document(DIGIT),
        headers={
            "Content-Type": "application/json",
            "Authorization": f"Bearer {caller.token}",
            "x-seldon-variation": "mine",
        },
        timeout=10,
    )
    assert authenticated.json()["meta"]["variation"] == "tensorflow-deep-mnist"


@pytest.mark.parametrize("callback", ["alert(1)//", "a b", "<script>", "x" * 200, "a;b"])
def test_a_callback_that_is_code_is_refused(caller: Caller, callback: str) -> None:
    answer = caller.js(document(DIGIT), jsonpCallback=callback)
    assert answer.status_code == 400
    assert answer.json()["error_id"] == 46
    assert not answer.text.startswith(callback)


def test_unknown_paths_and_methods(caller: Caller) -> None:
    missing = caller.session.get(f"{caller.stack.url}/nothing/here", timeout=10)
    assert (missing.status_code, missing.json()["error_id"]) == (404, 21)
    refused = caller.session.put(f"{caller.stack.url}/predict", data=b"{}", timeout=10)
    assert refused.status_code in {401, 405}
    assert refused.json()["http_response"] == refused.status_code
    method = caller.channel.unary_unary("/io.seldon.api.rpc.Seldon/Nothing", None, None)
    with pytest.raises(grpc.RpcError) as unknown:
        method(b"", metadata=(("oauth_token", caller.token),), timeout=10)
    assert unknown.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_a_deadline_shorter_than_the_model(caller: Caller) -> None:
    sixteen = request(DIGITS.images[:16].ravel())  # which takes several milliseconds
    with pytest.raises(grpc.RpcError) as late:
        caller.classify(sixteen, timeout=0.001)
    assert late.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert_still_serving(caller)
