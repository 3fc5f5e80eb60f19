"""The REST and the gRPC server of a model folder, without a gateway."""

import contextlib
import http.client
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from polling import eventually
from ports import free_ports

READY_S = 60.0


@dataclass(frozen=True)
class Servers:
    """Two running servers of one model."""

    rest_target: str
    grpc_target: str

    @property
    def url(self) -> str:
        return f"http://{self.rest_target}"


@contextlib.contextmanager
def serving(folder: Path, log: Path, **environment: str) -> Iterator[Servers]:
    """Serve a model folder by one worker each, until the block ends."""
    rest, rpc, metrics = free_ports(3)
    settings = {
        "serving_rest": {"REST_PORT": rest, "REST_WORKERS": 1, "REST_DRAIN_DELAY_S": 0},
        "serving_grpc": {"GRPC_PORT": rpc, "GRPC_METRICS_PORT": metrics, "GRPC_WORKERS": 1},
    }
    common = os.environ | {"MODEL_FOLDER": str(folder)} | environment
    with contextlib.ExitStack() as running:
        stream = running.enter_context(log.open("wb"))
        processes = []
        for module, own in settings.items():
            process = subprocess.Popen(
                [sys.executable, "-m", module],
                env=common | {name: str(value) for name, value in own.items()},
                stdout=stream,
                stderr=stream,
            )
            processes.append(process)
            running.callback(process.wait, 20)
            running.callback(process.terminate)
        for process, port in zip(processes, (rest, metrics), strict=True):
            eventually(lambda: _is_ready(process, port, log), "a ready server", READY_S)  # noqa: B023  # called at once
        yield Servers(f"127.0.0.1:{rest}", f"127.0.0.1:{rpc}")


def _is_ready(process: subprocess.Popen[bytes], port: int, log: Path) -> bool:
    assert process.poll() is None, log.read_text()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
        connection.request("GET", "/health/ready")
        return connection.getresponse().status == 200
    return False
