"""Memory of mapped files."""

import ctypes
import logging
import mmap
from pathlib import Path

log = logging.getLogger(__name__)

_libc = ctypes.CDLL(None, use_errno=True)


def release_pages(file: Path) -> None:
    """Release the resident pages of a mapped file; a later read loads them again.

    Use it for a file that a library maps and reads once. Without effect outside Linux.
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
