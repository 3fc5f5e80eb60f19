"""Wait for what becomes true."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
# Far above what anything takes: how long that is depends on what else the machine does.
PATIENCE_S = 30.0


def eventually(
    condition: Callable[[], T | None],
    what: str = "the condition",
    within_s: float = PATIENCE_S,
    every_s: float = 0.01,
    ignored: type[Exception] | tuple[type[Exception], ...] = (),
) -> T:
    """Poll until `condition()` returns something true.

    Args:
        condition: Called every `every_s` seconds.
        what: Names the condition in the failure.
        within_s: The deadline, in seconds from now.
        every_s: The pause between two calls, in seconds.
        ignored: Exceptions of `condition` that count as "not yet".

    Returns:
        What `condition()` returned.

    Raises:
        AssertionError: `condition()` was still false at the deadline.
    """
    deadline = time.monotonic() + within_s
    while True:
        last: Exception | None = None
        try:
            if value := condition():
                return value
        except ignored as error:
            last = error
        assert time.monotonic() < deadline, f"not within {within_s:g} s: {what} ({last})"
        time.sleep(every_s)
