"""`python -m bench.peer_environments`: a virtual environment per framework of bench/peers.

The Makefile's `peers` runs it. The environments isolate the frameworks from the product and from
each other.
"""

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import click

from bench.errors import BenchError

REQUIREMENTS = Path("bench/peers")
TARGET = Path(".peers")
_PREFIX = "requirements-"
_READY = ".ready"  # the requirements of a complete environment
_SHOWN_LINES = 5


@click.command("peers")
@click.argument("name", default="")
def main(name: str) -> None:
    """Install every framework or the one NAME; skip those that are up to date.

    Exit status 1: a framework was not installed; the others were.
    """
    try:
        failed = install(REQUIREMENTS, TARGET, name, click.echo)
    except BenchError as error:
        sys.exit(f"peers: {error}")
    if failed:
        sys.exit(f"peers: not installed: {', '.join(failed)}")


def install(
    requirements: Path, target: Path, only: str, tell: Callable[[str], object]
) -> list[str]:
    """Create missing and outdated environments.

    Args:
        requirements: The folder of the requirements-NAME.txt files.
        target: The parent of the environments.
        only: The only framework to install; "" for all.
        tell: Receives progress messages.

    Returns:
        The names of the frameworks that were not installed.

    Raises:
        BenchError: `only` is unknown.
    """
    files = {
        file.stem.removeprefix(_PREFIX): file
        for file in sorted(requirements.glob(f"{_PREFIX}*.txt"))
    }
    if only and only not in files:
        raise BenchError(f"NAME is {only!r}, expected one of {', '.join(files)}")
    failed = []
    for name, file in files.items():
        if only in ("", name):
            try:
                _make(name, file, target / name, tell)
            except BenchError as error:
                failed.append(name)
                tell(str(error))
    return failed


def _make(name: str, requirements: Path, folder: Path, tell: Callable[[str], object]) -> None:
    wanted, ready = requirements.read_text(encoding="utf-8"), folder / _READY
    if ready.exists() and ready.read_text(encoding="utf-8") == wanted:
        tell(f"{name}: ready")
        return
    tell(f"{name}: installing {requirements} into {folder}")
    _run(name, [sys.executable, "-m", "venv", "--clear", str(folder)])
    pip = [str(folder / "bin/python"), "-m", "pip", "--disable-pip-version-check", "--quiet"]
    _run(name, [*pip, "install", "--requirement", str(requirements)])
    ready.write_text(wanted, encoding="utf-8")
    tell(f"{name}: installed")


def _run(name: str, command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = (done.stderr.strip() or done.stdout.strip()).splitlines()[-_SHOWN_LINES:]
        raise BenchError(f"{name} is not installed: " + "\n    ".join(lines))


if __name__ == "__main__":
    main()
