"""Progress of a download, logged to stderr."""

import sys
import time

_INTERVAL_S = 2.0
_MB = 1e6


class Progress:
    """Logs the start of a file and, at most every two seconds, its progress."""

    def __init__(self) -> None:
        """Create it; no file is in progress."""
        self._name, self._size = "", 0
        self._logged_at = 0.0

    def start(self, name: str, size: int | None, offset: int) -> None:
        """Start a file, or resume it at byte `offset`."""
        self._name, self._size = name, size or 0
        self._logged_at = time.monotonic()
        resumed = f", resumed at {offset / _MB:.1f} MB" if offset else ""
        total = f" of {self._size / _MB:.1f} MB" if self._size else ""
        self.log(f"{name}{total}{resumed}")

    def update(self, position: int) -> None:
        """Report the number of bytes on disk."""
        now = time.monotonic()
        if now - self._logged_at >= _INTERVAL_S:
            self._logged_at = now
            share = f" ({position / self._size:.0%})" if self._size else ""
            self.log(f"{self._name}: {position / _MB:.1f} MB{share}")

    def log(self, text: str) -> None:
        """Write a line."""
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()
