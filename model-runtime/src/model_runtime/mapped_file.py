"""The memory that a mapped file takes."""

import ctypes
import logging
import mmap
from pathlib import Path

log = logging.getLogger(__name__)

_libc = ctypes.CDLL(None, use_errno=True)


def give_back(file: Path) -> None:
    """Take the pages of `file` out of this process's memory; who reads one again gets it again.

    For files that a library has mapped and read once. Elsewhere than on Linux nothing happens.
    """
    name = str(file.resolve())
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        addresses, access, *_ = line.split(maxsplit=5)
        if not line.endswith(f" {name}") or "w" in access:
            continue
        start, end = (int(address, 16) for address in addresses.split("-"))
        size = ctypes.c_size_t(end - start)
        if _libc.madvise(ctypes.c_void_p(start), size, mmap.MADV_DONTNEED) != 0:
            log.warning("%s stays in memory: madvise failed (%d)", file, ctypes.get_errno())
