"""One real stack on free ports, and the commands that a user runs on it."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil
import requests

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
CLIENT = "deep_mnist_client"


@dataclass(frozen=True)
class Credentials:
    """What one client shows to the gateway."""

    js_key: str
    key: str
    secret: str


@dataclass(frozen=True)
class Stack:
    """One stack: its state folder, its ports, its commands."""

    home: Path
    rest_port: int
    grpc_port: int
    admin_port: int
    control_port: int
    microservice_ports: list[int]
    prometheus_port: int = 0  # none

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.rest_port}"

    @property
    def grpc_target(self) -> str:
        return f"127.0.0.1:{self.grpc_port}"

    @property
    def environment(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("SELDON_", "LOADTEST_"))}
        return {
            **kept,
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "SELDON_HOME": str(self.home),
            "SELDON_REST_PORT": str(self.rest_port),
            "SELDON_GRPC_PORT": str(self.grpc_port),
            "SELDON_ADMIN_PORT": str(self.admin_port),
            "SELDON_CONTROL_PORT": str(self.control_port),
            "SELDON_PROMETHEUS_PORT": str(self.prometheus_port),
            "SELDON_MICROSERVICE_PORTS": (
                f"{self.microservice_ports[0]}-{self.microservice_ports[-1]}"
            ),
        }

    def run(
        self, *command: str, check: bool = True, timeout: float = 120, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run one of the product's commands as a user does, from the repository's root."""
        result = subprocess.run(
            command,
            cwd=ROOT,
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if check:
            assert result.returncode == 0, f"{command}: {result.stdout}\n{result.stderr}"
        return result

    def deploy(self) -> subprocess.CompletedProcess[str]:
        return self.run(sys.executable, "-m", "deploy", "deploy")

    def undeploy(self) -> subprocess.CompletedProcess[str]:
        return self.run(sys.executable, "-m", "deploy", "undeploy", "--purge")

    def credentials(self, client: str = CLIENT) -> Credentials:
        def first(scope: str) -> dict[str, str]:
            arguments = ("--client-name", client, "--scope", scope)
            rows = json.loads(self.run("seldon-cli", "--quiet", "keys", *arguments).stdout)
            return dict(rows[0])

        js, everything = first("js"), first("all")
        return Credentials(js["key"], everything["key"], everything["secret"])

    def token(self, client: str = CLIENT) -> str:
        shown = self.credentials(client)
        parameters = {"consumer_key": shown.key, "consumer_secret": shown.secret}
        answer = requests.get(f"{self.url}/token", params=parameters, timeout=10)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["access_token"])

    def processes(self) -> list[psutil.Process]:
        """Every process that carries this stack's mark."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("SELDON_STACK") == str(self.home):
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
                continue
        return found
