"""A gateway (Envoy and control plane) in front of the servers' ports."""

import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.errors import BenchError
from bench.processes import on_cores
from bench.servers import HOST, Ports
from deploy import check, envoy_view, stack_processes
from deploy.console import wait_until
from deploy.databases import DEFAULT_DATABASE
from deploy.errors import DeployError
from deploy.lifecycle import bring_up
from deploy.local import LocalStack
from deploy.locking import lock
from deploy.operator_view import operator
from deploy.settings import StackSettings
from seldon_gateway.errors import GatewayError
from seldon_gateway.strategies import Endpoint, Protocol, Variation

CLIENT = "bench"
TOKEN_TTL_S = 86_400  # longer than any run
_TIMEOUT_S = 15.0


@dataclass(frozen=True)
class Gateway:
    """The gateway's ports, credentials and Envoy's process id; `model` is its variation."""

    rest_port: int
    grpc_port: int
    model: str
    js_key: str
    token: str
    envoy_pid: int


@contextmanager
def gateway(
    ports: list[int], servers: Ports, cores: Collection[int], threads: int = 1
) -> Iterator[Gateway]:
    """Run a gateway on four ports within the context; `threads` are Envoy's.

    Raises:
        BenchError: The gateway does not start.
    """
    rest, grpc, admin, control = ports
    # Not below the results, as the path of a Unix socket is limited.
    home = Path(tempfile.mkdtemp(prefix="bench-")).resolve()
    kept = {k: v for k, v in os.environ.items() if not k.startswith("SELDON_")}
    environ = {
        **kept,
        "SELDON_HOME": str(home),
        "SELDON_REST_PORT": str(rest),
        "SELDON_GRPC_PORT": str(grpc),
        "SELDON_ADMIN_PORT": str(admin),
        "SELDON_CONTROL_PORT": str(control),
        "SELDON_PROMETHEUS_PORT": "0",
        "SELDON_ENVOY_THREADS": str(threads),
        "SELDON_TOKEN_TTL": str(TOKEN_TTL_S),
    }
    local = LocalStack(home)
    try:
        try:
            with lock(home), on_cores(cores):
                bring_up(local, environ)
            up = _route(local, environ, servers)
        except (DeployError, GatewayError) as error:
            raise BenchError(f"the gateway did not start: {error}") from None
        yield up
    finally:
        local.shut_down()
        shutil.rmtree(home, ignore_errors=True)


def _route(local: LocalStack, environ: dict[str, str], servers: Ports) -> Gateway:
    """Route one client to the servers' ports."""
    settings = StackSettings.from_env(environ).gateway
    with operator(local.files, environ) as it:
        it.setup_client(CLIENT, DEFAULT_DATABASE)
        routes: dict[Protocol, int] = {"rest": servers.rest, "grpc": servers.grpc}
        for protocol, port in routes.items():
            variation = Variation(CLIENT, 1.0, (Endpoint(HOST, port),))
            it.registry.replace_variations(CLIENT, protocol, (variation,))
        if not wait_until(lambda: envoy_view.is_up_to_date(settings, it.registry), _TIMEOUT_S):
            raise BenchError(f"the gateway did not load its routes within {_TIMEOUT_S:g} s")
        shown = it.credentials(CLIENT)
    (envoy,) = stack_processes.of_stack(local.home, "envoy")
    token = check.access_token(settings, shown)
    return Gateway(settings.rest_port, settings.grpc_port, CLIENT, shown.js_key, token, envoy.pid)
