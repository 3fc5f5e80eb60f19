import os
from pathlib import Path

import pytest

from deploy.errors import StackBusy
from deploy.locking import lock


def test_the_error_names_the_process_that_holds_the_lock(tmp_path: Path) -> None:
    refused = pytest.raises(StackBusy, match=rf"\(process {os.getpid()}\) is changing the stack")
    with lock(tmp_path), refused, lock(tmp_path):
        pass
    with lock(tmp_path):
        pass


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        lock(tmp_path).__enter__()
        os._exit(0)
    os.waitpid(child, 0)
    with lock(tmp_path):
        pass
