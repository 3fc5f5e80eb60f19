from pathlib import Path

import pytest

from bench.cases import Form, Way
from bench.errors import BenchError
from bench.peers import parse
from bench.requesting import Contents, Digits
from open_inference_pb2 import ModelInferRequest
from seldon_core_pb2 import SeldonMessage

MODEL = Path(__file__).parents[2] / "models/deep_mnist/1"


def test_short_form() -> None:
    (peer,) = parse("tfs=server --port=8501 --name='a b'=http://127.0.0.1:8501/v1/models/m:predict")
    assert (peer.name, peer.form, peer.way) == ("tfs", Form.V1, Way.POST)
    assert peer.command == ("server", "--port=8501", "--name=a b")
    assert peer.url == "http://127.0.0.1:8501/v1/models/m:predict"


def test_the_path_tells_v2() -> None:
    (peer,) = parse("triton=run=http://localhost:8000/v2/models/m/infer")
    assert peer.form is Form.V2


def test_file(tmp_path: Path) -> None:
    (tmp_path / "request").write_bytes(b"message")
    (tmp_path / "peers.yaml").write_text(
        f"""
- name: one
  command: one --port 1
  url: grpc://localhost:9000/p.Service/Method
  body: {tmp_path / "request"}
- {{name: two, command: two, url: "http://localhost/v2/models/m/infer", input: x}}
"""
    )
    one, two = parse(str(tmp_path / "peers.yaml"))
    assert (one.way, one.form, one.body) == (Way.GRPC, Form.RECORDED, tmp_path / "request")
    assert (two.form, two.input) == (Form.V2, "x")


def test_v2_over_grpc_and_a_server_without_a_model(tmp_path: Path) -> None:
    url = "grpc://localhost:1/inference.GRPCInferenceService/ModelInfer"
    (tmp_path / "peers.yaml").write_text(
        f"""
- {{name: raw, command: c, url: "{url}"}}
- {{name: fp32, command: c, url: "{url}", model: m, input: x, contents: fp32}}
- {{name: "null", command: c, url: "http://h/v1", answered: 3}}
"""
    )
    raw, fp32, null = parse(str(tmp_path / "peers.yaml"))
    assert (raw.way, raw.form, raw.contents) == (Way.GRPC, Form.V2_GRPC, Contents.RAW)
    assert (fp32.model, fp32.input, fp32.contents) == ("m", "x", Contents.FP32)
    digits = Digits.of_model(MODEL)
    message = ModelInferRequest.FromString(fp32.request_set(digits).bodies[0])
    assert (message.model_name, message.inputs[0].name) == ("m", "x")
    assert raw.request_set(digits).digits == digits.labels
    assert null.request_set(digits).digits == (3,) * len(digits.indices)


def test_seldon_core_and_answers_that_are_an_array(tmp_path: Path) -> None:
    (tmp_path / "peers.yaml").write_text(
        """
- {name: r, command: c, url: "http://h/api/v1.0/predictions"}
- {name: g, command: c, url: "grpc://h:1/seldon.protos.Seldon/Predict"}
- {name: t, command: c, url: "grpc://h:1/seldon.protos.Seldon/Predict", contents: tensor}
- {name: b, command: c, url: "http://h/p", form: v1-bare}
"""
    )
    rest, raw, tensor, bare = parse(str(tmp_path / "peers.yaml"))
    assert (rest.way, rest.form) == (Way.POST, Form.SELDON)
    assert (raw.way, raw.form, raw.contents) == (Way.GRPC, Form.SELDON_GRPC, Contents.RAW)
    digits = Digits.of_model(MODEL)
    assert SeldonMessage.FromString(raw.request_set(digits).bodies[0]).binData
    assert SeldonMessage.FromString(tensor.request_set(digits).bodies[0]).data.tensor.values
    assert rest.request_set(digits).bodies[0].startswith(b'{"data":{"ndarray":[[')
    asked = bare.request_set(digits)
    assert (asked.form, asked.digits) == (Form.V1_BARE, digits.labels)
    assert asked.bodies[0].startswith(b'{"instances":[[')


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nowhere.yaml", "expected name=command=url or a YAML file: No such file"),
        ("name=command", "expected name=command=url with http:// or grpc://"),
        ("a,b=c=http://h/", "the name 'a,b'"),
        ("a= =http://h/", "peer a: command is missing"),
        ("a=c=http:///path", "peer a: url is"),
        ("a=c=grpc://h:1/p.S/M", "peer a: body is missing"),
    ],
)
def test_wrong_short_forms_are_reported(text: str, message: str) -> None:
    with pytest.raises(BenchError, match=message):
        parse(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{a: 1}", "is not a list of objects"),
        ("[1]", "is not a list of objects"),
        ("[{", "is not valid YAML"),
        ("[{name: a, command: c, url: 'http://h/', port: 1}]", "unknown key 'port'"),
        ("[{name: a, command: [c], url: 'http://h/'}]", r"command is \['c'\], expected a string"),
        ("[{name: a, command: c, url: 'http://h/', form: v3}]", "form is 'v3'"),
        ("[{name: a, command: c, url: 'http://h/', form: recorded}]", "body is missing"),
        ("[{name: a, command: c, url: 'http://h/', form: v2-grpc}]", "form v2-grpc does not match"),
        ("[{name: a, command: c, url: 'grpc://h/p.S/M', form: v1}]", "form v1 does not match"),
        ("[{name: a, command: c, url: 'grpc://h/p.S/M', form: seldon}]", "form seldon does not"),
        ("[{name: a, command: c, url: 'http://h/', form: seldon-grpc}]", "form seldon-grpc does"),
        (
            "[{name: a, command: c, url: 'grpc://h/seldon.protos.Seldon/Predict', contents: fp32}]",
            "contents is 'fp32', expected raw or tensor with form seldon-grpc",
        ),
        ("[{name: a, command: c, url: 'http://h/', contents: x}]", "contents is 'x', expected raw"),
        ("[{name: a, command: c, url: 'http://h/', answered: 10}]", "answered is 10, expected a"),
        ("[{name: a, command: c, url: 'http://h/', answered: yes}]", "answered is True, expected"),
        ("[{name: grpc, command: c, url: 'http://h/'}]", "peer grpc: the name is not unique"),
        ("[{name: rest-v2, command: c, url: 'http://h/'}]", "peer rest-v2: the name is not unique"),
        (
            "[{name: a, command: c, url: 'grpc://h/p.S/M', form: v2-binary}]",
            "form v2-binary does not match",
        ),
    ],
)
def test_wrong_files_are_reported(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "peers.yaml"
    file.write_text(text)
    with pytest.raises(BenchError, match=message):
        parse(str(file))
