"""Starts and stops servers, ours and peers."""

import os
import shlex
import sys
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import null_engine_folder
from bench.cases import ServerKind
from bench.checking import wait_until_ready
from bench.errors import BenchError
from bench.processes import end, start
from bench.requesting import MODEL, RequestSet
from deploy.ports import is_free
from serving_core.model_folder import LITERT

HOST = "127.0.0.1"
START_LIMIT_S = 120.0
# Settings of the user's own stack do not apply to the servers under test.
_NOT_INHERITED = ("SELDON_", "MODEL_", "REST_", "GRPC_", "PROMETHEUS_", "GUNICORN_")


@dataclass(frozen=True)
class Ports:
    """The ports of our servers; one runs at a time."""

    rest: int
    grpc: int
    grpc_metrics: int


@dataclass(frozen=True)
class Plan:
    """How to start a server."""

    command: tuple[str, ...]
    environment: dict[str, str]
    port: int
    metrics_url: str | None = None


@dataclass(frozen=True)
class Running:
    """A ready server."""

    pid: int
    cold_start_s: float
    metrics_url: str | None


def our_plan(kind: ServerKind, ports: Ports, model: Path, engine: str = LITERT) -> Plan:
    """The plan of one of our servers."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(_NOT_INHERITED)}
    environment |= {
        "MODEL_FOLDER": str(model.absolute()),
        "MODEL_ENGINE": engine,
        "MODEL_NAME": MODEL,
    }
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
    """The plan of a peer; MODEL_FOLDER tells it the model."""
    return Plan(command, os.environ | {"MODEL_FOLDER": str(model.absolute())}, port)


@contextmanager
def running(
    name: str, plan: Plan, request_set: RequestSet, cores: Collection[int], log: Path
) -> Iterator[Running]:
    """Start a server, wait for its first correct prediction, stop it after the context.

    Raises:
        BenchError: Its port is in use, it exits, or it returns no correct prediction.
    """
    if not is_free(plan.port):
        raise BenchError(f"{name} did not start: port {plan.port} is in use, expected a free one")
    log.unlink(missing_ok=True)
    began = time.perf_counter()
    process = start(plan.command, plan.environment, cores, log)
    try:
        wait_until_ready(request_set, START_LIMIT_S, _alive(name, plan, process.poll, log))
        cold_start_s = time.perf_counter() - began
        yield Running(process.pid, cold_start_s, plan.metrics_url)
    finally:
        end(process)


def _alive(name: str, plan: Plan, ended: Callable[[], int | None], log: Path) -> Callable[[], None]:
    def look() -> None:
        status = ended()
        if status is not None:
            lines = log.read_text(errors="replace").strip().splitlines()
            last = lines[-1] if lines else "its log is empty"
            raise BenchError(
                f"{name} exited with status {status}: {last} ({shlex.join(plan.command)})"
            )

    return look
