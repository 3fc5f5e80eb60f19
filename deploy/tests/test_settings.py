from pathlib import Path

import pytest

from deploy.errors import SettingInvalid
from deploy.settings import StackSettings, gateway_host, home_from_env, recorded_variables
from deploy.state_folder import StateFolder


def test_defaults_are_the_documented_ports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = StackSettings.from_env({})
    gateway = settings.gateway
    assert gateway.home == tmp_path.resolve() / ".seldon"
    assert (gateway.rest_port, gateway.grpc_port) == (8080, 5000)
    assert (gateway.admin_port, gateway.control_port) == (9901, 8081)
    assert (settings.microservice_ports[0], settings.microservice_ports[-1]) == (9100, 9899)


@pytest.mark.parametrize("text", ["9100", "9899-9100", "0-10", "1-65536", "a-b", "9100-", " 1-2"])
def test_a_range_of_ports_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(SettingInvalid, match="SELDON_MICROSERVICE_PORTS is"):
        StackSettings.from_env({"SELDON_MICROSERVICE_PORTS": text})


@pytest.mark.parametrize("text", ["/a*", "/a[1]", "/a?", "/a\nb"])
def test_a_home_that_the_supervisor_would_misread_is_refused(text: str) -> None:
    with pytest.raises(SettingInvalid, match="SELDON_HOME is"):
        home_from_env({"SELDON_HOME": text})


def test_a_running_stack_keeps_what_it_was_started_with(tmp_path: Path) -> None:
    files = StateFolder(tmp_path)
    environ = {"SELDON_HOME": str(tmp_path), "SELDON_REST_PORT": "1234", "PATH": "/bin"}
    assert (
        StackSettings.of_stack(files, {**environ, "SELDON_GRPC_PORT": "2"}).gateway.grpc_port == 2
    )
    files.write_variables(recorded_variables(environ))
    assert files.variables() == {"SELDON_REST_PORT": "1234"}
    later = {"SELDON_HOME": str(tmp_path), "SELDON_REST_PORT": "1", "SELDON_GRPC_PORT": "2"}
    gateway = StackSettings.of_stack(files, later).gateway
    assert (gateway.rest_port, gateway.grpc_port) == (1234, 5000)


@pytest.mark.parametrize(
    ("bind", "host"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("0.0.0.0", "127.0.0.1"),  # noqa: S104
        ("::", "[::1]"),
        ("192.0.2.7", "192.0.2.7"),
    ],
)
def test_this_machine_reaches_the_gateway_where_it_listens(bind: str, host: str) -> None:
    assert gateway_host(StackSettings.from_env({"SELDON_BIND": bind}).gateway) == host
