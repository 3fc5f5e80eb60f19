"""A real stack on free ports, shared by the tests of one module."""

import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy import stack_processes
from deploy.local import LocalStack
from ports import free_ports

# Under --import-mode=importlib a test module finds no neighbour by itself.
sys.path.insert(0, str(Path(__file__).parent))
from stack_under_test import StackUnderTest


@pytest.fixture(scope="module")
def stack() -> Iterator[StackUnderTest]:
    """Its settings; nothing runs until a test starts it."""
    # Not tmp_path: a Unix socket's path has a limit.
    home = Path(tempfile.mkdtemp(prefix="stack-")).resolve()
    yield StackUnderTest(home, free_ports(32))
    LocalStack(home).shut_down()
    left = stack_processes.of_stack(home)
    shutil.rmtree(home, ignore_errors=True)
    assert left == []
