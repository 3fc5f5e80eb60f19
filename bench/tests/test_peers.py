from pathlib import Path

import pytest

from bench.asking import Form
from bench.cases import Way
from bench.errors import BenchError
from bench.peers import parse


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
def test_wrong_short_forms_are_told(text: str, message: str) -> None:
    with pytest.raises(BenchError, match=message):
        parse(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{a: 1}", "holds no list of objects"),
        ("[1]", "holds no list of objects"),
        ("[{", "is no YAML"),
        ("[{name: a, command: c, url: 'http://h/', port: 1}]", "unknown key 'port'"),
        ("[{name: a, command: [c], url: 'http://h/'}]", r"command is \['c'\], expected a text"),
        ("[{name: a, command: c, url: 'http://h/', form: v3}]", "form is 'v3'"),
        ("[{name: a, command: c, url: 'http://h/', form: recorded}]", "body is missing"),
        ("[{name: grpc, command: c, url: 'http://h/'}]", "peer grpc: the name is taken"),
    ],
)
def test_wrong_files_are_told(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "peers.yaml"
    file.write_text(text)
    with pytest.raises(BenchError, match=message):
        parse(str(file))
