"""A real supervisord that runs small HTTP servers of the tests' own."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from deploy import ports, probes, stack_processes, status
from deploy.errors import ProgramFailed, StackNotRunning, StackUnhealthy
from deploy.local import Condition, LocalStack
from deploy.programs import Program
from polling import eventually
from ports import free_ports

# A parent and a child that both hold the port, as a killed server's workers do.
SERVER = """
import http.server, os, sys
class Ready(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(str(os.getpid()).encode())
    def log_message(self, *args): pass
server = http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Ready)
print("listening", flush=True)
os.fork()
server.serve_forever()
"""


def http_program(name: str, port: int) -> Program:
    argv = (sys.executable, "-c", SERVER, str(port))
    return Program(name, argv, port, f"http://127.0.0.1:{port}/", stop_wait_s=2)


@pytest.fixture
def home() -> Iterator[Path]:
    # Not tmp_path: a Unix socket's path has a limit.
    with tempfile.TemporaryDirectory(prefix="stack-") as folder:
        yield Path(folder).resolve()


@pytest.fixture
def stack(home: Path) -> Iterator[LocalStack]:
    stack = LocalStack(home)
    stack.boot()
    yield stack
    stack.shut_down()
    assert stack_processes.of_stack(home) == []


@pytest.fixture
def free() -> list[int]:
    return free_ports(2)


def test_without_a_stack_there_is_a_sentence(home: Path) -> None:
    stack = LocalStack(home)
    assert stack.condition() is Condition.ABSENT
    with pytest.raises(StackNotRunning, match=r"no stack is running in .*SELDON_HOME"):
        status.collect(stack)
    assert stack.shut_down() == 0


def test_programs_start_and_stop_and_leave_their_logs(stack: LocalStack, free: list[int]) -> None:
    stack.start([http_program("one", free[0]), http_program("two", free[1])])
    assert stack.condition() is Condition.RUNNING
    assert stack.unready() == []
    rows = {row.name: row for row in status.collect(stack)}
    assert {"supervisord", "one", "two"} == set(rows)
    assert all(row.health == status.HEALTHY and row.pid for row in rows.values())
    assert rows["two"].port == free[1]

    stack.remove(["one"])
    assert set(stack.states()) == {"two"}
    assert ports.is_free(free[0])
    assert probes.is_ready(f"http://127.0.0.1:{free[1]}/")
    assert (stack.home / "logs/one.log").read_text() == "listening\n"
    assert set(stack.files.programs()) == {"two"}
    stack.start([http_program("one", free[0])])
    assert stack.unready() == []


def test_a_killed_program_is_back_although_its_child_holds_the_port(
    stack: LocalStack, free: list[int]
) -> None:
    program = http_program("one", free[0])
    stack.start([program])
    eventually(lambda: stack.states()["one"].state == "RUNNING")
    eventually(lambda: len(stack_processes.of_stack(stack.home, "one")) == 2)
    before = stack_processes.of_stack(stack.home, "one")
    os.kill(stack.states()["one"].pid, signal.SIGKILL)
    eventually(lambda: stack.files.restarts("one") == 1)
    assert stack_processes.wait_gone(before, 0) == []
    eventually(lambda: stack.unready() == [])
    assert (
        "stopping processes left over from the previous run"
        in (stack.home / program.log).read_text()
    )


def test_a_program_that_dies_says_why(stack: LocalStack, free: list[int]) -> None:
    stack.start([http_program("one", free[0])])
    say = "import sys; print('model folder x does not exist', file=sys.stderr); sys.exit(1)"
    broken = Program("broken", (sys.executable, "-c", say), 1, "http://127.0.0.1:1/")
    with pytest.raises(ProgramFailed, match="broken did not start: model folder x does not exist"):
        stack.start([broken])
    stack.remove(["broken"])
    assert set(stack.states()) == {"one"}
    assert stack.unready() == []


def test_a_program_that_is_never_ready_has_a_limit(stack: LocalStack) -> None:
    idle = Program("idle", ("sleep", "100"), 1, "http://127.0.0.1:1/", start_limit_s=1)
    with pytest.raises(ProgramFailed, match="idle is not ready after 1 s"):
        stack.start([idle])


def test_a_killed_supervisor_breaks_nothing_and_is_reported(
    stack: LocalStack, free: list[int]
) -> None:
    program = http_program("one", free[0])
    stack.start([program])
    supervisor = stack.supervisor_process()
    supervisor.kill()
    supervisor.wait(5)
    assert stack.condition() is Condition.ORPHANED
    with pytest.raises(
        StackUnhealthy, match=r"is not running, but 2 of its processes .*make undeploy"
    ):
        status.collect(stack)
    assert probes.is_ready(program.ready_url)
    assert stack.shut_down() == 2
    assert stack.condition() is Condition.ABSENT
    assert ports.is_free(free[0])


def test_a_supervisor_that_hangs_is_reported_and_killed(stack: LocalStack, free: list[int]) -> None:
    stack.start([http_program("one", free[0])])
    stack.supervisor_process().suspend()
    with pytest.raises(StackUnhealthy, match=r"did not respond within 3 s.*make undeploy"):
        stack.condition()
    stack.shut_down()
    assert stack.condition() is Condition.ABSENT


def test_a_long_home_gets_its_socket_elsewhere(home: Path, free: list[int]) -> None:
    deep = home / ("a long name with 100 % ; #" + "x" * 80)
    deep.mkdir()
    stack = LocalStack(deep)
    stack.boot()
    try:
        folder = stack.files.socket.parent
        assert folder != deep
        assert folder.stat().st_mode & 0o077 == 0
        stack.start([http_program("one", free[0])])
        assert LocalStack(deep).unready() == []
    finally:
        stack.shut_down()
    assert not folder.exists()
    assert stack_processes.of_stack(deep) == []


def test_only_marked_processes_belong_to_a_stack(home: Path) -> None:
    mine = {**os.environ, "SELDON_STACK": str(home)}
    with (
        subprocess.Popen(["sleep", "100"], env=mine) as marked,  # noqa: S607
        subprocess.Popen(["sleep", "100"], env={**mine, "SELDON_STACK": "/x"}) as other,  # noqa: S607
    ):
        eventually(lambda: [p.pid for p in stack_processes.of_stack(home)] == [marked.pid])
        stack_processes.end([psutil.Process(marked.pid)], 1.0)
        assert stack_processes.of_stack(home) == []
        marked.wait(5)
        assert other.poll() is None
        other.kill()
