"""`python -m deploy status` and `logs`: state and logs of the services."""

import os
import sys

import click
from rich.console import Console
from rich.table import Table

from deploy import log_files, prometheus_program, status
from deploy.commands.base import StackCommand, debug_option
from deploy.local import REMEDY, LocalStack
from deploy.settings import home_from_env
from deploy.state_folder import StateFolder

_LEAST_WIDTH = 120  # without a terminal


@click.command("status", cls=StackCommand)
@debug_option
def show_status() -> int:
    """Show the state, port and health of every service.

    The exit status is 1 if a service is unhealthy or no stack is running.
    """
    rows = status.collect(LocalStack(home_from_env(os.environ)))
    table = Table()
    for heading in ("service", "state", "pid", "port", "uptime", "restarts", "health"):
        table.add_column(heading, justify="right" if heading in ("pid", "port") else "left")
    for row in rows:
        table.add_row(
            row.name,
            row.state,
            str(row.pid or "-"),
            str(row.port or "-"),
            status.duration_text(row.uptime_s) if row.pid else "-",
            str(row.restarts),
            f"[{'green' if row.health == status.HEALTHY else 'red'}]{row.health}[/]",
        )
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_LEAST_WIDTH)
    console.print(table)
    if prometheus_program.NAME not in {row.name for row in rows}:
        click.echo(f"Prometheus is not running; {prometheus_program.MISSING}")
    unhealthy = [row.name for row in rows if row.health != status.HEALTHY]
    if unhealthy:
        click.echo(
            f"unhealthy: {', '.join(unhealthy)}; see `make logs`. If they do not recover within "
            f"seconds, {REMEDY}",
            err=True,
        )
    return 1 if unhealthy else 0


@click.command("logs", cls=StackCommand)
@click.option("-f", "--follow", is_flag=True, help="Print new lines as they are written.")
@click.option("-n", "--lines", default=20, show_default=True, help="Last lines to show per log.")
@click.argument("name", required=False)
@debug_option
def show_logs(follow: bool, lines: int, name: str | None) -> None:
    """Show the last log lines of every service, or of NAME."""
    files = StateFolder(home_from_env(os.environ))
    files.require()
    logs = log_files.select(files.home / "logs", name)
    for log in logs:
        for line in log_files.last_lines(log, lines):
            click.echo(f"{log.stem} | {line}")
    if follow:
        try:
            for stem, line in log_files.follow(logs):
                click.echo(f"{stem} | {line}")
                sys.stdout.flush()
        except KeyboardInterrupt:
            pass  # the way to end it
