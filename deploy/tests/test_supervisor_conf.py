import configparser
from pathlib import Path

from deploy.programs import Program
from deploy.supervisor_conf import fits_socket, program_conf, supervisord_conf

PROGRAM = Program(
    name="mnist-rest-0",
    argv=("/a b/python", "-m", "it's", "100%", "; #"),
    port=9100,
    ready_url="http://127.0.0.1:9100/health/ready",
    environment={"MODEL_FOLDER": "/100 % sure; #1/$HOME"},
    stop_wait_s=20,
)


def _read(text: str) -> configparser.RawConfigParser:
    # As supervisord reads it.
    parser = configparser.RawConfigParser(inline_comment_prefixes=(";", "#"))
    parser.read_string(text)
    return parser


def test_a_program_restarts_and_drains() -> None:
    section = _read(program_conf(PROGRAM))["program:mnist-rest-0"]
    assert section["autorestart"] == "true"
    assert section["stopwaitsecs"] == "20"
    assert section["killasgroup"] == "true"
    assert section["command"] == "/bin/sh run/mnist-rest-0.sh"


def test_nothing_from_outside_is_in_a_section() -> None:
    text = program_conf(PROGRAM)
    assert not {"%", "$", "MODEL_FOLDER", "python"} & set(text.split())
    assert "%" not in text


def test_a_per_cent_sign_in_the_home_is_escaped() -> None:
    text = supervisord_conf(Path("/home/100%/supervisor.sock"))
    assert _read(text)["unix_http_server"]["file"] % {} == "/home/100%/supervisor.sock"


def test_a_socket_needs_a_short_plain_path() -> None:
    assert fits_socket(Path("/" + "a" * 97))
    assert not fits_socket(Path("/" + "a" * 99))
    assert not fits_socket(Path("/" + "ä" * 60))
    assert not fits_socket(Path("/a b/supervisor.sock"))
    assert not fits_socket(Path("/a #b/supervisor.sock"))
