"""`launch-locust-load-test`: one load test, with the original's options."""

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

INTERRUPTED = 130  # a shell's exit status for Ctrl-C


@click.command("launch-locust-load-test")
@click.option("--seldon-client", "client", required=True, help="Client whose keys are used.")
@click.option(
    "--test-type", required=True, type=click.Choice(list(TEST_TYPES)), help="Protocol to test."
)
@click.option(
    "--bind",
    metavar="HOST:PORT",
    help="Run the master only and listen here for --locust-slaves remote load generators.",
)
@click.option(
    "--worker-of",
    metavar="HOST:PORT",
    help="Run one load generator for the master at this address, with the same options.",
)
@load_options()
def launch(
    client: str, test_type: str, bind: str | None, worker_of: str | None, **flags: Any
) -> None:
    """Load-test one protocol with Locust, print the results and write a report.

    Options override environment variables. Exit status 0: the run is valid and no request failed.
    """
    with in_one_sentence():
        settings = LoadTestSettings.from_env(
            os.environ, client=client, test_type=test_type, **given(flags)
        )
        keys = credentials.load(settings.client, settings.scopes)
        if worker_of is not None:
            if bind is not None:
                raise SettingInvalid(
                    "--bind and --worker-of are both set, expected one; remove the other"
                )
            run_worker(settings, keys, host_and_port("--worker-of", worker_of))
            click.echo("load generator finished")
            return
        address = None if bind is None else host_and_port("--bind", bind)
        if address is not None:
            click.echo(
                f"waiting for {settings.processes} load generators: on each machine run this "
                f"command with --worker-of ADDRESS:PORT of this machine instead of --bind {bind}",
                err=True,
            )
        sys.exit(show(run_load_test(settings, keys, address)))


@contextmanager
def in_one_sentence() -> Iterator[None]:
    """Exit with a one-line error: status 1, or 130 on Ctrl-C."""
    try:
        yield
    except LoadTestInterrupted as interrupted:
        click.echo(f"error: {interrupted}", err=True)
        show(interrupted.folder)
        sys.exit(INTERRUPTED)
    except KeyboardInterrupt:
        click.echo("error: interrupted", err=True)
        sys.exit(INTERRUPTED)
    except LoadTestError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)
    except OSError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)


def show(folder: Path, console: Console | None = None) -> int:
    """Print the tables, problems and report path of a run or a comparison.

    Returns:
        The exit status: 0 if every run is valid and no request failed, else 1.
    """
    console = console or Console()
    status = 1
    if (folder / summary.SUMMARY).exists():  # absent if nothing was measured
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
    """Print a capacity's tables and report path; 0 if every protocol has a capacity."""
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
