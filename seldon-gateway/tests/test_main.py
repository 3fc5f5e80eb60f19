import json
import os
import subprocess
import sys
from pathlib import Path

import requests

from polling import eventually
from ports import free_ports


def command(what: str, **environ: str) -> tuple[list[str], dict[str, str]]:
    return [sys.executable, "-m", "seldon_gateway", what], os.environ | environ


def test_bootstrap_is_printed_for_the_control_plane_that_is_named() -> None:
    argv, env = command("bootstrap", SELDON_CONTROL_HOST="::1", SELDON_CONTROL_PORT="81")
    printed = subprocess.run(argv, env=env, capture_output=True, text=True, check=True).stdout
    cluster = json.loads(printed)["static_resources"]["clusters"][0]
    endpoint = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]
    assert cluster["type"] == "STATIC"
    assert endpoint["address"]["socket_address"] == {"address": "::1", "port_value": 81}
    assert "http://[::1]:81/.well-known/jwks.json" in printed


def test_control_plane_listens_where_it_is_told_and_ends_on_sigterm(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    argv, env = command(
        "control-plane",
        SELDON_HOME=str(tmp_path / "new"),
        SELDON_CONTROL_BIND="127.0.0.2",
        SELDON_CONTROL_PORT=str(port),
    )
    with subprocess.Popen(argv, env=env) as control_plane:
        try:
            eventually(lambda: answers(f"http://127.0.0.2:{port}/health/ready"), within_s=20)
        finally:
            control_plane.terminate()
    assert control_plane.returncode == 0


def answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=5).status_code == 200
    except requests.ConnectionError:
        return False


def test_a_wrong_setting_is_one_sentence() -> None:
    argv, env = command("control-plane", SELDON_CONTROL_BIND="a b")
    ended = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr == (
        "seldon-gateway: SELDON_CONTROL_BIND is 'a b', expected a host name or an address "
        "without a port\n"
    )


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    home = tmp_path / "a-file" / "home"
    home.parent.touch()
    argv, env = command("control-plane", SELDON_HOME=str(home))
    ended = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"seldon-gateway: SELDON_HOME is {home}, expected a folder")
    assert len(ended.stderr.splitlines()) == 1


def test_a_database_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/none-such/seldon.db"
    argv, env = command("control-plane", SELDON_HOME=str(tmp_path), SELDON_DATABASE_URL=url)
    ended = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr == (
        f"seldon-gateway: the registry {url} cannot be used: unable to open database file\n"
    )
