"""Open connections per worker, in memory that all workers share."""

import mmap
from array import array

_EMPTY = -1
_BYTES = array("i").itemsize


class ConnectionCounts:
    """One counter per worker slot, in memory shared across forks.

    Each worker writes its own counter and reads the others without a lock: a stale value delays a
    connection by some milliseconds or makes the distribution slightly uneven.
    """

    def __init__(self, slots: int) -> None:
        """Create it in the master, before any fork; `slots` is the maximum number of workers."""
        self._counts = memoryview(mmap.mmap(-1, slots * _BYTES)).cast("i")
        for slot in range(slots):
            self.clear(slot)

    def __len__(self) -> int:
        """The number of slots."""
        return len(self._counts)

    def set(self, slot: int, connections: int) -> None:
        """Publish the number of connections of a worker that accepts more."""
        self._counts[slot] = connections

    def clear(self, slot: int) -> None:
        """Mark a slot as not accepting: its worker starts, stops or has ended."""
        self._counts[slot] = _EMPTY

    def lowest(self) -> int:
        """The lowest count of an accepting worker; 0 if no worker accepts."""
        return min((count for count in self._counts if count != _EMPTY), default=0)
