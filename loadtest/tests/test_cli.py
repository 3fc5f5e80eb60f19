"""What cannot be tested is said at once, in one sentence."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from click.testing import CliRunner

from loadtest.__main__ import main


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def fails_at_once(launch: Any, *options: str, **more: Any) -> str:
    done = launch("run", *options, **more)
    assert done.status == 1
    assert done.out == ""
    assert not done.results.exists()
    lines = done.err.splitlines()
    assert len(lines) == 1, done.err
    return lines[0]


@pytest.mark.parametrize("test_type", ["js-predict", "grpc-predict"])
def test_nothing_there(test_type: str, launch: Any) -> None:
    said = fails_at_once(launch, "--test-type", test_type)
    assert said.startswith("error: http://127.0.0.1:1")
    assert " is not reachable; " in said
    assert "make deploy" in said


def test_tokens_but_no_grpc(start_stub: Any, launch: Any) -> None:
    host = start_stub("http_stub").port
    said = fails_at_once(launch, "--test-type", "grpc-predict", host=host)
    assert "127.0.0.1:1 is not reachable; " in said


def test_no_answer_in_time(silent_port: int, launch: Any) -> None:
    said = fails_at_once(launch, "--test-type", "js-predict", host=silent_port)
    assert "did not respond within 2 s" in said


@pytest.mark.parametrize("test_type", ["js-predict", "grpc-predict"])
def test_a_refused_key(test_type: str, start_stub: Any, launch: Any) -> None:
    keys = {
        "SELDON_JS_KEY": "wrong-key",
        "SELDON_OAUTH_KEY": "wrong-key",
        "SELDON_OAUTH_SECRET": "wrong-secret",
    }
    said = fails_at_once(
        launch, "--test-type", test_type, keys=keys, host=start_stub("http_stub").port
    )
    assert 'the key of client "a-client" was rejected' in said
    assert "wrong" not in said


@pytest.mark.parametrize(("test_type", "kind"), [("js-predict", "rest"), ("grpc-predict", "rpc")])
def test_no_model(test_type: str, kind: str, start_stub: Any, launch: Any) -> None:
    host = start_stub("http_stub", "no-model" if kind == "rest" else "right").port
    grpc = start_stub("grpc_stub", "no-model").port
    said = fails_at_once(launch, "--test-type", test_type, host=host, grpc=grpc)
    assert 'for client "a-client" (Invalid or Null Strategy.)' in said
    assert f"-p NAME FOLDER {kind} 1.0" in said


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            ("--locust-clients", "0"),
            "--locust-clients is '0', expected an integer from 1 to 128000",
        ),
        (("--wait", "x"), "--wait is 'x', expected MIN-MAX"),
        (("--wait-ms", "1", "2"), "--wait and --wait-ms are both set"),  # the fixture gives --wait
        (("--model-folder", "nowhere"), "--model-folder nowhere has no readable model.json"),
    ],
)
def test_a_setting_outside_its_limits(
    options: tuple[str, ...], sentence: str, launch: Any, start_stub: Any
) -> None:
    host = start_stub("http_stub").port
    assert sentence in fails_at_once(launch, "--test-type", "js-predict", *options, host=host)


@pytest.mark.parametrize(
    ("command", "duration_s", "warmup_s"),
    [("benchmark", 60, 5), ("matrix", 30, 5), ("capacity", 15, 2)],
)
def test_the_help_shows_the_commands_own_defaults(
    command: str, duration_s: int, warmup_s: int
) -> None:
    text = " ".join(CliRunner().invoke(main, [command, "--help"]).output.split())
    assert f"[env: LOADTEST_DURATION; default: {duration_s}]" in text
    assert f"[env: LOADTEST_WARMUP; default: {warmup_s}]" in text


def test_only_the_locustfiles_import_locust() -> None:
    code = (
        "import pkgutil, sys, loadtest\n"
        "for module in pkgutil.iter_modules(loadtest.__path__, 'loadtest.'):\n"
        "    if not module.ispkg: __import__(module.name)\n"
        "assert 'loadtest.runner' in sys.modules\n"
        "assert not {'locust', 'gevent'} & set(sys.modules)"
    )
    environment = {**os.environ, "PYTHONWARNINGS": "error"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=60)
