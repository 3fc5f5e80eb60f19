"""Metrics of several worker processes, exact while workers come and go.

The Prometheus client keeps a file for every process that ever counted, and a scrape reads them all.
What a worker has counted when it ends is added here to one file, so a server that has started a
thousand workers is scraped as fast as a new one. A scrape never sees a count in both places, or in
neither: whoever moves counts holds a lock.
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


def share(folder: Path) -> None:
    """In a worker, before its first metric: all of them live in files of `folder` from here on."""
    files: dict[str, MmapedDict] = {}
    lock = threading.Lock()
    pid = os.getpid()

    class SharedValue:
        """The client's own value, which asks for the process id at every step: no worker forks."""

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
                    files[prefix] = MmapedDict(str(folder / f"{prefix}_{pid}.db"))  # type: ignore[no-untyped-call]
                self._file = files[prefix]
                self._key = mmap_key(metric, name, label_names, label_values, help_text)
                self._value: float = self._file.read_value(self._key)[0]  # type: ignore[no-untyped-call]

        def inc(self, amount: float) -> None:
            with lock:
                self._value = value = self._value + amount
                self._file.write_value(self._key, value, 0.0)  # type: ignore[no-untyped-call]

        def set(self, value: float, timestamp: float | None = None) -> None:
            with lock:
                self._value = value
                self._file.write_value(self._key, value, timestamp or 0.0)  # type: ignore[no-untyped-call]

        def get(self) -> float:
            return self._value

        def get_exemplar(self) -> None:
            return None

    values.ValueClass = SharedValue


class SharedMetrics(Collector):
    """What all workers have counted, those that are gone included."""

    def __init__(self, folder: Path, registry: CollectorRegistry) -> None:
        """Add to `registry` what is in `folder`, where the workers `share` theirs."""
        self._folder = folder
        self._files = MultiProcessCollector(None, str(folder))  # type: ignore[no-untyped-call]
        registry.register(self)

    def collect(self) -> Iterable[Metric]:
        """Called for every scrape."""
        with _locked(self._folder, fcntl.LOCK_SH):
            return list(self._files.collect())  # type: ignore[no-untyped-call]


def absorb(folder: Path, pid: int) -> None:
    """Keep what a worker that has ended had counted, and remove its files."""
    mark_process_dead(pid, str(folder))  # type: ignore[no-untyped-call]
    for kind in KINDS:
        ended = folder / f"{kind}_{pid}.db"
        if not ended.exists():
            continue
        gone = folder / f"{kind}_{GONE}.db"
        with _locked(folder, fcntl.LOCK_EX):
            # Beside it first: a parent that is killed here leaves the old sums and the worker's.
            partial = gone.with_suffix(".partial")
            if gone.exists():
                shutil.copy(gone, partial)
            else:
                partial.unlink(missing_ok=True)
            _add(ended, partial)
            partial.replace(gone)
            ended.unlink()


def forget(folder: Path) -> None:
    """Remove what absorb has left, when nobody will read it any more."""
    for file in (*folder.glob(f"*_{GONE}.*"), folder / _LOCK):
        file.unlink(missing_ok=True)


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
