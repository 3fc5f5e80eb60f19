"""`seldon-cli` of a cluster's stack: run in its pod, with this terminal's input and output."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from deploy.errors import SettingInvalid
from deploy.kubernetes.control_plane import ControlPlane
from deploy.kubernetes.session import session

_FILE_OPTIONS = ("-f", "--json-file")
_STDIN = "-"


@dataclass(frozen=True)
class Call:
    """What is run.

    Attributes:
        words: Its own.
        source: What it reads as its input: a file of this machine, `-` for stdin, or None.
    """

    words: tuple[str, ...]
    source: str | None


def plan(words: Sequence[str]) -> Call:
    """The command for the pod; a file of this machine becomes its stdin."""
    made: list[str] = []
    source: str | None = None
    rest = iter(words)
    for word in rest:
        option, _, value = word.partition("=")
        if word in _FILE_OPTIONS:
            source = next(rest, None)
            made += [word] if source is None else [word, _STDIN]
        elif option == _FILE_OPTIONS[1] and value:
            source = value
            made.append(f"{option}={_STDIN}")
        else:
            made.append(word)
    return Call(tuple(made), source)


def run(words: Sequence[str], environ: Mapping[str, str], context: str | None) -> int:
    """Run it; its exit status.

    Raises:
        SettingInvalid: A file that it is to read cannot be read here.
        ClusterError: It cannot be run.
    """
    call = plan(words)
    stdin = None if call.source is None else _input(call.source)
    with session(environ, context, quiet=True) as it:
        return ControlPlane(it.api, it.place).run(
            call.words, stdin, _writer(sys.stdout), _writer(sys.stderr)
        )


def _input(source: str) -> bytes:
    if source == _STDIN:
        return sys.stdin.buffer.read()
    try:
        return Path(source).read_bytes()
    except OSError as error:
        raise SettingInvalid(f"--json-file is {source!r}: {error.strerror}; correct it") from None


def _writer(stream: TextIO) -> Callable[[bytes], None]:
    def write(text: bytes) -> None:
        stream.buffer.write(text)
        stream.flush()

    return write
