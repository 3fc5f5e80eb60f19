"""Real stacks on free ports: one for all tests that only call it, others on demand."""

import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from local_stack import Stack
from ports import free_ports


@pytest.fixture(scope="session")
def new_stack() -> Iterator[Callable[[], Stack]]:
    """Make stacks that are gone after the session, whatever the tests did."""
    made: list[Stack] = []

    def make() -> Stack:
        # Not tmp_path: a unix socket's path has a limit of 107 bytes.
        home = Path(tempfile.mkdtemp(prefix="stack-")).resolve()
        rest, grpc, admin, control = free_ports(4)
        stack = Stack(home, rest, grpc, admin, control, free_ports(40))
        made.append(stack)
        return stack

    yield make
    for stack in made:
        stack.run(sys.executable, "-m", "deploy", "undeploy", "--purge", check=False)
        left = stack.processes()
        for process in left:
            process.kill()
        shutil.rmtree(stack.home, ignore_errors=True)
        assert not left, f"undeploy left {left}"


@pytest.fixture(scope="session")
def stack(new_stack: Callable[[], Stack]) -> Stack:
    """A deployed stack that tests call but do not break."""
    made = new_stack()
    made.deploy()
    return made
