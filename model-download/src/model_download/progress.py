"""What a download says while it goes on: lines on stderr, not too many."""

import sys
import time

_EVERY_S = 2.0
_MB = 1e6


class Progress:
    """One line when a file begins and ends, and every two seconds between."""

    def __init__(self) -> None:
        """Nothing has begun."""
        self._name, self._size = "", 0
        self._said = 0.0

    def begin(self, name: str, size: int | None, start: int) -> None:
        """A file begins, or goes on at byte `start`."""
        self._name, self._size = name, size or 0
        self._said = time.monotonic()
        going_on = f", going on at {start / _MB:.1f} MB" if start else ""
        whole = f" of {self._size / _MB:.1f} MB" if self._size else ""
        self.say(f"{name}{whole}{going_on}")

    def reached(self, position: int) -> None:
        """So many bytes are there."""
        now = time.monotonic()
        if now - self._said >= _EVERY_S:
            self._said = now
            share = f" ({position / self._size:.0%})" if self._size else ""
            self.say(f"{self._name}: {position / _MB:.1f} MB{share}")

    def say(self, text: str) -> None:
        """A line."""
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()
