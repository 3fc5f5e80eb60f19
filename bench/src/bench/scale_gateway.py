"""A gateway with many clients: control plane, Envoys and null servers."""

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
MAX_KEYS = 20_000
# The size of the node description in Envoy's discovery requests.
_NODE_BYTES = 70_000
_VERSION = re.compile(rb'"version_info": ?"([0-9a-f]+)"')
_NUMBERS = "WITH RECURSIVE n(i) AS (SELECT ? UNION ALL SELECT i + 1 FROM n WHERE i < ?) "
_COPY_CLIENTS = (
    "INSERT INTO client SELECT 'client-' || i, db_name, active, created, committed, draft "
    "FROM n JOIN client ON name = 'client-' || (i % ?)"
)
# Keys of the usual length.
_COPY_CONSUMERS = (
    "INSERT INTO consumer SELECT hex(randomblob(10)), secret_hash, 'client-' || i, "
    "'client-' || i, created, active, scope FROM n JOIN consumer ON short_name = "
    "'client-' || (i % ?)"
)
_PROTOCOLS: tuple[Protocol, Protocol] = ("rest", "grpc")


@dataclass(frozen=True)
class Servers:
    """Upstream addresses that respond immediately; the clients share them."""

    endpoints: tuple[Endpoint, ...]

    def of_client(self, number: int) -> tuple[Endpoint]:
        """The endpoint of a client, round robin."""
        return (self.endpoints[number % len(self.endpoints)],)


@contextmanager
def null_servers(count: int, port: int, folder: Path) -> Iterator[Servers]:
    """One Envoy with direct responses on `count` loopback addresses."""
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
        wait(lambda: status(HOST, port, "/") == 200, START_LIMIT_S, "the start of the null servers")
        yield Servers(endpoints)
    finally:
        end(process)


