"""Peers: other servers of the same model, from the PEERS setting."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

import yaml

from bench import requesting
from bench.cases import Form, Way, all_cases
from bench.errors import BenchError
from bench.requesting import INPUT, MODEL, MODEL_INFER, Contents, Digits, RequestSet

_KEYS = ("name", "command", "url", "form", "body", "input", "model", "contents", "answered")
_FORMS = ", ".join(form for form in Form if form is not Form.OURS)
_FORMS_OVER_GRPC = {
    MODEL_INFER: Form.V2_GRPC,
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
    """Another server.

    Attributes:
        name: The name of its cases.
        command: Its command, which runs in the foreground.
        url: http://host:port/path, or grpc://host:port/package.Service/Method.
        form: The format of its requests and responses.
        body: The file of a recorded request: an HTTP body or a gRPC message without its prefix.
        input: The name of the V2 input.
        model: The name of the model in V2 gRPC requests.
        contents: The field of the numbers in gRPC requests.
        answered: The fixed prediction of a server without a model.
    """

    name: str
    command: tuple[str, ...]
    url: str
    form: Form
    body: Path | None = None
    input: str = INPUT
    model: str = MODEL
    contents: Contents = Contents.RAW
    answered: int | None = None

    @property
    def way(self) -> Way:
        """The request variant."""
        return Way.GRPC if self.url.startswith("grpc:") else Way.POST

    def request_set(self, digits: Digits) -> RequestSet:
        """The requests.

        Raises:
            BenchError: The recorded request is not readable.
        """
        requests = self._request_set(digits)
        if self.answered is None or requests.digits is None:
            return requests
        return replace(requests, digits=(self.answered,) * len(requests.digits))

    def _request_set(self, digits: Digits) -> RequestSet:
        parts = urlsplit(self.url)
        host = parts.hostname or "127.0.0.1"
        port = parts.port or _DEFAULT_PORTS[parts.scheme]
        path = parts.path + (f"?{parts.query}" if parts.query else "")
        if self.form in (Form.V1, Form.V1_BARE):
            return requesting.v1(host, port, path, digits, self.form)
        if self.form is Form.V2:
            return requesting.v2(host, port, path, digits, self.input)
        if self.form is Form.V2_BINARY:
            return requesting.v2_binary(host, port, path, digits, self.input)
        if self.form is Form.V2_GRPC:
            return requesting.v2_grpc(
                host, port, path, digits, self.model, self.input, self.contents
            )
        if self.form is Form.SELDON:
            return requesting.seldon(host, port, path, digits)
        if self.form is Form.SELDON_GRPC:
            return requesting.seldon_grpc(host, port, path, digits, self.contents)
        try:
            body = self.body.read_bytes() if self.body else b""
        except OSError as error:
            raise BenchError(f"peer {self.name}: body {self.body}: {error.strerror}") from None
        return requesting.recorded(self.way, host, port, path, body)


def parse(text: str) -> list[Peer]:
    """Parse PEERS: a YAML or JSON file with a list of peers, or name=command=url.

    Raises:
        BenchError: PEERS is invalid; the message names the peer and the key.
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
        raise BenchError(f"PEERS: {text} is not valid YAML: {error}") from None
    if not isinstance(document, list) or not all(isinstance(one, dict) for one in document):
        raise BenchError(f"PEERS: {text} is not a list of objects with the keys {', '.join(_KEYS)}")
    peers = [_peer(one) for one in document]
    names = [peer.name for peer in peers]
    taken = {name for case in all_cases([1]) for name in (case.name, case.server.name)}
    for name in names:
        if names.count(name) > 1 or name in taken:
            raise BenchError(f"peer {name}: the name is not unique")
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
        raise BenchError(f"PEERS has the name {name!r}, expected a string without commas")
    for key, value in entry.items():
        if key not in _KEYS:
            raise BenchError(f"peer {name}: unknown key {key!r}, expected {', '.join(_KEYS)}")
        if key != "answered" and not isinstance(value, str):
            raise BenchError(f"peer {name}: {key} is {value!r}, expected a string")
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
        entry.get("input", INPUT),
        entry.get("model", MODEL),
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
        raise BenchError(f"peer {name}: body is missing, expected the file of a recorded request")
    if form is not Form.RECORDED and (form in _CONTENTS) != url.startswith("grpc:"):
        raise BenchError(f"peer {name}: form {form} does not match url {url!r}")
    return form


def _form_of(url: SplitResult) -> Form:
    if url.scheme == "grpc":
        return _FORMS_OVER_GRPC.get(url.path, Form.RECORDED)
    if url.path == _SELDON_PATH:
        return Form.SELDON
    return Form.V2 if url.path.startswith("/v2/") else Form.V1


def _contents(name: str, entry: Mapping[str, Any], form: Form) -> Contents:
    value = entry.get("contents", Contents.RAW)
    possible = _CONTENTS.get(form, (Contents.RAW,))
    if value not in possible:
        expected = " or ".join(possible)
        raise BenchError(
            f"peer {name}: contents is {value!r}, expected {expected} with form {form}"
        )
    return Contents(value)


def _answered(name: str, entry: Mapping[str, Any]) -> int | None:
    value = entry.get("answered")
    if value is None or (type(value) is int and 0 <= value <= 9):
        return value
    raise BenchError(f"peer {name}: answered is {value!r}, expected a digit from 0 to 9")
