from pathlib import Path

import numpy as np
import orjson
import pytest

from bench import requesting
from bench.cases import Form, Way
from bench.requesting import Contents, Digits, RequestSet, framed, predicted_digit
from open_inference_pb2 import ModelInferRequest, ModelInferResponse
from seldon_core_pb2 import SeldonMessage
from seldon_pb2 import ClassificationReply, ClassificationRequest, DefaultCustomPredictRequest
from serving_core.digits import held_out

MODEL = Path(__file__).parents[2] / "models/deep_mnist/1"
SCORES = [0.0, 0.1, 0.0, 0.0, 0.9, 0.0, 0.0, 0.0, 0.0, 0.0]
OURS = {
    "meta": {"puid": "p"},
    "predictions": [{"predictedClass": str(i), "prediction": s} for i, s in enumerate(SCORES)],
}


@pytest.fixture(scope="module")
def digits() -> Digits:
    return Digits.of_model(MODEL)


def v2_grpc(digits: Digits, contents: Contents) -> RequestSet:
    return requesting.v2_grpc("h", 1, "/p", digits, "m", "x", contents)


def seldon_grpc(digits: Digits, contents: Contents) -> RequestSet:
    return requesting.seldon_grpc("h", 1, "/p", digits, contents)


def binary_answer(stated_bytes: int) -> bytes:
    output = {"name": "o", "parameters": {"binary_data_size": stated_bytes}}
    return orjson.dumps({"outputs": [output]}) + np.array(SCORES, "<f4").tobytes()


def test_every_request_holds_the_digit_that_it_is_checked_for(digits: Digits) -> None:
    images = held_out().images
    post = requesting.ours(Way.POST, "h", 1, digits)
    rpc = requesting.ours(Way.GRPC, "h", 1, digits)
    assert post.digits == rpc.digits == tuple(held_out().labels[list(digits.indices)])
    for position in (0, 100):
        image = images[digits.indices[position]].tolist()
        assert orjson.loads(post.bodies[position])["data"] == pytest.approx(image)
        values = DefaultCustomPredictRequest()
        ClassificationRequest.FromString(rpc.bodies[position]).data.Unpack(values)
        assert list(values.values) == image


def test_keys_go_where_the_gateway_looks_for_them(digits: Digits) -> None:
    jsonp = requesting.ours(Way.JSONP, "h", 1, digits, js_key="a key")
    assert jsonp.bodies[0].startswith(b"/js/predict?consumer_key=a%20key&json=")
    assert jsonp.bodies[0].endswith(b"&jsonpCallback=j")
    assert (
        requesting.ours(Way.POST, "h", 1, digits, js_key="k").path == "/js/predict?consumer_key=k"
    )
    assert requesting.ours(Way.GRPC, "h", 1, digits, token="t").headers == {"oauth_token": "t"}


