"""How many connections each worker has, where all workers see it."""

import mmap
from array import array

_NOBODY = -1
_BYTES = array("i").itemsize


class Shares:
    """One number for each worker, in memory that a fork shares.

    Every worker writes its own and reads the others' without a lock: a number that is a moment old
    costs a connection some milliseconds, or makes shares a little unequal.
    """

    def __init__(self, slots: int) -> None:
        """In the master, before any worker: `slots` is how many workers there can be at once."""
        self._counts = memoryview(mmap.mmap(-1, slots * _BYTES)).cast("i")
        for slot in range(slots):
            self.leave(slot)

    def __len__(self) -> int:
        """How many slots there are."""
        return len(self._counts)

    def tell(self, slot: int, connections: int) -> None:
        """The worker in this slot takes connections, and has so many."""
        self._counts[slot] = connections

    def leave(self, slot: int) -> None:
        """The worker in this slot takes none: it starts, stops or is gone."""
        self._counts[slot] = _NOBODY

    def fewest(self) -> int:
        """What the worker has that has the fewest; 0 if none takes any."""
        return min((count for count in self._counts if count != _NOBODY), default=0)
