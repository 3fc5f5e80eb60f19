"""Our servers and others, started for a round and ended after it."""

import os
import shlex
import sys
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import null_engine_folder
from bench.asking import Asking
from bench.cases import ServerKind
from bench.checking import first_answer
from bench.errors import BenchError
from bench.processes import end, start
from deploy.ports import is_free
from model_runtime.model_folder import LITERT

HOST = "127.0.0.1"
START_LIMIT_S = 120.0
# The settings of a person's own stack are no settings of what is measured.
_NOT_INHERITED = ("SELDON_", "MODEL_", "REST_", "GRPC_", "PROMETHEUS_", "GUNICORN_")


@dataclass(frozen=True)
class Ports:
    """Where our servers listen; one runs at a time."""

    rest: int
    grpc: int
    grpc_metrics: int


@dataclass(frozen=True)
class Plan:
    """How a server is started."""

    command: tuple[str, ...]
    environment: dict[str, str]
    port: int
    metrics_url: str | None = None


@dataclass(frozen=True)
class Running:
    """A server that has answered."""

    pid: int
    cold_start_s: float
    metrics_url: str | None


def our_plan(kind: ServerKind, ports: Ports, model: Path, engine: str = LITERT) -> Plan:
    """One of our servers, with its own command and settings."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(_NOT_INHERITED)}
    environment |= {"MODEL_FOLDER": str(model.absolute()), "MODEL_ENGINE": engine}
    if kind.null:
        paths = (str(null_engine_folder()), environment.get("PYTHONPATH", ""))
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    if kind.protocol == "rest":
        environment |= {
            "REST_PORT": str(ports.rest),
            "REST_WORKERS": str(kind.workers),
            "REST_DRAIN_DELAY_S": "0",
            "REST_GRACE_S": "1",
        }
        url = f"http://{HOST}:{ports.rest}/metrics"
        return Plan((sys.executable, "-m", "serving_rest"), environment, ports.rest, url)
    environment |= {
        "GRPC_PORT": str(ports.grpc),
        "GRPC_METRICS_PORT": str(ports.grpc_metrics),
        "GRPC_WORKERS": str(kind.workers),
        "GRPC_GRACE_S": "0.5",
    }
    url = f"http://{HOST}:{ports.grpc_metrics}/metrics"
    return Plan((sys.executable, "-m", "serving_grpc"), environment, ports.grpc, url)


def peer_plan(command: tuple[str, ...], port: int, model: Path) -> Plan:
    """Another server; ours of bench/peers read MODEL_FOLDER too."""
    return Plan(command, os.environ | {"MODEL_FOLDER": str(model.absolute())}, port)


@contextmanager
def running(
    name: str, plan: Plan, asking: Asking, cores: Collection[int], log: Path
) -> Iterator[Running]:
    """Start a server, wait for its first right answer, end it after the block.

    Raises:
        BenchError: Its port is in use, it ends, or it gives no right answer.
    """
    if not is_free(plan.port):
        raise BenchError(f"{name} cannot be started: port {plan.port} is in use")
    log.unlink(missing_ok=True)
    began = time.perf_counter()
    process = start(plan.command, plan.environment, cores, log)
    try:
        first_answer(asking, START_LIMIT_S, _alive(name, plan, process.poll, log))
        cold_start_s = time.perf_counter() - began
        yield Running(process.pid, cold_start_s, plan.metrics_url)
    finally:
        end(process)


def _alive(name: str, plan: Plan, ended: Callable[[], int | None], log: Path) -> Callable[[], None]:
    def look() -> None:
        status = ended()
        if status is not None:
            lines = log.read_text(errors="replace").strip().splitlines()
            said = lines[-1] if lines else "it said nothing"
            raise BenchError(
                f"{name} ended with status {status}: {said} ({shlex.join(plan.command)})"
            )

    return look