def test_answers_of_every_form_tell_their_digit(digits: Digits) -> None:
    reply = ClassificationReply()
    for label, score in enumerate(SCORES):
        reply.predictions.add(prediction=score, predictedClass=str(label))
    tensor = ModelInferResponse.InferOutputTensor(name="o", shape=(1, 10), datatype="FP32")
    raw = ModelInferResponse(
        outputs=[tensor], raw_output_contents=[np.array(SCORES, "<f4").tobytes()]
    )
    tensor.contents.fp32_contents.extend(SCORES)
    fp32 = ModelInferResponse(outputs=[tensor])
    raw_message = SeldonMessage(binData=np.array(SCORES, "<f4").tobytes())
    message = SeldonMessage()
    message.data.tensor.values.extend(SCORES)
    for asked, answer in (
        (seldon_grpc(digits, Contents.RAW), raw_message.SerializeToString()),
        (seldon_grpc(digits, Contents.TENSOR), message.SerializeToString()),
        (requesting.seldon("h", 1, "/p", digits), orjson.dumps({"data": {"ndarray": [SCORES]}})),
        (requesting.v1("h", 1, "/p", digits, Form.V1_BARE), orjson.dumps([SCORES])),
        (v2_grpc(digits, Contents.RAW), raw.SerializeToString()),
        (v2_grpc(digits, Contents.RAW), fp32.SerializeToString()),
        (requesting.ours(Way.GRPC, "h", 1, digits), reply.SerializeToString()),
        (requesting.ours(Way.POST, "h", 1, digits), orjson.dumps(OURS)),
        (requesting.ours(Way.JSONP, "h", 1, digits), b"j(" + orjson.dumps(OURS) + b")"),
        (requesting.v1("h", 1, "/p", digits), orjson.dumps({"predictions": [SCORES]})),
        (
            requesting.v2("h", 1, "/p", digits, "input"),
            orjson.dumps({"outputs": [{"name": "o", "data": SCORES}]}),
        ),
        (requesting.v2_binary("h", 1, "/p", digits, "input"), binary_answer(40)),
    ):
        assert predicted_digit(asked, answer) == 4


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"[]",
        b"{}",
        b'{"error": "busy"}',
        b'{"predictions": [[1, 2]]}',
        b'{"predictions": [[1], [2]]}',
        b'{"predictions": 1}',
    ],
)
def test_answers_of_no_form_are_refused(digits: Digits, answer: bytes) -> None:
    with pytest.raises(ValueError, match="not of form v1"):
        predicted_digit(requesting.v1("h", 1, "/p", digits), answer)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b'{"error": "busy"}',
        binary_answer(44),
        binary_answer(40)[:-1],
        orjson.dumps({"outputs": [{"name": "o", "data": SCORES}]}),
    ],
)
def test_binary_answers_without_scores_are_refused(digits: Digits, answer: bytes) -> None:
    with pytest.raises(ValueError, match="not of form v2-binary"):
        predicted_digit(requesting.v2_binary("h", 1, "/p", digits, "x"), answer)


@pytest.mark.parametrize("answer", [b"[]", b'{"error": "busy"}', b"[[1], [2]]", b"[[1, 2]]"])
def test_bare_answers_without_scores_are_refused(digits: Digits, answer: bytes) -> None:
    with pytest.raises(ValueError, match="not of form v1-bare"):
        predicted_digit(requesting.v1("h", 1, "/p", digits, Form.V1_BARE), answer)


@pytest.mark.parametrize(
    "answer", [b'{"status": {"code": -1}}', b'{"data": {}}', b'{"data": {"ndarray": [[1]]}}']
)
def test_documents_of_seldon_core_without_scores_are_refused(digits: Digits, answer: bytes) -> None:
    with pytest.raises(ValueError, match="not of form seldon"):
        predicted_digit(requesting.seldon("h", 1, "/p", digits), answer)


@pytest.mark.parametrize(
    "form", [form for form in Form if form not in (Form.RECORDED, Form.V2_GRPC, Form.SELDON_GRPC)]
)
def test_good_answers_over_http_hold_their_marker_and_errors_do_not(form: Form) -> None:
    asked = RequestSet(Way.POST, "h", 1, "/p", (), None, form)
    good = {
        Form.V1_BARE: [SCORES],
        Form.V2: {"outputs": [{"data": SCORES}]},
        Form.V2_BINARY: {"outputs": [{"parameters": {"binary_data_size": 40}}]},
        Form.SELDON: {"data": {"ndarray": [SCORES]}},
    }.get(form, {"predictions": [SCORES]})
    assert asked.marker in orjson.dumps(good).decode()
    for error in ({"error": "busy"}, {"status": {"code": -1, "info": "Can't find data"}}):
        assert asked.marker not in orjson.dumps(error).decode()


def test_v1_and_v2_bodies(digits: Digits) -> None:
    image = held_out().images[digits.indices[0]].tolist()
    ((row,),) = orjson.loads(requesting.v1("h", 1, "/p", digits).bodies[0]).values()
    assert row == pytest.approx(image)
    (tensor,) = orjson.loads(requesting.v2("h", 1, "/p", digits, "x").bodies[0])["inputs"]
    assert (tensor["name"], tensor["shape"], tensor["datatype"]) == ("x", [1, 784], "FP32")
    assert tensor["data"] == pytest.approx(image)
    ((row,),) = orjson.loads(requesting.seldon("h", 1, "/p", digits).bodies[0])["data"].values()
    assert row == pytest.approx(image)


