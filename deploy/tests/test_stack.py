import sys
from pathlib import Path

import pytest

from deploy.errors import SettingInvalid
from deploy.microservices import Api, Microservice, Replica
from deploy.settings import StackSettings
from deploy.stack import (
    GATEWAY_PROGRAMS,
    gateway_ports,
    gateway_programs,
    grace_s,
    microservice_program,
    server_environment,
)

ENVIRON = {
    "MODEL_ENGINE": "tensorflow",
    "MODEL_FOLDER": "/elsewhere",
    "REST_WORKERS": "3",
    "REST_PORT": "1",
    "GRPC_WORKERS": "4",
    "GRPC_THREADS": "",
    "GRPC_METRICS_PORT": "2",
    "HOME": "/home/someone",
}


def test_a_server_gets_its_callers_settings_but_not_its_ports() -> None:
    assert server_environment(Api.REST, ENVIRON) == {
        "MODEL_ENGINE": "tensorflow",
        "REST_WORKERS": "3",
    }
    assert server_environment(Api.RPC, ENVIRON) == {
        "MODEL_ENGINE": "tensorflow",
        "GRPC_WORKERS": "4",
    }


def test_a_replica_becomes_a_program() -> None:
    service = Microservice("mnist", Api.RPC, "/m/1", "abc", {"GRPC_WORKERS": "4"})
    program = microservice_program(service, Replica("mnist-rpc-0", 9100, 9101), Path("/home"))
    assert program.argv == (sys.executable, "-m", "serving_grpc")
    assert program.environment == {
        "MODEL_FOLDER": "/m/1",
        "MODEL_NAME": "mnist",
        "GRPC_PORT": "9100",
        "GRPC_METRICS_PORT": "9101",
        "GRPC_WORKERS": "4",
    }
    assert program.port == 9100
    assert program.ready_url == "http://127.0.0.1:9101/health/ready"


@pytest.mark.parametrize(
    ("api", "environment", "wait_s"),
    [
        (Api.REST, {}, 15),
        (Api.REST, {"REST_GRACE_S": "60.5"}, 66),
        (Api.RPC, {"GRPC_GRACE_S": "60"}, 65),
        (Api.RPC, {"GRPC_GRACE_S": "0"}, 5),
    ],
)
def test_a_server_is_not_killed_within_its_grace(
    api: Api, environment: dict[str, str], wait_s: int
) -> None:
    service = Microservice("mnist", api, "/m/1", "abc", environment)
    program = microservice_program(service, Replica("mnist-0", 9100, 9101), Path("/home"))
    assert program.stop_wait_s == wait_s


@pytest.mark.parametrize("value", ["soon", "nan", "-1", "3601"])
def test_a_grace_that_the_server_refuses_is_an_error(value: str) -> None:
    with pytest.raises(SettingInvalid, match=f"GRPC_GRACE_S is '{value}', expected seconds from 0"):
        grace_s(Api.RPC, {"GRPC_GRACE_S": value})


def test_the_gateway_is_stopped_around_the_microservices(tmp_path: Path) -> None:
    settings = StackSettings.from_env({"SELDON_HOME": str(tmp_path), "SELDON_REST_PORT": "1234"})
    control, envoy = gateway_programs(settings)
    assert (control.name, envoy.name) == GATEWAY_PROGRAMS
    service = Microservice("mnist", Api.REST, "/m/1", "abc", {})
    model = microservice_program(service, Replica("mnist-rest-0", 9100, 9100), tmp_path)
    assert envoy.priority > model.priority > control.priority
    assert envoy.ready_url == "http://127.0.0.1:1234/health/ready"
    assert ("REST", "SELDON_REST_PORT", 1234) in gateway_ports(settings)


@pytest.mark.parametrize(
    ("bind", "host"),
    [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("127.0.0.2", "127.0.0.2"),  # noqa: S104
     ("::", "[::1]")],
)  # fmt: skip
def test_the_control_plane_is_looked_for_where_it_listens(
    tmp_path: Path, bind: str, host: str
) -> None:
    settings = StackSettings.from_env({"SELDON_HOME": str(tmp_path), "SELDON_CONTROL_BIND": bind})
    control, _ = gateway_programs(settings)
    assert control.ready_url == f"http://{host}:8081/health/ready"


def test_a_port_for_statistics_has_to_be_free_if_one_is_wanted(tmp_path: Path) -> None:
    home = {"SELDON_HOME": str(tmp_path)}
    variables = [name for _, name, _ in gateway_ports(StackSettings.from_env(home))]
    assert "SELDON_STATS_PORT" not in variables
    settings = StackSettings.from_env({**home, "SELDON_STATS_PORT": "9902"})
    assert ("Envoy's statistics", "SELDON_STATS_PORT", 9902) in gateway_ports(settings)
