"""A gateway with many clients, as it is deployed: control plane, Envoys, and null servers."""

import json
import os
import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

from bench import null_upstream
from bench.errors import BenchError
from bench.processes import cpu_s, end, start, usable_cores, worker_memory
from bench.servers import HOST
from deploy.databases import DEFAULT_DATABASE
from seldon_gateway.envoy_routes import GRPC_ROUTES, REST_ROUTES
from seldon_gateway.errors import GatewayError
from seldon_gateway.processes import Process, control_plane_command, envoy_command
from seldon_gateway.registry import Registry
from seldon_gateway.settings import GatewaySettings
from seldon_gateway.snapshots import CLUSTERS
from seldon_gateway.strategies import Endpoint, Protocol, Variation

START_LIMIT_S = 300.0
CHANGE_LIMIT_S = 120.0
LABEL = "tensorflow-deep-mnist"
KEYS_ASKED_WITH = 20_000
# Envoy sends what it can do with every question, about as long as this.
_NODE_BYTES = 70_000
_VERSION = re.compile(rb'"version_info": ?"([0-9a-f]+)"')
_NUMBERS = "WITH RECURSIVE n(i) AS (SELECT ? UNION ALL SELECT i + 1 FROM n WHERE i < ?) "
_COPY_CLIENTS = (
    "INSERT INTO client SELECT 'client-' || i, db_name, active, created, committed, draft "
    "FROM n JOIN client ON name = 'client-' || (i % ?)"
)
# Keys of as many characters as ours have.
_COPY_CONSUMERS = (
    "INSERT INTO consumer SELECT hex(randomblob(10)), secret_hash, 'client-' || i, "
    "'client-' || i, created, active, scope FROM n JOIN consumer ON short_name = "
    "'client-' || (i % ?)"
)
_PROTOCOLS: tuple[Protocol, Protocol] = ("rest", "grpc")


@dataclass(frozen=True)
class Servers:
    """Addresses that answer at once, each the model server of some clients."""

    endpoints: tuple[Endpoint, ...]

    def of_client(self, number: int) -> tuple[Endpoint]:
        """Clients take them in turn."""
        return (self.endpoints[number % len(self.endpoints)],)


@contextmanager
def null_servers(count: int, port: int, folder: Path) -> Iterator[Servers]:
    """One Envoy that answers by itself on `count` addresses of this machine."""
    endpoints = tuple(Endpoint(f"127.0.0.{number + 1}", port) for number in range(count))
    configuration = folder / "null.json"
    listeners = [
        null_upstream.answering(
            f"null-{number}",
            null_upstream.socket_address(endpoint.host, endpoint.port),
            b'{"predictions": []}',
            "application/json",
        )
        for number, endpoint in enumerate(endpoints)
    ]
    configuration.write_text(json.dumps({"static_resources": {"listeners": listeners}}))
    command = null_upstream.command(configuration, threads=1)
    process = start(command, os.environ, usable_cores(), folder / "null.log")
    try:
        wait(lambda: status(HOST, port, "/") == 200, START_LIMIT_S, "the null servers")
        yield Servers(endpoints)
    finally:
        end(process)


def populate(database: Path, clients: int, servers: Servers) -> float:
    """Make clients in a new registry.

    Returns:
        Clients that were registered in a second, one by one as `seldon-cli` does; measured on the
        first hundred. The rest are copies: to hash as many secrets would take most of the run.
    """
    registry = Registry.open(f"sqlite:///{database}")
    one_by_one = min(clients, 100)
    started = time.perf_counter()
    for number in range(one_by_one):
        registry.setup_client(f"client-{number}", DEFAULT_DATABASE, all_secret=f"s-{number}")
    per_s = one_by_one / (time.perf_counter() - started)
    for number in range(min(clients, len(servers.endpoints))):
        variation = Variation(LABEL, 1.0, servers.of_client(number))
        for protocol in _PROTOCOLS:
            registry.replace_variations(f"client-{number}", protocol, [variation])
    registry.close()
    models = min(clients, len(servers.endpoints))
    with sqlite3.connect(database) as connection:
        for number in range(models, one_by_one):  # they share the servers too
            connection.execute(
                "UPDATE client SET (committed, draft) = "
                "(SELECT committed, draft FROM client WHERE name = ?) WHERE name = ?",
                (f"client-{number % models}", f"client-{number}"),
            )
    connection.close()
    if clients > one_by_one:
        copy_clients(database, one_by_one, clients - 1, models)
    return per_s


def copy_clients(database: Path, first: int, last: int, models: int) -> None:
    """Make client-`first` to client-`last` as client-0 to client-`models` - 1 are, in turn."""
    with sqlite3.connect(database) as connection:
        for statement in (_COPY_CLIENTS, _COPY_CONSUMERS):
            connection.execute(_NUMBERS + statement, (first, last, models))
    connection.close()


