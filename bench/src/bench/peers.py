"""Other servers of the same model, as the person describes them."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

import yaml

from bench import asking
from bench.asking import Asking, Contents, Digits, Form
from bench.cases import OUR_SERVERS, Way
from bench.errors import BenchError

_KEYS = ("name", "command", "url", "form", "body", "input", "model", "contents", "answered")
_FORMS = ", ".join(form for form in Form if form is not Form.OURS)
_FORMS_OVER_GRPC = {
    "/inference.GRPCInferenceService/ModelInfer": Form.V2_GRPC,
    "/seldon.protos.Seldon/Predict": Form.SELDON_GRPC,
}
_CONTENTS = {
    Form.V2_GRPC: (Contents.RAW, Contents.FP32),
    Form.SELDON_GRPC: (Contents.RAW, Contents.TENSOR),
}
_SELDON_PATH = "/api/v1.0/predictions"
_DEFAULT_PORTS = {"http": 80, "grpc": 50051}


@dataclass(frozen=True)
class Peer:
    """One other server.

    Attributes:
        name: Of its cases.
        command: Starts it, in the foreground.
        url: http://host:port/path, or grpc://host:port/package.Service/Method.
        form: What it speaks, or that the request is a recorded one.
        body: The recorded request: an HTTP body, or a serialised gRPC message without its prefix.
        input: V2's name of the input.
        model: V2's name of the model, over gRPC; over HTTP the URL has it.
        contents: Where the numbers are, over gRPC.
        answered: The one digit that it tells of every image, if it has no model.
    """

    name: str
    command: tuple[str, ...]
    url: str
    form: Form
    body: Path | None = None
    input: str = "input"
    model: str = "mnist"
    contents: Contents = Contents.RAW
    answered: int | None = None

    @property
    def way(self) -> Way:
        """How it is asked."""
        return Way.GRPC if self.url.startswith("grpc:") else Way.POST

    def asking(self, digits: Digits) -> Asking:
        """What it is asked.

        Raises:
            BenchError: The recorded request cannot be read.
        """
        asked = self._asking(digits)
        if self.answered is None or asked.digits is None:
            return asked
        return replace(asked, digits=(self.answered,) * len(asked.digits))

    def _asking(self, digits: Digits) -> Asking:
        parts = urlsplit(self.url)
        host = parts.hostname or "127.0.0.1"
        port = parts.port or _DEFAULT_PORTS[parts.scheme]
        path = parts.path + (f"?{parts.query}" if parts.query else "")
        if self.form in (Form.V1, Form.V1_BARE):
            return asking.v1(host, port, path, digits, self.form)
        if self.form is Form.V2:
            return asking.v2(host, port, path, digits, self.input)
        if self.form is Form.V2_GRPC:
            return asking.v2_grpc(host, port, path, digits, self.model, self.input, self.contents)
        if self.form is Form.SELDON:
            return asking.seldon(host, port, path, digits)
        if self.form is Form.SELDON_GRPC:
            return asking.seldon_grpc(host, port, path, digits, self.contents)
        try:
            body = self.body.read_bytes() if self.body else b""
        except OSError as error:
            raise BenchError(f"peer {self.name}: body {self.body}: {error.strerror}") from None
        return asking.recorded(self.way, host, port, path, body)


def parse(text: str) -> list[Peer]:
    """Read PEERS: a YAML or JSON file with a list of peers, or name=command=url.

    Raises:
        BenchError: Names the peer and the key.
    """
    if not text:
        return []
    if "=" in text and not Path(text).exists():
        return [_peer(_short_form(text))]
    try:
        document = yaml.safe_load(Path(text).read_text(encoding="utf-8"))
    except OSError as error:
        raise BenchError(
            f"PEERS is {text!r}, expected name=command=url or a YAML file: {error.strerror}"
        ) from None
    except yaml.YAMLError as error:
        raise BenchError(f"PEERS: {text} is no YAML: {error}") from None
    if not isinstance(document, list) or not all(isinstance(one, dict) for one in document):
        raise BenchError(f"PEERS: {text} holds no list of objects with the keys {', '.join(_KEYS)}")
    peers = [_peer(one) for one in document]
    names = [peer.name for peer in peers]
    taken = {server.name for server in OUR_SERVERS}
    for name in names:
        if names.count(name) > 1 or name in taken:
            raise BenchError(f"peer {name}: the name is taken")
    return peers


def _short_form(text: str) -> dict[str, str]:
    name, _, rest = text.partition("=")
    # The command may hold "=", and so may a URL's query.
    for scheme in ("=http://", "=grpc://"):
        command, found, address = rest.rpartition(scheme)
        if found:
            return {"name": name, "command": command, "url": scheme[1:] + address}
    raise BenchError(f"PEERS is {text!r}, expected name=command=url with http:// or grpc://")


def _peer(entry: Mapping[str, Any]) -> Peer:
    name = entry.get("name")
    if not isinstance(name, str) or not name or "," in name:
        raise BenchError(f"PEERS has a peer with the name {name!r}, expected a text without commas")
    for key, value in entry.items():
        if key not in _KEYS:
            raise BenchError(f"peer {name}: unknown key {key!r}, expected {', '.join(_KEYS)}")
        if key != "answered" and not isinstance(value, str):
            raise BenchError(f"peer {name}: {key} is {value!r}, expected a text")
    command = shlex.split(entry.get("command", ""))
    if not command:
        raise BenchError(f"peer {name}: command is missing")
    url = entry.get("url", "")
    try:
        parts = urlsplit(url)
        valid = parts.scheme in _DEFAULT_PORTS and parts.hostname and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise BenchError(f"peer {name}: url is {url!r}, expected http://… or grpc://… with a host")
    body = Path(entry["body"]) if "body" in entry else None
    form = _form(name, entry, url, body)
    return Peer(
        name,
        tuple(command),
        url,
        form,
        body,
        entry.get("input", "input"),
        entry.get("model", "mnist"),
        _contents(name, entry, form),
        _answered(name, entry),
    )


def _form(name: str, entry: Mapping[str, Any], url: str, body: Path | None) -> Form:
    if "form" in entry:
        try:
            form = Form(entry["form"])
        except ValueError:
            form = Form.OURS
        if form is Form.OURS:
            raise BenchError(f"peer {name}: form is {entry['form']!r}, expected {_FORMS}")
    elif body is not None:
        form = Form.RECORDED
    else:
        form = _form_of(urlsplit(url))
    if form is Form.RECORDED and body is None:
        raise BenchError(f"peer {name}: body is missing, the file of the recorded request")
    if form is not Form.RECORDED and (form in _CONTENTS) != url.startswith("grpc:"):
        raise BenchError(f"peer {name}: form {form} does not go with url {url!r}")
    return form


def _form_of(url: SplitResult) -> Form:
    if url.scheme == "grpc":
        return _FORMS_OVER_GRPC.get(url.path, Form.RECORDED)
    if url.path == _SELDON_PATH:
        return Form.SELDON
    return Form.V2 if url.path.startswith("/v2/") else Form.V1


def _contents(name: str, entry: Mapping[str, Any], form: Form) -> Contents:
    told = entry.get("contents", Contents.RAW)
    possible = _CONTENTS.get(form, (Contents.RAW,))
    if told not in possible:
        expected = " or ".join(possible)
        raise BenchError(f"peer {name}: contents is {told!r}, expected {expected} with form {form}")
    return Contents(told)


def _answered(name: str, entry: Mapping[str, Any]) -> int | None:
    told = entry.get("answered")
    if told is None or (type(told) is int and 0 <= told <= 9):
        return told
    raise BenchError(f"peer {name}: answered is {told!r}, expected a digit from 0 to 9")