def test_the_binary_extension(digits: Digits) -> None:
    asked = requesting.v2_binary("h", 1, "/p", digits, "x")
    for position in (0, 100):
        body = asked.bodies[position]
        length = int(asked.headers["Inference-Header-Content-Length"])
        document = orjson.loads(body[:length])
        (tensor,) = document["inputs"]
        assert document["parameters"] == {"binary_data_output": True}
        assert (tensor["name"], tensor["shape"], tensor["datatype"]) == ("x", [1, 784], "FP32")
        assert tensor["parameters"] == {"binary_data_size": len(body) - length}
        image = held_out().images[digits.indices[position]]
        assert body[length:] == image.astype("<f4").tobytes()


@pytest.mark.parametrize("form", [Form.V2, Form.V2_BINARY, Form.V2_GRPC])
def test_open_inference_through_the_gateway_has_the_token_and_the_variation(
    digits: Digits, form: Form
) -> None:
    direct = requesting.ours_v2(form, "h", 1, digits, answered=3)
    through = requesting.ours_v2(form, "h", 1, digits, "variation", "t")
    assert (direct.digits, through.digits) == ((3,) * len(direct.bodies), digits.labels)
    access = dict(set(through.headers.items()) - set(direct.headers.items()))
    if form is Form.V2_GRPC:
        assert access == {"oauth_token": "t"}
        names = [ModelInferRequest.FromString(r.bodies[0]).model_name for r in (direct, through)]
        assert names == ["mnist", "variation"]
    else:
        assert access == {"Authorization": "Bearer t"}
        assert direct.path == "/v2/models/mnist/infer"
        assert through.path == "/v2/models/variation/infer"
        assert through.bodies == direct.bodies


@pytest.mark.parametrize("contents", [Contents.RAW, Contents.FP32])
def test_v2_messages(digits: Digits, contents: Contents) -> None:
    image = held_out().images[digits.indices[0]]
    message = ModelInferRequest.FromString(v2_grpc(digits, contents).bodies[0])
    (tensor,) = message.inputs
    assert (message.model_name, tensor.name, tensor.datatype) == ("m", "x", "FP32")
    assert list(tensor.shape) == [1, 784]
    if contents is Contents.RAW:
        assert list(message.raw_input_contents) == [image.astype("<f4").tobytes()]
        assert not tensor.HasField("contents")
    else:
        assert list(tensor.contents.fp32_contents) == image.tolist()
        assert not message.raw_input_contents


def test_messages_of_seldon_core(digits: Digits) -> None:
    image = held_out().images[digits.indices[0]]
    raw, tensor = (
        SeldonMessage.FromString(seldon_grpc(digits, contents).bodies[0])
        for contents in (Contents.RAW, Contents.TENSOR)
    )
    assert raw.binData == image.astype("<f4").tobytes()
    assert list(tensor.data.tensor.shape) == [1, 784]
    assert list(tensor.data.tensor.values) == image.tolist()


@pytest.mark.parametrize("answer", [b"", b"\xff", b'"\x02ab'])
def test_messages_of_seldon_core_without_scores_are_refused(digits: Digits, answer: bytes) -> None:
    with pytest.raises(ValueError, match="not of form seldon-grpc"):
        predicted_digit(seldon_grpc(digits, Contents.RAW), answer)


@pytest.mark.parametrize("answer", [b"", b"\xff", b"2\x02ab"])
def test_v2_messages_without_scores_are_refused(digits: Digits, answer: bytes) -> None:
    with pytest.raises(ValueError, match="not of form v2-grpc"):
        predicted_digit(v2_grpc(digits, Contents.RAW), answer)


def test_a_grpc_message_is_framed_as_http2_carries_it() -> None:
    assert framed(b"abc") == b"\0\0\0\0\3abc"
