"""The stack of compose.yaml, by docker compose or podman-compose."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.console import step, wait_until
from deploy.errors import ComposeFailed
from deploy.probes import is_ready

PROJECT = "prediction-services"
FILE = Path("compose.yaml")
PASSWORD = Path(".seldon/compose/grafana-password")

SETUP, GATEWAY, LOADTEST, WORKER = "setup", "envoy", "loadtest", "loadtest-worker"
SERVING = ("control-plane", "serving-rest", "serving-grpc", SETUP, GATEWAY)
MONITORING = ("prometheus", "alertmanager", "grafana")
NETWORK = "serving"
VARIATION = "deep-mnist"  # in compose/strategy.json
OUR_IMAGES = ("control-plane", "serving-rest", "serving-grpc", "envoy", "loadtest")

_READY_S = 180.0


@dataclass(frozen=True)
class Compose:
    """Runs docker compose or podman-compose.

    Attributes:
        engine: docker or podman.
        command: Prefix of every compose command.
        root: The repository root, where compose.yaml is.
        environ: Variables of compose.yaml.
    """

    engine: str
    command: tuple[str, ...]
    root: Path
    environ: Mapping[str, str]

    @classmethod
    def find(cls, root: Path, environ: Mapping[str, str]) -> Compose:
        """The first engine that works; docker needs its server for that.

        Raises:
            ComposeFailed: None works, or `root` is not the repository root.
        """
        if not (root / FILE).is_file():
            raise ComposeFailed(
                f"{root} is not the root of the repository, expected {FILE} in it; "
                "run the command from the root"
            )
        beside = Path(sys.executable).with_name("podman-compose")
        podman_compose = str(beside) if beside.exists() else shutil.which("podman-compose")
        for engine, command in (
            ("docker", ("docker", "compose")),
            ("podman", (podman_compose,) if podman_compose else ("podman", "compose")),
        ):
            if _works((engine, "info"), environ) and _works((*command, "version"), environ):
                return cls(engine, (*command, "--file", str(FILE)), root, environ)
        raise ComposeFailed(
            "neither docker compose nor podman-compose works on this machine; install one of "
            "them, for example podman (Debian) with podman-compose (PyPI)"
        )

    def run(self, *words: str) -> None:
        """Run a compose command, its output to stderr.

        Raises:
            ComposeFailed: The exit status is not 0.
        """
        done = subprocess.run(
            [*self.command, *words], cwd=self.root, env=dict(self.environ), stdout=2, check=False
        )
        if done.returncode != 0:
            raise ComposeFailed(
                f"{self.engine} compose {words[0]} exited with status {done.returncode}; "
                "see its output above"
            )

    def output(self, *words: str) -> str:
        """The stdout of an engine command; empty if it fails."""
        done = self._run_engine(*words)
        return done.stdout.strip() if done.returncode == 0 else ""

    @property
    def project(self) -> str:
        """Prefix of the names of containers, networks and volumes."""
        return self.environ.get("COMPOSE_PROJECT_NAME") or PROJECT

    def container(self, service: str) -> str:
        """The id of a service's newest container, stopped ones too; empty when there is none."""
        return next(iter(self._containers(service)), "")

    def remove(self, *services: str) -> None:
        """Remove their containers, also those that run."""
        # Not by compose: podman-compose has no such command.
        if found := [one for service in services for one in self._containers(service)]:
            self.output("rm", "--force", *found)

    def state(self, service: str) -> tuple[str, int]:
        """The engine's status of a service, such as running or exited, and its exit code."""
        container = self.container(service)
        printed = self.output(
            "inspect", "--format={{.State.Status}} {{.State.ExitCode}}", container
        )
        status, _, code = printed.partition(" ")
        return status or "missing", int(code or 0)

    def has_names(self) -> bool:
        """Whether the network has DNS, which podman leaves to an optional program."""
        if self.engine != "podman":
            return True
        inspect = ("network", "inspect", "--format={{.DNSEnabled}}")
        return self.output(*inspect, f"{self.project}_{NETWORK}") != "false"

    def missing_images(self, references: Sequence[str]) -> list[str]:
        """The images that the engine does not have."""
        return [one for one in references if not self.output("image", "inspect", one)]

    def seldon_cli(self, *words: str) -> str:
        """The stdout of `seldon-cli` in a container of the setup service.

        Raises:
            ComposeFailed: It fails.
        """
        command = [
            *self.command, "run", "--rm", "-T", "--no-deps", SETUP, "seldon-cli", "--quiet", *words,
        ]  # fmt: skip
        done = subprocess.run(
            command, cwd=self.root, env=dict(self.environ), capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        if done.returncode != 0:
            raise ComposeFailed(f"seldon-cli failed in its container: {_last_line(done.stderr)}")
        return done.stdout

    def follow(self, container: str) -> int:
        """Stream a container's logs until it exits; returns its exit code."""
        command = [self.engine, "logs", "--follow", container]
        subprocess.run(command, env=dict(self.environ), check=False)
        return int(self.output("wait", container) or 1)

    def copy(self, container: str, path: str, into: Path) -> None:
        """Copy what is in a folder of a container.

        Raises:
            ComposeFailed: It is not there, or cannot be written here.
        """
        into.mkdir(parents=True, exist_ok=True)
        done = self._run_engine("cp", f"{container}:{path}/.", str(into))
        if done.returncode != 0:
            raise ComposeFailed(f"cannot copy the results from {path}: {_last_line(done.stderr)}")

    def _containers(self, service: str) -> list[str]:
        return self.output(
            *("ps", "--all", "--quiet"),
            f"--filter=label=com.docker.compose.project={self.project}",
            f"--filter=label=com.docker.compose.service={service}",
        ).split()

    def _run_engine(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [self.engine, *words]
        return subprocess.run(
            command, env=dict(self.environ), capture_output=True, text=True, check=False
        )


def image_references(environ: Mapping[str, str], version: str) -> list[str]:
    """The full names of our images in compose.yaml."""
    registry = environ.get("SELDON_REGISTRY") or "localhost"
    tag = environ.get("SELDON_TAG") or version
    return [f"{registry}/{PROJECT}/{name}:{tag}" for name in OUR_IMAGES]


def make_password(path: Path) -> bool:
    """Create the password of Grafana's user admin unless it exists; True if created.

    Grafana's user can read the file in the container; on this machine only the owner can.
    """
    if path.exists():
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    path.parent.chmod(0o700)
    draft = path.with_suffix(".draft")
    draft.write_text(secrets.token_urlsafe(18))
    draft.chmod(0o444)
    draft.replace(path)
    return True


def bring_up(compose: Compose, services: Sequence[str], gateway_url: str) -> None:
    """Start those of `services` that do not run, and wait for the gateway.

    Raises:
        ComposeFailed: A container fails; the others keep running, for their logs.
    """
    with step(f"starting {len(services)} containers"):
        compose.run("up", "--detach", *services)
    if not compose.has_names():
        raise ComposeFailed(
            "podman's network has no DNS, so containers cannot reach each other by name; "
            "install Debian's packages netavark, aardvark-dns and iptables, run make undeploy "
            "TARGET=compose, and see docs/containers.md if podman still does not use them"
        )

    def ready() -> bool:
        status, code = compose.state(SETUP)
        if status == "exited" and code != 0:
            raise ComposeFailed(f"{SETUP} exited with status {code}; {_REMEDY.format(SETUP)}")
        return status == "exited" and is_ready(f"{gateway_url}/health/ready")

    with step("waiting for the gateway"):
        if not wait_until(ready, _READY_S, every_s=0.5):
            states = {name: compose.state(name)[0] for name in services}
            done = {SETUP: "exited"}  # with status 0, checked above
            wrong = [
                f"{name} is {state}"
                for name, state in states.items()
                if state not in ("running", done.get(name))
            ]
            raise ComposeFailed(
                f"the gateway at {gateway_url} is not ready after {_READY_S:.0f} s "
                f"({', '.join(wrong) or 'every container is running'}); {_REMEDY.format(GATEWAY)}"
            )


_REMEDY = "see make logs TARGET=compose NAME={}"


def load_test(compose: Compose, test_type: str, workers: int, results: Path) -> int:
    """Run a load test with a master and workers, and copy its results to `results`.

    Returns:
        The master's exit code.

    Raises:
        ComposeFailed: It did not start, or has no results.
    """
    output = f"/results/{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    here = {
        **compose.environ,
        "LOADTEST_TEST_TYPE": test_type,
        "LOADTEST_WORKERS": str(workers),
        "LOADTEST_OUTPUT": output,
    }
    run = Compose(compose.engine, (*compose.command, "--profile", "loadtest"), compose.root, here)
    try:
        with step(f"starting Locust: a master and {workers} workers"):
            run.run(
                *("up", "--detach", "--force-recreate", "--no-deps"),
                *("--scale", f"{WORKER}={workers}", LOADTEST, WORKER),
            )
        master = run.container(LOADTEST)
        if not master:
            raise ComposeFailed(f"{LOADTEST} has no container; {_REMEDY.format(LOADTEST)}")
        status = run.follow(master)
        run.copy(master, output, results)
    finally:
        with step("removing Locust's containers"):
            run.remove(LOADTEST, WORKER)
    return status


def _works(command: Sequence[str], environ: Mapping[str, str]) -> bool:
    try:
        return (
            subprocess.run(command, env=dict(environ), capture_output=True, check=False).returncode
            == 0
        )
    except FileNotFoundError:
        return False


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "no output"
