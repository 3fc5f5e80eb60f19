"""The programs of a stack, from its settings."""

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import env_settings as env
from deploy.errors import SettingInvalid
from deploy.microservices import Api, Microservice, Replica
from deploy.programs import Program
from deploy.settings import StackSettings, gateway_host, reached_at
from seldon_gateway import processes
from serving_core import settings as serving

_MODULES = {Api.REST: "serving_rest", Api.RPC: "serving_grpc"}

# Stopped from the highest to the lowest: Envoy first, then the servers behind it.
_ENVOY_PRIORITY = 900
_MICROSERVICE_PRIORITY = 500
_CONTROL_PLANE_PRIORITY = 100

GATEWAY_PROGRAMS = ("control-plane", "envoy")

PREFIX = {Api.REST: "REST", Api.RPC: "GRPC"}  # of a server's variables
_SET_HERE = {
    "REST_HOST", "REST_PORT", "REST_METRICS_DIR", "GRPC_HOST", "GRPC_PORT", "GRPC_METRICS_PORT",
}  # fmt: skip

_BEYOND_GRACE_S = 5  # for a server to kill workers that outlive their grace period


@dataclass(frozen=True)
class _Server:
    """What a server's programs and pods are made from."""

    grace_s: float = serving.grace_s("…")


def gateway_programs(settings: StackSettings) -> list[Program]:
    """The control plane and Envoy."""
    gateway = settings.gateway
    control = processes.control_plane_command(gateway)
    envoy = processes.envoy_command(gateway)
    return [
        Program(
            name=control.name,
            argv=tuple(control.argv),
            environment=control.env,
            port=gateway.control_port,
            ready_url=_ready_url(gateway.control_port, reached_at(gateway.control_bind)),
            priority=_CONTROL_PLANE_PRIORITY,
        ),
        Program(
            name=envoy.name,
            argv=tuple(envoy.argv),
            environment=envoy.env,
            port=gateway.rest_port,
            ready_url=_ready_url(gateway.rest_port, gateway_host(gateway)),
            priority=_ENVOY_PRIORITY,
        ),
    ]


def gateway_ports(settings: StackSettings) -> list[tuple[str, str, int]]:
    """What each port of the gateway is for, the variable that sets it, and its number."""
    gateway = settings.gateway
    return [
        ("REST", "SELDON_REST_PORT", gateway.rest_port),
        ("gRPC", "SELDON_GRPC_PORT", gateway.grpc_port),
        ("Envoy's administration interface", "SELDON_ADMIN_PORT", gateway.admin_port),
        ("the control plane", "SELDON_CONTROL_PORT", gateway.control_port),
        *(
            [("Envoy's statistics", "SELDON_STATS_PORT", gateway.stats_port)]
            if gateway.stats_port
            else []
        ),
    ]


def server_environment(api: Api, environ: Mapping[str, str]) -> dict[str, str]:
    """The caller's variables that are passed on to the server of `api`."""
    return {
        name: value
        for name, value in environ.items()
        if name.startswith(("MODEL_ENGINE", f"{PREFIX[api]}_")) and name not in _SET_HERE and value
    }


def grace_s(api: Api, environment: Mapping[str, str]) -> int:
    """The server's grace period for requests in flight, in seconds.

    Raises:
        SettingInvalid: The server would refuse it.
    """
    return math.ceil(_Server(**env.read(_Server, environment, SettingInvalid, PREFIX[api])).grace_s)


def microservice_program(microservice: Microservice, replica: Replica, home: Path) -> Program:
    """The server process group of one replica.

    Raises:
        SettingInvalid: See grace_s.
    """
    environment = {
        **microservice.environment,
        "MODEL_FOLDER": microservice.folder,
        "MODEL_NAME": microservice.name,
    }
    if microservice.api is Api.REST:
        environment |= {
            "REST_PORT": str(replica.port),
            "REST_METRICS_DIR": str(home / "metrics" / replica.program),
        }
    else:
        environment |= {
            "GRPC_PORT": str(replica.port),
            "GRPC_METRICS_PORT": str(replica.metrics_port),
        }
    return Program(
        name=replica.program,
        argv=(sys.executable, "-m", _MODULES[microservice.api]),
        environment=environment,
        port=replica.port,
        ready_url=_ready_url(replica.metrics_port),
        priority=_MICROSERVICE_PRIORITY,
        stop_wait_s=grace_s(microservice.api, microservice.environment) + _BEYOND_GRACE_S,
    )


def _ready_url(port: int, host: str = "127.0.0.1") -> str:
    return f"http://{host}:{port}/health/ready"
