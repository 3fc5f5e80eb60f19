"""Finds and stops the processes of a stack, by a variable in their environment.

Every process of a stack has SELDON_STACK=<its state folder>, whatever its parent.
"""

import os
from collections.abc import Callable
from pathlib import Path

import psutil

from deploy.console import wait_until
from deploy.programs import PROGRAM_VARIABLE, STACK_VARIABLE

_KILL_WAIT_S = 5.0


def of_stack(home: Path, program: str | None = None) -> list[psutil.Process]:
    """Living processes of the stack at `home`, of one program where it is named.

    Leaves out the caller and its ancestors.
    """
    own = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    found = []
    for process in psutil.process_iter():
        if process.pid in own:
            continue
        if _mark(process, STACK_VARIABLE) == str(home) and (
            program is None or _mark(process, PROGRAM_VARIABLE) == program
        ):
            found.append(process)
    return found


def supervisors(home: Path) -> list[psutil.Process]:
    """Those of the stack's processes that belong to no program."""
    return [process for process in of_stack(home) if not _mark(process, PROGRAM_VARIABLE)]


def end(processes: list[psutil.Process], grace_s: float) -> None:
    """SIGTERM to each, SIGKILL to those that are still there after `grace_s`."""
    _each(processes, psutil.Process.terminate)
    # A stopped (SIGSTOP) process takes no SIGTERM, but SIGKILL.
    kill(wait_gone(processes, grace_s))


def kill(processes: list[psutil.Process]) -> None:
    """SIGKILL to each, and wait until they are gone."""
    _each(processes, psutil.Process.kill)
    wait_gone(processes, _KILL_WAIT_S)


def wait_gone(processes: list[psutil.Process], timeout_s: float) -> list[psutil.Process]:
    """Wait until each has ended; those that have not after `timeout_s` are returned.

    A zombie holds no resources and counts as gone: init may take seconds to reap it, and
    psutil.wait_procs would wait for that.
    """
    alive = list(processes)

    def all_gone() -> bool:
        alive[:] = [process for process in alive if _lives(process)]
        return not alive

    wait_until(all_gone, timeout_s, every_s=0.01)
    return alive


def _each(processes: list[psutil.Process], act: Callable[[psutil.Process], None]) -> None:
    for process in processes:
        try:
            act(process)
        except psutil.NoSuchProcess:
            continue


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _mark(process: psutil.Process, variable: str) -> str | None:
    try:
        return process.environ().get(variable) if _lives(process) else None
    except (psutil.Error, OSError):
        return None  # another user's, or gone
