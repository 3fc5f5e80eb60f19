"""`launch-locust-load-test`: the original's flags, on this machine."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from loadtest import capacity_report, comparison, credentials, summary, tables
from loadtest.errors import LoadTestError, LoadTestInterrupted, SettingInvalid
from loadtest.options import given, load_options
from loadtest.run_folder import PROTOCOLS, read_json
from loadtest.runner import run_load_test, run_worker
from loadtest.settings import TEST_TYPES, LoadTestSettings, host_and_port

INTERRUPTED = 130  # as a shell says of Ctrl-C


@click.command("launch-locust-load-test")
@click.option("--seldon-client", "client", required=True, help="Whose keys are used.")
@click.option("--test-type", required=True, type=click.Choice(list(TEST_TYPES)))
@click.option(
    "--bind",
    metavar="HOST:PORT",
    help="Start no load generator here: wait at this address for --locust-slaves of them.",
)
@click.option(
    "--worker-of",
    metavar="HOST:PORT",
    help="Be a load generator of the run that waits there, with the same flags.",
)
@load_options
def launch(
    client: str, test_type: str, bind: str | None, worker_of: str | None, **flags: Any
) -> None:
    """Load one protocol with Locust's users; print the figures, write the report.

    A flag wins over the environment, that over the default. Ends with 0 if every request of the
    run was answered rightly.
    """
    with in_one_sentence():
        settings = LoadTestSettings.from_env(
            os.environ, client=client, test_type=test_type, **given(flags)
        )
        keys = credentials.load(settings.client, settings.protocol)
        if worker_of is not None:
            if bind is not None:
                raise SettingInvalid("--bind and --worker-of are of two machines: give one of them")
            run_worker(settings, keys, host_and_port("--worker-of", worker_of))
            click.echo("this load generator has done its part")
            return
        address = None if bind is None else host_and_port("--bind", bind)
        if address is not None:
            click.echo(
                f"waiting for {settings.processes} load generators: start on each machine this "
                f"command with --worker-of and this machine's address instead of --bind {bind}",
                err=True,
            )
        sys.exit(show(run_load_test(settings, keys, address)))


@contextmanager
def in_one_sentence() -> Iterator[None]:
    """End the command with one sentence for what can go wrong: status 1, or 130 of Ctrl-C."""
    try:
        yield
    except LoadTestInterrupted as interrupted:
        click.echo(f"error: {interrupted}", err=True)
        show(interrupted.folder)
        sys.exit(INTERRUPTED)
    except KeyboardInterrupt:
        click.echo("error: stopped by hand", err=True)
        sys.exit(INTERRUPTED)
    except LoadTestError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)
    except OSError as error:
        click.echo(f"error: the system refuses: {error}", err=True)
        sys.exit(1)


def show(folder: Path, console: Console | None = None) -> int:
    """Print the tables of a run or a comparison, what is wrong with it, and where its report is.

    Returns:
        0 if what was measured is valid and no request failed, else 1.
    """
    console = console or Console()
    status = 1
    if (folder / summary.SUMMARY).exists():  # it is not where nothing was measured
        document = read_json(folder / summary.SUMMARY)
        if comparison.is_comparison(folder):
            tables.print_comparison(folder, console)
            valid = not tables.invalid_because(document)
            failures = sum(run["failures"] for run in document["runs"].values())
        else:
            tables.print_summary(folder, console)
            valid, failures = document["valid"], document["failures"]
        status = 0 if valid and not failures else 1
    report = folder / summary.REPORT
    where = os.path.relpath(report if report.exists() else folder)
    console.print(f"\nReport: {where}", soft_wrap=True, markup=False, highlight=False)
    return status


def show_capacities(folder: Path, console: Console | None = None) -> int:
    """Print a capacity's tables and where its report is; 0 if one was found over each protocol."""
    console = console or Console()
    found = capacity_report.read(folder)
    tables.print_capacities(
        [(PROTOCOLS[protocol], one) for protocol, one in found.items()], console
    )
    where = os.path.relpath(folder / capacity_report.PAGE)
    console.print(f"\nReport: {where}", soft_wrap=True, markup=False, highlight=False)
    return 0 if all(one.rate_per_s is not None for one in found.values()) else 1


if __name__ == "__main__":
    launch()
