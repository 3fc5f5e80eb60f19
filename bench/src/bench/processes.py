"""Processes: CPU pinning, CPU time, memory and shutdown."""

import os
import signal
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from bench.errors import BenchError

GRACE_S = 5.0


@dataclass(frozen=True)
class Cores:
    """The cores of each role."""

    server: frozenset[int]
    client: frozenset[int]
    gateway: frozenset[int]
    two_workers: frozenset[int]
    client_of_two: frozenset[int]


def assign_cores(cores: Collection[int]) -> Cores:
    """Assign cores; the server has its own.

    With two cores the gateway shares the client's, and two workers share both with the client.

    Raises:
        BenchError: There are fewer than two cores.
    """
    if len(cores) < 2:
        raise BenchError(f"the number of cores is {len(cores)}, expected 2 or more")
    first, second, *rest = sorted(cores)
    return Cores(
        server=frozenset({second}),
        client=frozenset({first}),
        gateway=frozenset(rest[:1] or {first}),
        two_workers=frozenset({second, *(rest[:1] or {first})}),
        client_of_two=frozenset({first} if rest else {first, second}),
    )


def usable_cores() -> set[int]:
    """The cores that this process may use.

    Raises:
        BenchError: The operating system does not support CPU affinity.
    """
    if not hasattr(os, "sched_getaffinity"):
        raise BenchError(f"the operating system is {sys.platform}, expected Linux for CPU affinity")
    return os.sched_getaffinity(0)


@contextmanager
def on_cores(cores: Collection[int]) -> Iterator[None]:
    """Pin this thread and its new processes to `cores` within the context."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def start(
    command: Sequence[str], environment: Mapping[str, str], cores: Collection[int], log: Path
) -> "subprocess.Popen[bytes]":
    """Start a server on `cores`, with its output in `log`.

    Raises:
        BenchError: The program does not exist.
    """
    with on_cores(cores), log.open("ab") as output:
        try:
            # A new session: the benchmark handles Ctrl-C and stops its servers in order.
            return subprocess.Popen(
                command,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        except OSError as error:
            raise BenchError(f"{command[0]} did not start: {error.strerror}") from None


def end(process: "subprocess.Popen[bytes]") -> None:
    """Stop a process and its descendants."""
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
    """CPU seconds of a process and its descendants, including exited ones."""
    spent = 0.0
    for process in _tree(pid):
        with suppress(psutil.NoSuchProcess):
            spent += sum(process.cpu_times()[:4])  # own and reaped children's, user and system
    return spent


def cpu_s_of_children(pid: int) -> dict[int, float]:
    """CPU seconds of each running child process, such as a server's workers."""
    spent = {}
    with suppress(psutil.NoSuchProcess):
        for child in psutil.Process(pid).children():
            with suppress(psutil.NoSuchProcess):
                spent[child.pid] = cpu_s(child.pid)
    return spent


def cpu_s_of_threads(pid: int, name: str) -> dict[int, float]:
    """CPU seconds of each thread whose name starts with `name`."""
    spent = {}
    with suppress(psutil.NoSuchProcess):
        for thread in psutil.Process(pid).threads():
            with suppress(FileNotFoundError):
                called = Path(f"/proc/{pid}/task/{thread.id}/comm").read_text(encoding="utf-8")
                if called.startswith(name):
                    spent[thread.id] = thread.user_time + thread.system_time
    return spent


def worker_memory(pid: int) -> dict[str, float]:
    """RSS and USS of the largest process of a tree, in megabytes (10^6 bytes)."""
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