def populate(database: Path, clients: int, servers: Servers) -> float:
    """Create clients in a new registry.

    The first hundred are registered as `seldon-cli` does. The rest are copies, as hashing their
    secrets would take most of the run.

    Returns:
        The registration rate of the first hundred, clients per second.
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
        for number in range(models, one_by_one):  # these share the servers
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
    """Create client-`first` to client-`last` as copies of the first `models` clients."""
    with sqlite3.connect(database) as connection:
        for statement in (_COPY_CLIENTS, _COPY_CONSUMERS):
            connection.execute(_NUMBERS + statement, (first, last, models))
    connection.close()


class Gateway:
    """A gateway under measurement."""

    def __init__(self, home: Path, clients: int, servers: Servers, ports: Sequence[int]) -> None:
        """Create the registry; starts nothing.

        Args:
            home: A new folder.
            clients: The number of clients.
            servers: Their upstream servers.
            ports: The control plane's port, then three per Envoy.
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
        """Keys of clients from all over the table, at most MAX_KEYS."""
        keys = [row.consumer_key for row in self.registry.list_keys(scope="js")]
        return keys[:: max(1, len(keys) // MAX_KEYS)]

    # Starting

    def start_control_plane(self) -> dict[str, Any]:
        """Start the control plane and time its discovery responses."""
        self._control = self._run(control_plane_command(self.settings), self.settings.home)
        port = self.settings.control_port
        wait(
            lambda: status(HOST, port, "/health/ready") == 200,
            START_LIMIT_S,
            "the start of the control plane",
        )
        sizes: dict[str, int] = {}
        versions: dict[str, str] = {}
        started = time.perf_counter()
        for kind in (CLUSTERS, CLUSTERS, REST_ROUTES, GRPC_ROUTES):
            body = self.discover(kind, versions.get(kind, ""))
            if body:
                sizes[kind] = len(body)
                found = _VERSION.search(body, 0, 200)
                if found is None:
                    raise BenchError(f"the discovery response for {kind} has no version_info")
                versions[kind] = found[1].decode()
        first_answer_s = time.perf_counter() - started
        unchanged = [self._timed(REST_ROUTES, versions[REST_ROUTES])[0] for _ in range(50)]
        changed = []
        for number in range(6):
            self.registry.set_client_active("client-0", bool(number % 2))
            took, body = self._timed(REST_ROUTES, versions[REST_ROUTES])
            # Every second change restores the version that this client has.
            if body:
                changed.append(took)
        return {
            "bytes": sizes,
            "first_answer_s": first_answer_s,
            "unchanged_ms": sorted(unchanged)[25] * 1e3,
            "changed_ms": sorted(changed)[len(changed) // 2] * 1e3,
        }

    def start_envoys(self) -> float:
        """Start every Envoy; return the seconds until all are ready."""
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
                "the start of Envoy",
            )
        return time.perf_counter() - started

    def discover(self, kind: str, version: str) -> bytes:
        """Send a discovery request as Envoy does; b"" for 304."""
        names = [] if kind == CLUSTERS else [kind]
        path = "/v3/discovery:" + (CLUSTERS if kind == CLUSTERS else "routes")
        node = {"id": "bench", "extensions": ["x" * _NODE_BYTES]}
        request = json.dumps({"version_info": version, "node": node, "resource_names": names})
        connection = HTTPConnection(HOST, self.settings.control_port, timeout=START_LIMIT_S)
        try:
            connection.request("POST", path, request, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            body = answer.read()
        except (OSError, HTTPException) as error:
            raise BenchError(f"the control plane is not reachable: {error!r}") from None
        finally:
            connection.close()
        if answer.status not in (200, 304):
            raise BenchError(
                f"the discovery response for {kind} is {answer.status}, expected 200 or 304"
            )
        return body

    def _timed(self, kind: str, version: str) -> tuple[float, bytes]:
        started = time.perf_counter()
        body = self.discover(kind, version)
        return time.perf_counter() - started, body

    def resident_mb(self) -> dict[str, float]:
        """RSS of the largest process of each kind."""
        return {
            "control": worker_memory(self._control_pid())["rss_mb"],
            "envoy": max(worker_memory(envoy.pid)["rss_mb"] for envoy in self._envoys),
        }

    def cpu_s(self) -> dict[str, float]:
        """CPU seconds of the control plane and, on average, of an Envoy."""
        envoys = [cpu_s(envoy.pid) for envoy in self._envoys]
        return {"control": cpu_s(self._control_pid()), "envoy": sum(envoys) / len(envoys)}

    def first_envoy_cpu_s(self) -> float:
        """CPU seconds of the Envoy under load."""
        return cpu_s(self._envoys[0].pid)

    def change(self) -> dict[str, float]:
        """Add a client with the command line, give it a server, remove it; wait for all Envoys."""
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
            "an update of every route table",
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
        """Wait until no Envoy applies an update for four poll intervals."""
        seen, since = self._versions(), time.monotonic()
        deadline = since + CHANGE_LIMIT_S
        while time.monotonic() < since + 4 * self.settings.poll_s:
            time.sleep(0.05)
            versions = self._versions()
            if versions != seen:
                seen, since = versions, time.monotonic()
            if since > deadline:
                raise BenchError(f"Envoy still applied updates after {CHANGE_LIMIT_S:g} s")

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
        """Seconds until every Envoy returns the status `wanted`, accurate to 0.01 s."""
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
        """The versions of the routes that the Envoys accepted."""
        found = []
        for settings in self._envoy_settings:
            path = "/stats?filter=rds.*version_text&type=TextReadouts"
            text = _answer(settings.admin_port, path).decode()
            lines = sorted(line for line in text.splitlines() if ".rds." in line)
            if len(lines) != len(_PROTOCOLS):
                raise BenchError(f"Envoy reports {len(lines)} route versions, expected 2")
            found += lines
        return found

    def _control_pid(self) -> int:
        if self._control is None:
            raise BenchError("the control plane was not started")
        return self._control.pid

    def _run(self, process: Process, folder: Path) -> "subprocess.Popen[bytes]":
        environ = {k: v for k, v in os.environ.items() if not k.startswith("SELDON_")}
        log = folder / f"{process.name}.log"
        running = start(process.argv, environ | process.env, usable_cores(), log)
        self._stack.callback(end, running)
        return running


def wait(condition: Callable[[], bool], limit_s: float, what: str) -> None:
    """Poll until `condition` is true.

    Raises:
        BenchError: It is not true within `limit_s`.
    """
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            raise BenchError(f"{what} did not happen within {limit_s:g} s")
        time.sleep(0.005)


def _answer(port: int, path: str) -> bytes:
    """GET from Envoy's admin interface, which blocks while Envoy reads its configuration."""
    answers: list[bytes] = []

    def answered() -> bool:
        found, body = _get(HOST, port, path)
        answers.append(body)
        return found == 200

    wait(answered, CHANGE_LIMIT_S, "a response of Envoy's admin interface")
    return answers[-1]


def status(host: str, port: int, path: str) -> int:
    """The status of one GET; 0 if the server is not reachable."""
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
