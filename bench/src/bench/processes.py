"""Processes of this machine: on which core, at what cost, ended by their ids."""

import os
import signal
import subprocess
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from bench.errors import BenchError

GRACE_S = 5.0


@dataclass(frozen=True)
class Cores:
    """Who runs where."""

    server: frozenset[int]
    client: frozenset[int]
    gateway: frozenset[int]
    two_workers: frozenset[int]
    client_of_two: frozenset[int]


def divide(cores: Collection[int]) -> Cores:
    """Give the server a core of its own.

    With two cores the gateway shares the client's, and two workers share both with the client.

    Raises:
        BenchError: Fewer than two.
    """
    if len(cores) < 2:
        raise BenchError("two cores are needed, one for the server and one for the client")
    first, second, *rest = sorted(cores)
    return Cores(
        server=frozenset({second}),
        client=frozenset({first}),
        gateway=frozenset(rest[:1] or {first}),
        two_workers=frozenset({second, *(rest[:1] or {first})}),
        client_of_two=frozenset({first} if rest else {first, second}),
    )


def usable_cores() -> set[int]:
    """Those that this process may use.

    Raises:
        BenchError: The system cannot say, or pin a process to one.
    """
    if not hasattr(os, "sched_getaffinity"):
        raise BenchError("the benchmark runs on Linux alone: it pins processes to cores")
    return os.sched_getaffinity(0)


@contextmanager
def on_cores(cores: Collection[int]) -> Iterator[None]:
    """Run this thread, and pin what it starts, on `cores` for the time of the block."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def start(
    command: Sequence[str], environment: Mapping[str, str], cores: Collection[int], log: Path
) -> "subprocess.Popen[bytes]":
    """Start a server on `cores`; what it says goes to `log`.

    Raises:
        BenchError: There is no such program.
    """
    with on_cores(cores), log.open("ab") as said:
        try:
            # A session of its own: Ctrl-C is for the benchmark, which ends its servers in order.
            return subprocess.Popen(
                command,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,
            )
        except OSError as error:
            raise BenchError(f"{command[0]} cannot be started: {error.strerror}") from None


def end(process: "subprocess.Popen[bytes]") -> None:
    """End a process and all that it has started."""
    tree = _tree(process.pid)
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_S)
    for left in tree:
        with suppress(psutil.NoSuchProcess):
            left.send_signal(signal.SIGKILL)
    process.wait()
    psutil.wait_procs(tree, GRACE_S)


def cpu_s(pid: int) -> float:
    """CPU seconds of a process and all that it has started, those that have ended included."""
    spent = 0.0
    for process in _tree(pid):
        with suppress(psutil.NoSuchProcess):
            spent += sum(process.cpu_times()[:4])  # own and reaped children's, user and system
    return spent


def cpu_s_of_children(pid: int) -> dict[int, float]:
    """CPU seconds of each process that it has started and that runs: of a server, its workers."""
    spent = {}
    with suppress(psutil.NoSuchProcess):
        for child in psutil.Process(pid).children():
            with suppress(psutil.NoSuchProcess):
                spent[child.pid] = cpu_s(child.pid)
    return spent


def cpu_s_of_threads(pid: int, name: str) -> dict[int, float]:
    """CPU seconds of each thread of a process whose name begins so."""
    spent = {}
    with suppress(psutil.NoSuchProcess):
        for thread in psutil.Process(pid).threads():
            with suppress(FileNotFoundError):
                called = Path(f"/proc/{pid}/task/{thread.id}/comm").read_text(encoding="utf-8")
                if called.startswith(name):
                    spent[thread.id] = thread.user_time + thread.system_time
    return spent


def worker_memory(pid: int) -> dict[str, float]:
    """Megabytes (10^6) of the largest process of a tree: resident, and its alone (USS)."""
    largest = {"rss_mb": 0.0, "uss_mb": 0.0}
    for process in _tree(pid):
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            memory = process.memory_full_info()
            if memory.rss / 1e6 > largest["rss_mb"]:
                largest = {"rss_mb": memory.rss / 1e6, "uss_mb": memory.uss / 1e6}
    return largest


def _tree(pid: int) -> list[psutil.Process]:
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
