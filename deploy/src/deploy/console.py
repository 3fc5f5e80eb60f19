"""Progress of commands: a spinner on a terminal, plain lines elsewhere.

Progress goes to stderr, results to stdout.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click
from rich.console import Console
from rich.markup import escape


def _console() -> Console:
    return Console(stderr=True, highlight=False, soft_wrap=True)


def say(text: str) -> None:
    """Print one line of a command's result to stdout."""
    click.echo(text)


@contextmanager
def step(text: str) -> Iterator[None]:
    """Show `text` as in progress during the block, then how long it took."""
    console = _console()
    started = time.monotonic()
    if console.is_terminal:
        with console.status(escape(text)):
            yield
        console.print(f"[green]✓[/] {escape(text)} [dim]{time.monotonic() - started:.1f} s[/]")
    else:
        console.print(f"{text} …", markup=False)
        yield


def follow(look: Callable[[], str], timeout_s: float, every_s: float) -> str:
    """Poll until `look()` returns an empty text; show each text as progress.

    Returns:
        The last text: empty unless `timeout_s` has passed.
    """
    deadline = time.monotonic() + timeout_s
    said = look()
    while said and time.monotonic() < deadline:
        with step(said):
            shown = said
            while said == shown and time.monotonic() < deadline:
                time.sleep(every_s)
                said = look()
    return said


def wait_until(reached: Callable[[], bool], timeout_s: float, every_s: float = 0.1) -> bool:
    """Poll until `reached()` is true; False after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not reached():
        if time.monotonic() > deadline:
            return False
        time.sleep(every_s)
    return True