class Gateway:
    """A gateway under measurement."""

    def __init__(self, home: Path, clients: int, servers: Servers, ports: Sequence[int]) -> None:
        """Make its registry; nothing runs yet.

        Args:
            home: An empty folder of its own.
            clients: How many.
            servers: What answers for them.
            ports: The control plane's, then three for each Envoy.
        """
        self.clients = clients
        self._servers = servers
        self._stack = ExitStack()
        self._made = 0
        environ = {
            "SELDON_HOME": str(home),
            "SELDON_CONTROL_PORT": str(ports[0]),
            "SELDON_ENVOY_HEAP": str(max(1024, clients // 20)),
        }
        settings = GatewaySettings.from_env(environ)
        home.mkdir(parents=True)
        self.registered_per_s = populate(home / "seldon.db", clients, servers)
        self.settings = settings
        self.registry = Registry.open(settings.database_url)
        self._stack.callback(self.registry.close)
        self._envoy_settings = [
            replace(
                settings,
                home=home / f"envoy-{number}",
                rest_port=rest,
                grpc_port=grpc,
                admin_port=admin,
            )
            for number, (rest, grpc, admin) in enumerate(
                zip(ports[1::3], ports[2::3], ports[3::3], strict=True)
            )
        ]
        self._control: subprocess.Popen[bytes] | None = None
        self._envoys: list[subprocess.Popen[bytes]] = []

    def close(self) -> None:
        """End what runs."""
        self._stack.close()

    def rest_port(self) -> int:
        """The first Envoy's."""
        return self._envoy_settings[0].rest_port

    def js_keys(self) -> list[str]:
        """Keys of clients from all over the table, at most KEYS_ASKED_WITH."""
        keys = [row.consumer_key for row in self.registry.list_keys(scope="js")]
        return keys[:: max(1, len(keys) // KEYS_ASKED_WITH)]

    # Starting

    def start_control_plane(self) -> dict[str, Any]:
        """Start it, ask it as an Envoy would, and time its answers."""
        self._control = self._run(control_plane_command(self.settings), self.settings.home)
        port = self.settings.control_port
        wait(lambda: status(HOST, port, "/health/ready") == 200, START_LIMIT_S, "control plane")
        sizes: dict[str, int] = {}
        versions: dict[str, str] = {}
        started = time.perf_counter()
        for kind in (CLUSTERS, CLUSTERS, REST_ROUTES, GRPC_ROUTES):
            body = self.ask(kind, versions.get(kind, ""))
            if body:
                sizes[kind] = len(body)
                found = _VERSION.search(body, 0, 200)
                if found is None:
                    raise BenchError(f"the control plane's answer for {kind} has no version")
                versions[kind] = found[1].decode()
        first_answer_s = time.perf_counter() - started
        unchanged = [self._timed(REST_ROUTES, versions[REST_ROUTES])[0] for _ in range(50)]
        changed = []
        for number in range(6):
            self.registry.set_client_active("client-0", bool(number % 2))
            took, body = self._timed(REST_ROUTES, versions[REST_ROUTES])
            # Every second time it is what it was at first, which this "Envoy" has.
            if body:
                changed.append(took)
        return {
            "bytes": sizes,
            "first_answer_s": first_answer_s,
            "unchanged_ms": sorted(unchanged)[25] * 1e3,
            "changed_ms": sorted(changed)[len(changed) // 2] * 1e3,
        }

    def start_envoys(self) -> float:
        """Start every Envoy; the seconds until all serve."""
        started = time.perf_counter()
        for settings in self._envoy_settings:
            try:
                self._envoys.append(self._run(envoy_command(settings), settings.home))
            except GatewayError as error:
                raise BenchError(str(error)) from None
        for settings in self._envoy_settings:
            wait(
                lambda port=settings.rest_port: status(HOST, port, "/health/ready") == 200,  # type: ignore[misc]
                START_LIMIT_S,
                "Envoy",
            )
        return time.perf_counter() - started

    # Asking

    def ask(self, kind: str, version: str) -> bytes:
        """A question as Envoy's; b"" for 304."""
        names = [] if kind == CLUSTERS else [kind]
        path = "/v3/discovery:" + (CLUSTERS if kind == CLUSTERS else "routes")
        node = {"id": "bench", "extensions": ["x" * _NODE_BYTES]}
        question = json.dumps({"version_info": version, "node": node, "resource_names": names})
        connection = HTTPConnection(HOST, self.settings.control_port, timeout=START_LIMIT_S)
        try:
            connection.request("POST", path, question, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            body = answer.read()
        except (OSError, HTTPException) as error:
            raise BenchError(f"the control plane does not answer: {error!r}") from None
        finally:
            connection.close()
        if answer.status not in (200, 304):
            raise BenchError(f"the control plane answers {answer.status} for {kind}")
        return body

    def _timed(self, kind: str, version: str) -> tuple[float, bytes]:
        started = time.perf_counter()
        body = self.ask(kind, version)
        return time.perf_counter() - started, body

    # Measuring

    def resident_mb(self) -> dict[str, float]:
        """Of the largest process each."""
        return {
            "control": worker_memory(self._control_pid())["rss_mb"],
            "envoy": max(worker_memory(envoy.pid)["rss_mb"] for envoy in self._envoys),
        }

    def cpu_s(self) -> dict[str, float]:
        """CPU seconds until now, of the control plane and of one Envoy on average."""
        envoys = [cpu_s(envoy.pid) for envoy in self._envoys]
        return {"control": cpu_s(self._control_pid()), "envoy": sum(envoys) / len(envoys)}

    def first_envoy_cpu_s(self) -> float:
        """Of the Envoy that gets the load."""
        return cpu_s(self._envoys[0].pid)

    def change(self) -> dict[str, float]:
        """Make a client with the command, give it a server, remove it; wait for all Envoys."""
        self._made += 1
        name, key = f"new-{self._made}", f"new-js-{self._made}"
        self.settle()
        before, versions = self.cpu_s(), self._versions()
        started = time.perf_counter()
        self._setup_command(name, key)
        setup_s = time.perf_counter() - started
        self._wait_for(key, 503)
        wait(
            lambda: all(a != b for a, b in zip(versions, self._versions(), strict=True)),
            CHANGE_LIMIT_S,
            "a change of every table",
        )
        after = self.cpu_s()
        variation = Variation(LABEL, 1.0, self._servers.of_client(0))
        self.registry.replace_variations(name, "rest", [variation])
        live_s = self._wait_for(key, 200)
        self.settle()
        self.registry.remove_client(name)
        gone_s = self._wait_for(key, 401)
        return {
            "setup_s": setup_s,
            "live_s": live_s,
            "gone_s": gone_s,
            "envoy_cpu_s": after["envoy"] - before["envoy"],
            "control_cpu_s": after["control"] - before["control"],
        }

    def settle(self) -> None:
        """Wait until no Envoy takes anything new for two of its longest pauses."""
        seen, since = self._versions(), time.monotonic()
        deadline = since + CHANGE_LIMIT_S
        while time.monotonic() < since + 4 * self.settings.poll_s:
            time.sleep(0.05)
            versions = self._versions()
            if versions != seen:
                seen, since = versions, time.monotonic()
            if since > deadline:
                raise BenchError("Envoy takes something new without end")

    def _setup_command(self, name: str, key: str) -> None:
        words = ("client", "--action", "setup", "--db-name", DEFAULT_DATABASE)
        command = Path(sys.executable).with_name("seldon-cli")
        done = subprocess.run(
            [str(command), *words, "--client-name", name, "--set-js-key", key],
            env={
                **{k: v for k, v in os.environ.items() if not k.startswith("SELDON_")},
                "SELDON_HOME": str(self.settings.home),
            },
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise BenchError(f"seldon-cli failed: {done.stderr.strip()[-300:]}")

    def _wait_for(self, key: str, wanted: int) -> float:
        """Seconds until every Envoy answers so, within a hundredth of a second."""
        started = time.perf_counter()
        path = f"/js/predict?consumer_key={key}&json=1"
        left = [settings.rest_port for settings in self._envoy_settings]

        def all_do() -> bool:
            while left and status(HOST, left[-1], path) == wanted:
                left.pop()
            return not left

        wait(all_do, CHANGE_LIMIT_S, f"status {wanted} for a changed client")
        return time.perf_counter() - started

    def _versions(self) -> list[str]:
        """Of the routes that each Envoy has accepted."""
        found = []
        for settings in self._envoy_settings:
            path = "/stats?filter=rds.*version_text&type=TextReadouts"
            text = _answer(settings.admin_port, path).decode()
            lines = sorted(line for line in text.splitlines() if ".rds." in line)
            if len(lines) != len(_PROTOCOLS):
                raise BenchError(f"Envoy shows {len(lines)} versions of routes, not two")
            found += lines
        return found

    def _control_pid(self) -> int:
        if self._control is None:
            raise BenchError("the control plane has not been started")
        return self._control.pid

    def _run(self, process: Process, folder: Path) -> "subprocess.Popen[bytes]":
        environ = {k: v for k, v in os.environ.items() if not k.startswith("SELDON_")}
        log = folder / f"{process.name}.log"
        running = start(process.argv, environ | process.env, usable_cores(), log)
        self._stack.callback(end, running)
        return running


def wait(condition: Callable[[], bool], limit_s: float, what: str) -> None:
    """Poll.

    Raises:
        BenchError: It has not come true within `limit_s`.
    """
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            raise BenchError(f"{what} did not come within {limit_s:g} s")
        time.sleep(0.005)


def _answer(port: int, path: str) -> bytes:
    """Of an Envoy's administration, which waits while Envoy reads its configuration."""
    answers: list[bytes] = []

    def answered() -> bool:
        found, body = _get(HOST, port, path)
        answers.append(body)
        return found == 200

    wait(answered, CHANGE_LIMIT_S, "Envoy's administration")
    return answers[-1]


def status(host: str, port: int, path: str) -> int:
    """Of one GET; 0 when nothing answers."""
    return _get(host, port, path)[0]


def _get(host: str, port: int, path: str) -> tuple[int, bytes]:
    connection = HTTPConnection(host, port, timeout=10)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, HTTPException):
        return 0, b""
    finally:
        connection.close()
