"""A real stack on free ports, shared by the tests of one module."""

import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy import stack_processes
from deploy.local import LocalStack

# Under --import-mode=importlib a test module finds no neighbour by itself.
sys.path.insert(0, str(Path(__file__).parent))
from stack_under_test import StackUnderTest


@pytest.fixture(scope="module")
def free_ports() -> list[int]:
    """Below the ephemeral range; each run looks somewhere else, so that two at once seldom meet."""
    found: list[int] = []
    for port in range(11000 + os.getpid() % 8000, 31000):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                found.append(port)
        if len(found) == 64:
            return found
    raise RuntimeError("no 64 free ports")


@pytest.fixture(scope="module")
def stack(free_ports: list[int]) -> Iterator[StackUnderTest]:
    """Its settings; nothing runs until a test starts it."""
    # Not tmp_path: a Unix socket's path has a limit.
    home = Path(tempfile.mkdtemp(prefix="stack-")).resolve()
    yield StackUnderTest(home, free_ports[:32])
    LocalStack(home).shut_down()
    left = stack_processes.of_stack(home)
    shutil.rmtree(home, ignore_errors=True)
    assert left == []
