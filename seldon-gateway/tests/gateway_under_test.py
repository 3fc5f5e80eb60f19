"""What the tests drive: the real Envoy and control plane, and small real model servers."""

import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from contextlib import contextmanager
from http.client import HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import requests

from polling import eventually
from ports import free_ports
from seldon_gateway.processes import Process, control_plane_command, envoy_command
from seldon_gateway.registry import Registry
from seldon_gateway.settings import GatewaySettings
from seldon_gateway.strategies import Endpoint, Protocol, Variation

CLASSIFY = "/io.seldon.api.rpc.Seldon/Classify"


class HttpUpstream:
    """A model server that answers with what it was asked, one thread for each connection.

    `behaviour` runs before each answer and may wait; False from it ends the connection instead.
    """

    def __init__(self, behaviour: Callable[[], bool] = lambda: True) -> None:
        self.requests = 0
        upstream = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                upstream.requests += 1
                if not behaviour():
                    self.close_connection = True
                    return
                seen = {
                    "headers": {name.lower(): value for name, value in self.headers.items()},
                    "path": self.path,
                    "body": body.decode(),
                }
                answer = json.dumps(seen).encode()
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            do_POST = do_GET  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            request_queue_size = 128

            def handle_error(self, *_: object) -> None:
                pass  # the caller went away

        self._server = Server(("127.0.0.1", 0), Handler)
        self.endpoint = Endpoint("127.0.0.1", self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class GrpcUpstream:
    """A model server that answers with the metadata and the seconds it was given, as JSON."""

    def __init__(self) -> None:
        self._server = grpc.server(futures.ThreadPoolExecutor(8))
        self._server.add_generic_rpc_handlers((_EchoMetadata(),))
        self.endpoint = Endpoint("127.0.0.1", self._server.add_insecure_port("127.0.0.1:0"))
        self._server.start()

    def close(self) -> None:
        self._server.stop(None).wait()


class _EchoMetadata(grpc.GenericRpcHandler):
    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        sent = dict(details.invocation_metadata)

        def answer(_request: bytes, context: grpc.ServicerContext) -> bytes:
            remaining = {"time-remaining": str(context.time_remaining())}
            return json.dumps(sent | remaining, default=str).encode()

        return grpc.unary_unary_rpc_method_handler(answer)


class GatewayUnderTest:
    """One gateway with its own home and ports, and a registry to change under it."""

    def __init__(self, home: Path, **environ: str) -> None:
        rest, rpc, admin, control = free_ports(4)
        self.settings = GatewaySettings.from_env(
            {
                "SELDON_HOME": str(home),
                "SELDON_REST_PORT": str(rest),
                "SELDON_GRPC_PORT": str(rpc),
                "SELDON_ADMIN_PORT": str(admin),
                "SELDON_CONTROL_PORT": str(control),
                **environ,
            }
        )
        home.mkdir(parents=True, exist_ok=True)
        self.url = f"http://127.0.0.1:{rest}"
        self.control_url = f"http://127.0.0.1:{control}"
        self.admin_url = f"http://127.0.0.1:{admin}"
        self.registry = Registry.open(self.settings.database_url)
        self.session = requests.Session()
        self.channel = grpc.insecure_channel(f"127.0.0.1:{rpc}")
        self.control_plane: subprocess.Popen[bytes] | None = None
        self.envoy: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.start_control_plane()
        self._start_envoy()

    def restart_envoy(self) -> None:
        assert self.envoy is not None
        self.envoy.terminate()
        self.envoy.wait(10)
        self._start_envoy()

    def _start_envoy(self) -> None:
        self.envoy = self._run(envoy_command(self.settings))
        eventually(self.ready)

    def start_control_plane(self) -> None:
        self.control_plane = self._run(control_plane_command(self.settings))

    def kill_control_plane(self) -> None:
        """The hard way: gunicorn's worker notices that its master is gone, or is killed too."""
        assert self.control_plane is not None
        workers = _children(self.control_plane.pid)
        self.control_plane.kill()
        self.control_plane.wait()
        for worker in workers:
            os.kill(worker, 9)

    @contextmanager
    def stalled_control_plane(self) -> Iterator[None]:
        """It accepts connections and does not respond."""
        assert self.control_plane is not None
        processes = [self.control_plane.pid, *_children(self.control_plane.pid)]
        for process in processes:
            os.kill(process, signal.SIGSTOP)
        try:
            yield
        finally:
            for process in reversed(processes):
                os.kill(process, signal.SIGCONT)

    def close(self) -> None:
        for process in (self.envoy, self.control_plane):
            if process is not None and process.poll() is None:
                process.terminate()
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
        self.channel.close()
        self.session.close()
        self.registry.close()

    def _run(self, process: Process) -> subprocess.Popen[bytes]:
        with (self.settings.home / f"{process.name}.log").open("ab") as log:
            return subprocess.Popen(
                process.argv, env=os.environ | process.env, stdout=log, stderr=subprocess.STDOUT
            )

    def logs(self) -> str:
        return "".join(path.read_text() for path in sorted(self.settings.home.glob("*.log")))

    # Calls

    def ready(self) -> bool:
        assert self.envoy is not None
        assert self.envoy.poll() is None, self.logs()
        try:
            return self.get("/health/ready").status_code == 200
        except requests.ConnectionError:
            return False

    def get(self, path: str, **options: Any) -> requests.Response:
        return self.call("GET", path, **options)

    def post(self, path: str, **options: Any) -> requests.Response:
        return self.call("POST", path, **options)

    def call(self, method: str, path: str, **options: Any) -> requests.Response:
        return self.session.request(method, self.url + path, timeout=15, **options)

    def raw(self, request: bytes, port: int | None = None) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of the response to these bytes."""
        address = "127.0.0.1", port or self.settings.rest_port
        with socket.create_connection(address, timeout=15) as connection:
            connection.sendall(request)
            response = HTTPResponse(connection)
            response.begin()
            headers = {name.lower(): value for name, value in response.getheaders()}
            return response.status, headers, response.read()

    def js(self, key: str, **parameters: str) -> requests.Response:
        return self.get("/js/predict", params={"consumer_key": key, "json": "{}", **parameters})

    def predict(self, token: str) -> requests.Response:
        return self.post("/predict", data=b"{}", headers={"Authorization": f"Bearer {token}"})

    def token(self, key: str, secret: str) -> str:
        answer = self.get("/token", params={"consumer_key": key, "consumer_secret": secret})
        assert answer.status_code == 200, answer.text
        return str(answer.json()["access_token"])

    def classify(self, *metadata: tuple[str, str], timeout_s: float = 10) -> dict[str, str]:
        call = self.channel.unary_unary(CLASSIFY, None, None)
        seen: dict[str, str] = json.loads(call(b"", metadata=metadata, timeout=timeout_s))
        return seen

    # Changes

    def serve(
        self,
        client: str,
        protocol: Protocol,
        *upstreams: HttpUpstream | GrpcUpstream,
        label: str = "a",
    ) -> None:
        """All of a client's traffic of one protocol goes to these replicas."""
        endpoints = tuple(upstream.endpoint for upstream in upstreams)
        self.registry.replace_variations(client, protocol, [Variation(label, 1.0, endpoints)])

    def wait_for_client(self, js_key: str, status: int = 200) -> float:
        """Poll until the gateway answers a client's key so; the seconds that took."""
        started = time.monotonic()
        eventually(lambda: self.js(js_key).status_code == status)
        return time.monotonic() - started


def halves(first: Sequence[Endpoint], second: Sequence[Endpoint]) -> list[Variation]:
    """Two variations with half of the traffic each."""
    return [Variation("a", 0.5, tuple(first)), Variation("b", 0.5, tuple(second))]


def _children(pid: int) -> list[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in path.read_text().split()]
