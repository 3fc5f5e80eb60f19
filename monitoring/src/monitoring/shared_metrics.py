"""Metrics of several worker processes, exact across worker restarts.

The Prometheus client keeps the files of every process that ever ran, and a scrape reads them all.
Here the counts of an exited worker are merged into one file, so scrape time does not grow with
restarts. A lock makes the merge atomic for scrapes.
"""

import fcntl
import os
import shutil
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from prometheus_client import CollectorRegistry, Metric, values
from prometheus_client.mmap_dict import MmapedDict, mmap_key
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

GONE = "gone"  # in place of a process id
KINDS = ("counter", "histogram")
_LOCK = "lock"
_NEW = ".new"


def share(folder: Path) -> None:
    """Store this process's metrics in files of `folder`; call before creating the first one."""
    files: dict[str, MmapedDict] = {}
    lock = threading.Lock()
    pid = os.getpid()

    class SharedValue:
        """The library's value without its check for a fork: no worker forks."""

        _multiprocess = True

        def __init__(
            self,
            kind: str,
            metric: str,
            name: str,
            label_names: list[str],
            label_values: list[str],
            help_text: str,
            multiprocess_mode: str = "",
            **_: object,
        ) -> None:
            prefix = f"{kind}_{multiprocess_mode}" if kind == "gauge" else kind
            with lock:
                if prefix not in files:
                    files[prefix] = _create(folder / f"{prefix}_{pid}.db")
                file = files[prefix]
                key = mmap_key(metric, name, label_names, label_values, help_text)
                self._value: float = file.read_value(key)[0]  # type: ignore[no-untyped-call]
                # A write through the library takes three times as long, eleven times a request.
                place = file._positions[key]
                self._cell = memoryview(file._m)[place : place + 8].cast("d")

        def inc(self, amount: float) -> None:
            with lock:
                self._value = value = self._value + amount
                self._cell[0] = value

        def set(self, value: float, timestamp: float | None = None) -> None:
            with lock:
                self._value = value
                self._cell[0] = value

        def get(self) -> float:
            return self._value

        def get_exemplar(self) -> None:
            return None

    values.ValueClass = SharedValue


class SharedMetrics(Collector):
    """Collects the metrics of all workers, exited ones included."""

    def __init__(self, folder: Path, registry: CollectorRegistry) -> None:
        """Register a collector of the files in `folder`; see `share`."""
        self._folder = folder
        self._files = MultiProcessCollector(None, str(folder))  # type: ignore[no-untyped-call]
        registry.register(self)

    def collect(self) -> Iterable[Metric]:
        """Called for every scrape."""
        with _locked(self._folder, fcntl.LOCK_SH):
            return list(self._files.collect())  # type: ignore[no-untyped-call]


def absorb(folder: Path, pid: int) -> None:
    """Merge the counts of an exited worker and remove its files."""
    mark_process_dead(pid, str(folder))  # type: ignore[no-untyped-call]
    for unfinished in folder.glob(f"*_{pid}{_NEW}"):
        unfinished.unlink()
    for kind in KINDS:
        ended = folder / f"{kind}_{pid}.db"
        if not ended.exists():
            continue
        gone = folder / f"{kind}_{GONE}.db"
        with _locked(folder, fcntl.LOCK_EX):
            # A copy first: a parent killed here leaves the old sums and the worker's file.
            partial = gone.with_suffix(".partial")
            if gone.exists():
                shutil.copy(gone, partial)
            else:
                partial.unlink(missing_ok=True)
            _add(ended, partial)
            partial.replace(gone)
            ended.unlink()


def forget(folder: Path) -> None:
    """Remove the merged counts after the last scrape."""
    for file in (*folder.glob(f"*_{GONE}.*"), folder / _LOCK):
        file.unlink(missing_ok=True)


def _create(file: Path) -> MmapedDict:
    """Create a file of values.

    It gets its name when it has its size: neither a scrape nor the merge after a kill can read an
    empty file.
    """
    new = file.with_suffix(_NEW)
    new.unlink(missing_ok=True)
    created = MmapedDict(str(new))  # type: ignore[no-untyped-call]
    new.rename(file)
    return created


def _add(source: Path, target: Path) -> None:
    sums = MmapedDict(str(target))  # type: ignore[no-untyped-call]
    counted = MmapedDict.read_all_values_from_file(str(source))  # type: ignore[no-untyped-call]
    for key, value, timestamp, _ in counted:
        before, _ = sums.read_value(key)  # type: ignore[no-untyped-call]
        sums.write_value(key, before + value, timestamp)  # type: ignore[no-untyped-call]
    sums.close()  # type: ignore[no-untyped-call]


@contextmanager
def _locked(folder: Path, how: int) -> Iterator[None]:
    with (folder / _LOCK).open("ab") as lock:
        fcntl.flock(lock, how)
        yield
