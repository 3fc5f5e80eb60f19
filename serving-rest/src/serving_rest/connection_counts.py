"""Open connections per worker, in memory that all workers share."""

import math
import mmap
import time
from array import array

# How long a worker leaves new connections to workers that have fewer.
PAUSE_S = 0.005
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


class Share:
    """One worker's share of the server's connections.

    A worker that has more connections than another leaves new ones to it for a moment. Without
    this pause the first worker to wake accepts them all, and one core does all the work.
    """

    def __init__(self, counts: ConnectionCounts, slot: int) -> None:
        """`slot` is the worker's."""
        self._counts = counts
        self._slot = slot
        self._paused_until = -math.inf
        self._was_paused = False

    def publish(self, connections: int) -> None:
        """Publish the worker's number of connections."""
        self._counts.set(self._slot, connections)

    def clear(self) -> None:
        """Accept no more connections."""
        self._counts.clear(self._slot)

    def pause(self, connections: int) -> bool:
        """Begin a pause if another worker has fewer connections; not twice in a row.

        Args:
            connections: The worker's number of connections.
        """
        if self._was_paused or not self._has_excess(connections):
            self._was_paused = False  # the exemption is for one connection
            return False
        self._paused_until = time.monotonic() + PAUSE_S
        return True

    def paused_until(self, now: float, connections: int) -> float:
        """When the pause ends; in the past if there is none.

        Args:
            now: time.monotonic().
            connections: The worker's number of connections.
        """
        self._was_paused = False
        if self._paused_until != -math.inf:
            self._was_paused = now >= self._paused_until
            if self._was_paused or not self._has_excess(connections):
                self._paused_until = -math.inf
        return self._paused_until

    def _has_excess(self, connections: int) -> bool:
        lowest = self._counts.lowest()
        # A quarter more is allowed: strictly even counts would delay the last of 64 simultaneous
        # connections.
        return connections > lowest + lowest // 4
