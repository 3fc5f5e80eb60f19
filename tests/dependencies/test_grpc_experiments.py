"""The gRPC core obeys the experiments that the servers and the load test set.

An unknown experiment is only a line in the log. Without them a thread of the core polls the sockets
and wakes the thread that waits for the call, some three times per call.
"""

import os
import subprocess
import sys
from importlib.metadata import version

import pytest

from loadtest.runner import GENERATOR_DEFAULTS
from serving_grpc.__main__ import WORKER_DEFAULTS

CALLS = 300

SERVER = """
import sys
from concurrent.futures import ThreadPoolExecutor

import grpc

server = grpc.server(ThreadPoolExecutor(1))
echo = grpc.unary_unary_rpc_method_handler(lambda request, context: request)
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("s", {"m": echo}),))
print(server.add_insecure_port("127.0.0.1:0"), flush=True)
server.start()
sys.stdin.read()
"""

CLIENT = """
import sys
from pathlib import Path

import grpc

port, calls, server = sys.argv[1:]

def wakeups(process):
    total = 0
    for task in Path("/proc", process, "task").iterdir():
        if (task / "comm").read_text() == "event_engine\\n":
            status = (task / "status").read_text()
            total += int(status.partition("\\nvoluntary_ctxt_switches:")[2].split()[0])
    return total

with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
    call = channel.unary_unary("/s/m")
    call(b"", timeout=10)
    before = wakeups("self"), wakeups(server)
    for _ in range(int(calls)):
        call(b"", timeout=10)
    print(wakeups("self") - before[0], wakeups(server) - before[1])
"""


def wakeups(server_experiments: str, client_experiments: str) -> tuple[int, int]:
    """How often the core's polling threads woke in some calls: the client's and the server's."""
    with subprocess.Popen(
        [sys.executable, "-c", SERVER],
        env=os.environ | {"GRPC_EXPERIMENTS": server_experiments},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        port = server.stdout.readline().strip()
        client = subprocess.run(
            [sys.executable, "-c", CLIENT, port, str(CALLS), str(server.pid)],
            env=os.environ | {"GRPC_EXPERIMENTS": client_experiments},
            capture_output=True,
            text=True,
            check=True,
        )
        server.stdin.close()
    in_client, in_server = map(int, client.stdout.split())
    return in_client, in_server


@pytest.mark.skipif(sys.platform != "linux", reason="counts context switches in /proc")
def test_no_thread_of_the_core_polls_for_a_server_or_a_load_generator_of_ours() -> None:
    ours = wakeups(WORKER_DEFAULTS["GRPC_EXPERIMENTS"], GENERATOR_DEFAULTS["GRPC_EXPERIMENTS"])
    others = wakeups("", "")
    for side, where, with_it, without_it in zip(
        ("GENERATOR_DEFAULTS", "WORKER_DEFAULTS"),
        ("loadtest/runner.py", "serving_grpc/__main__.py"),
        ours,
        others,
        strict=True,
    ):
        assert without_it > 3 * with_it, (
            f"grpcio {version('grpcio')} no longer obeys GRPC_EXPERIMENTS of {side}: its core's"
            f" threads woke {with_it} times in {CALLS} calls, {without_it} times without it;"
            f" adapt {where}"
        )
