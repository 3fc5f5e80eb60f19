"""A lock, so that one command at a time changes a stack."""

import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deploy.errors import StackBusy

_LOCK_FILE = "lock"


@contextmanager
def lock(home: Path) -> Iterator[None]:
    """Hold the lock of the stack in `home` during the block.

    The operating system releases it when the process ends, however it ends.

    Raises:
        StackBusy: Another command holds it; names that command.
    """
    path = home / _LOCK_FILE
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = path.read_text().strip() or "another command"
            raise StackBusy(
                f"{holder} is changing the stack in {home}; try again when it has finished"
            ) from None
        os.truncate(descriptor, 0)
        os.write(descriptor, f"{_own_name()} (process {os.getpid()})".encode())
        yield
    finally:
        os.close(descriptor)


def _own_name() -> str:
    command = Path(sys.argv[0])
    return command.parent.name if command.name == "__main__.py" else command.name
