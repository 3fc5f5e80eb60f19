"""Reads and follows the log files of the stack."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from deploy.errors import SettingInvalid

_POLL_S = 0.2
_TAIL_BYTES = 200_000


def select(folder: Path, name: str | None) -> list[Path]:
    """The logs of everything, or of the programs whose name is or begins with `name`.

    Raises:
        SettingInvalid: There is none of that name; lists the names.
    """
    logs = sorted(folder.glob("*.log"))
    if name is None:
        return logs
    chosen = [log for log in logs if log.stem == name] or [
        log for log in logs if log.stem.startswith(f"{name}-")
    ]
    if not chosen:
        known = ", ".join(log.stem for log in logs) or "none yet"
        raise SettingInvalid(f"log name is {name!r}, expected one of: {known}")
    return chosen


def last_lines(log: Path, count: int) -> list[str]:
    """The last `count` lines of a log."""
    with log.open("rb") as content:
        content.seek(max(0, log.stat().st_size - _TAIL_BYTES))
        return content.read().decode(errors="replace").splitlines()[-count:]


def follow(logs: Sequence[Path]) -> Iterator[tuple[str, str]]:
    """Yield each new line with the name of its log; never ends."""
    # Sizes are read here, since a generator would read them at the first line only.
    return _follow({log: log.stat().st_size for log in logs})


def _follow(offsets: dict[Path, int]) -> Iterator[tuple[str, str]]:
    while True:
        for log, offset in offsets.items():
            text, offsets[log] = _read_lines(log, offset)
            for line in text:
                yield log.stem, line
        time.sleep(_POLL_S)


def _read_lines(log: Path, offset: int) -> tuple[list[str], int]:
    """Whole lines after `offset`, and where they end."""
    try:
        with log.open("rb") as content:
            if log.stat().st_size < offset:
                offset = 0  # moved away when its program started again
            content.seek(offset)
            text = content.read()
    except FileNotFoundError:
        return [], 0
    whole = text[: text.rfind(b"\n") + 1]
    return whole.decode(errors="replace").splitlines(), offset + len(whole)
