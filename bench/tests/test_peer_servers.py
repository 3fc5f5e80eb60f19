"""The peers that take only what our own servers take, started for real; the rest as files."""

import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from bench import peers
from bench.cases import Form
from bench.checking import check
from bench.processes import usable_cores
from bench.requesting import Digits, ours_v2
from bench.servers import peer_plan, running
from ports import free_ports

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "bench/peers"
MODEL = ROOT / "models/deep_mnist/1"
PEERS = {peer.name: peer for peer in peers.parse(str(FOLDER / "peers.yaml"))}
PLAIN = ("flask-gunicorn", "grpcio", "null-flask-gunicorn", "null-grpcio")

# What `make peers` installed here, once for each server and format.
INSTALLED = [
    name
    for name, peer in PEERS.items()
    if not re.match("null-|.*-[0-9]+$", name)
    and all((ROOT / word).exists() for word in peer.command if word.startswith(".peers/"))
]


def test_every_file_that_a_command_names_exists() -> None:
    environments = set()
    for peer in PEERS.values():
        words = " ".join(peer.command)
        (environment,) = re.findall(r"\.peers/([a-z-]+)/bin/", words)
        environments.add(environment)
        named = re.findall(r"(?:bench|protos)/[\w./-]+", words)
        assert named, peer.name
        for path in named:
            assert (ROOT / path).exists(), f"{peer.name}: {path}"
        (server,) = re.findall(r"\b\w+_server\b", words)
        assert (FOLDER / f"{server}.py").exists(), f"{peer.name}: {server}"
    assert environments == {
        file.stem.removeprefix("requirements-") for file in FOLDER.glob("requirements-*.txt")
    }


def test_every_peer_is_there_without_a_model_too() -> None:
    for name, peer in PEERS.items():
        if name.startswith("null-"):
            real = PEERS[name.removeprefix("null-")]
            assert peer.command == ("env", "NO_MODEL=1", *(w for w in real.command if w != "env"))
            assert replace(peer, name=name, command=real.command, answered=None) == replace(
                real, name=name
            )
        else:
            assert f"null-{name}" in PEERS


def test_requirements_are_exact_and_name_no_registry() -> None:
    for file in FOLDER.glob("requirements-*.txt"):
        for line in file.read_text().splitlines():
            if not line.startswith("#"):
                assert re.fullmatch(r"[\w.-]+==[\w.!+]+", line), f"{file.name}: {line}"


@pytest.mark.parametrize("form", [Form.V2, Form.V2_BINARY, Form.V2_GRPC])
def test_peers_get_the_bytes_that_our_servers_get(form: Form) -> None:
    digits = Digits.of_model(MODEL)
    ours = ours_v2(form, "127.0.0.1", 1, digits)
    peers = [peer.request_set(digits) for peer in PEERS.values() if peer.form is form]
    assert peers
    for peer in peers:
        assert (peer.path, peer.bodies, peer.headers) == (ours.path, ours.bodies, ours.headers)


@pytest.mark.stack
@pytest.mark.parametrize("name", PLAIN)
def test_plain_peers_answer_right(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    command = tuple(
        sys.executable if word.startswith(".peers/") else word
        for word in PEERS[name].command
        # gunicorn's fast parser is in the peer's own environment alone.
        if word not in ("--http-parser", "fast")
    )
    check_answers(name, command, tmp_path / "log")


@pytest.mark.stack
@pytest.mark.parametrize(
    "name",
    INSTALLED or [pytest.param("", marks=pytest.mark.skip(reason="make peers installed none"))],
)
def test_installed_peers_answer_right(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    check_answers(name, PEERS[name].command, tmp_path / "log")


def check_answers(name: str, command: tuple[str, ...], log: Path) -> None:
    """Start a peer on other ports and check its predictions."""
    request_set = PEERS[name].request_set(Digits.of_model(MODEL))
    places = sorted({word for word in command for word in re.findall(r"\b241\d\d\b", word)})
    ports = dict(zip(places, free_ports(len(places)), strict=True))
    for old, new in ports.items():
        command = tuple(word.replace(old, str(new)) for word in command)
    request_set = replace(request_set, port=ports[str(request_set.port)])
    plan = peer_plan(command, request_set.port, MODEL)
    with running(name, plan, request_set, usable_cores(), log):
        assert check(request_set) > 0
