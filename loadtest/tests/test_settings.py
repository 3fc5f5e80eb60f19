"""Flags win over the environment, that over the defaults; what is outside a limit is named."""

from pathlib import Path
from typing import Any

import pytest

from loadtest.errors import SettingInvalid
from loadtest.settings import LoadTestSettings

NEEDED = {"client": "c", "test_type": "js-predict"}


@pytest.fixture(autouse=True)
def _away_from_any_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_defaults_are_the_originals() -> None:
    settings = LoadTestSettings.from_env({}, **NEEDED)
    assert (settings.users, settings.hatch_rate, settings.processes) == (50, 5, 1)
    assert (settings.wait_ms, settings.document()["data_size"]) == ((900, 1100), 784)
    assert settings.host == settings.oauth_endpoint == "http://127.0.0.1:8080"
    assert settings.grpc_endpoint == "127.0.0.1:5000"
    assert (settings.duration_s, settings.warmup_s, settings.seed) == (60, 5, 1)
    assert settings.model_folder is None
    assert settings.command == "launch-locust-load-test --seldon-client c --test-type js-predict"


def test_flags_win_over_the_environment() -> None:
    environ = {"LOADTEST_USERS": "7", "LOADTEST_WAIT": "1-2", "LOADTEST_SEED": "", "X": "y"}
    settings = LoadTestSettings.from_env(environ, **NEEDED, users=9, hatch_rate=None)
    assert (settings.users, settings.wait_ms, settings.seed) == (9, (1, 2), 1)
    assert settings.command.endswith("--locust-clients 9 --wait 1-2")


@pytest.mark.parametrize(
    ("bind", "host"),
    [
        ("", "127.0.0.1"),
        ("0.0.0.0", "127.0.0.1"),  # noqa: S104
        ("192.0.2.2", "192.0.2.2"),
        ("::", "[::1]"),
        ("2001:db8::2", "[2001:db8::2]"),
    ],
)
def test_this_machines_gateway_is_asked_where_it_listens(bind: str, host: str) -> None:
    environ = {"SELDON_BIND": bind, "SELDON_REST_PORT": "18080", "SELDON_GRPC_PORT": "15000"}
    settings = LoadTestSettings.from_env(environ, client="c", test_type="grpc-predict")
    assert settings.host == settings.oauth_endpoint == f"http://{host}:18080"
    assert settings.grpc_endpoint == f"{host}:15000"


def test_one_host_stands_for_all_endpoints() -> None:
    settings = LoadTestSettings.from_env(
        {"LOADTEST_HOST": "10.0.0.7:30015/", "SELDON_GRPC_PORT": "30017"}, **NEEDED
    )
    assert settings.host == settings.oauth_endpoint == "http://10.0.0.7:30015"
    assert settings.grpc_endpoint == "10.0.0.7:30017"


def test_the_model_of_this_repository_is_found(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "deep_mnist" / "1"
    folder.mkdir(parents=True)
    (folder / "model.json").write_text("{}")
    assert LoadTestSettings.from_env({}, **NEEDED).model_folder == Path("models/deep_mnist/1")


def test_a_locust_process_reads_the_same_settings(tmp_path: Path) -> None:
    settings = LoadTestSettings.from_env({}, **NEEDED, wait_ms=(1, 2), output=Path("out"))
    read = LoadTestSettings.from_json(settings.to_json())
    assert read.output == tmp_path / "out"
    assert read.document() == settings.document()


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"client": ""}, "--seldon-client is empty"),
        ({"test_type": "x"}, "--test-type is 'x', expected js-predict or grpc-predict"),
        ({"users": 0}, "--locust-clients is '0', expected an integer from 1 to 128000"),
        ({"processes": 65}, "--locust-slaves is '65', expected an integer from 1 to 64"),
        (
            {"users": 1, "processes": 2},
            "--locust-clients is 1, expected 2 to 4000 with --locust-slaves 2",
        ),
        (
            {"hatch_rate": 0.0},
            "--locust-hatch-rate is '0', expected users per second from 0.01 to 1000",
        ),
        ({"duration_s": float("nan")}, "--duration is 'nan', expected seconds from 0.1 to 604800"),
        ({"warmup_s": -1.0}, "--warmup is '-1', expected seconds from 0 to 3600"),
        ({"wait_ms": (2, 1)}, "--wait is 2-1, expected MIN-MAX with 0 <= MIN <= MAX"),
        ({"seed": -1}, "--seed is '-1', expected an integer from 0 to 9223372036854775807"),
        ({"host": "http://[::1"}, r"--host is 'http://\[::1', expected http://HOST:PORT"),
        ({"web_port": 0}, "--web-port is '0', expected an integer from 1 to 65535"),
        ({"metrics_bind": "here"}, "--metrics-bind is 'here', expected HOST:PORT"),
        ({"images": 8}, "--images is 8, expected 1 with jsonp-get; add --rest-form json-post"),
        (
            {"payload": "cats.csv"},
            "--payload is 'cats.csv', expected digits, random or a file .npy, .npz, .jsonl",
        ),
        ({"payload": "x.npy", "decimals": "2"}, "--decimals is 2, expected none with a file"),
        ({"connections": "many"}, "--connections is 'many', expected kept or per-call"),
        ({"data_size": 10}, "default-data-size is 10, expected 784 for digits; add --payload ran"),
        ({"host": "https://x"}, "--host is 'https://x', expected http://HOST:PORT"),
        ({"host": "http://x/y"}, "expected http://HOST:PORT without a path"),
        ({"host": "http://x:port"}, "--host"),
        ({"grpc_endpoint": "http://x:1"}, "--seldon-grpc-endpoint .* expected HOST:PORT"),
        ({"grpc_endpoint": "x:70000"}, "--seldon-grpc-endpoint .* expected HOST:PORT"),
    ],
)
def test_what_is_outside_a_limit_is_named(wrong: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SettingInvalid, match=sentence):
        LoadTestSettings.from_env({}, **{**NEEDED, **wrong})


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("LOADTEST_USERS", "many"),
        ("LOADTEST_DURATION", "1m"),
        ("LOADTEST_WAIT", "1-x"),
        ("LOADTEST_WAIT", "1_0"),
    ],
)
def test_a_variable_that_is_no_number_is_named(variable: str, text: str) -> None:
    with pytest.raises(SettingInvalid, match=f"{variable} is '{text}', expected"):
        LoadTestSettings.from_env({variable: text}, **NEEDED)


def test_a_wrong_variable_does_not_matter_beside_its_flag() -> None:
    assert LoadTestSettings.from_env({"LOADTEST_USERS": "many"}, **NEEDED, users=9).users == 9


def test_more_users_need_more_processes() -> None:
    assert LoadTestSettings.from_env({}, **NEEDED, users=4000, processes=2).users == 4000
    with pytest.raises(SettingInvalid, match="--locust-clients is 2001, expected 1 to 2000 with"):
        LoadTestSettings.from_env({}, **NEEDED, users=2001)
