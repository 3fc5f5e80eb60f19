"""`python -m deploy kubernetes …`: what make calls with TARGET=kubernetes."""

import os
from collections.abc import Mapping
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from deploy.commands.base import StackCommand, StackGroup, debug_option
from deploy.commands.load_test import launch
from deploy.deployment import CLIENT
from deploy.kubernetes import deployment, manifests, nodes, overview
from deploy.kubernetes.lifecycle import DeployOptions
from deploy.kubernetes.objects.gateway import GATEWAY_SERVICE
from deploy.kubernetes.session import session
from deploy.stack_target import Target
from loadtest.settings import TEST_TYPES

_LEAST_WIDTH = 120  # without a terminal

_context = click.option(
    "--context", help="Context of the kubeconfig file.  [default: the current context]"
)


@click.group("kubernetes", cls=StackGroup)
def main() -> None:
    """Operate the stack in a cluster.

    docs/kubernetes.md lists its variables.
    """


@main.command("deploy", cls=StackCommand)
@click.option(
    "--overlay",
    "overlays",
    multiple=True,
    help="Overlay, such as monitoring.  [default: K8S_OVERLAYS]",
)
@_context
@click.option("--timeout", "timeout_s", type=float, default=300.0, show_default=True)
@click.option("--dry-run", is_flag=True, help="Print the changes without making them.")
@click.option("--force", is_flag=True, help="Take over fields that other field managers own.")
@debug_option
def deploy(
    overlays: tuple[str, ...], context: str | None, timeout_s: float, dry_run: bool, force: bool
) -> None:
    """Apply the stack, wait until it is ready and print its addresses; safe to run again."""
    options = DeployOptions(GATEWAY_SERVICE, context, timeout_s, dry_run, force)
    deployment.deploy(_environ(overlays), options, manifests.monitoring_files(Path.cwd()))


@main.command("undeploy", cls=StackCommand)
@_context
@click.option("--timeout", "timeout_s", type=float, default=180.0, show_default=True)
@click.option("--purge", is_flag=True, help="Remove the data and an empty namespace too.")
@debug_option
def undeploy(context: str | None, timeout_s: float, purge: bool) -> None:
    """Remove the objects that deploy created; data is kept."""
    deployment.take_down(os.environ, context, purge=purge, timeout_s=timeout_s)


@main.command("status", cls=StackCommand)
@_context
@debug_option
def status(context: str | None) -> int:
    """Show every workload with its state and nodes; exit with status 1 when one is not ready."""
    with session(os.environ, context, quiet=True) as it:
        rows = overview.collect(it.api, it.place)
    table = Table()
    for heading in ("workload", "state", "nodes", "restarts", "image"):
        table.add_column(heading, justify="right" if heading == "restarts" else "left")
    for row in rows:
        colour = "green" if row.healthy else "red"
        table.add_row(
            str(row.which),
            f"[{colour}]{row.state}[/]",
            ", ".join(row.nodes),
            str(row.restarts),
            row.image,
        )
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_LEAST_WIDTH)
    console.print(table)
    wrong = ", ".join(str(row.which) for row in rows if not row.healthy)
    if wrong:
        click.echo(f"not ready: {wrong}; see make logs TARGET=kubernetes NAME=…", err=True)
    return 1 if wrong else 0


@main.command("logs", cls=StackCommand)
@_context
@click.option("-n", "--lines", default=20, show_default=True, help="Lines per container.")
@click.argument("name", required=False)
@debug_option
def logs(context: str | None, lines: int, name: str | None) -> None:
    """Show the last log lines of every container, or of the workload or program NAME."""
    with session(os.environ, context, quiet=True) as it:
        for whose, line in overview.log_lines(it.api, it.place, name, lines):
            click.echo(f"{whose} | {line}")


@main.command("loadtest", cls=StackCommand)
@_context
@click.option("--test-type", required=True, type=click.Choice(list(TEST_TYPES)))
@click.option("--seldon-client", default=CLIENT, show_default=True)
@debug_option
def loadtest(context: str | None, test_type: str, seldon_client: str) -> None:
    """Run Locust's master and workers on nodes labelled role=locust and fetch the results."""
    words = ["--target", Target.KUBERNETES, *(["--context", context] if context else [])]
    launch.main([*words, "--seldon-client", seldon_client, "--test-type", test_type])


@main.command("label-loadtest-node", cls=StackCommand)
@_context
@click.argument("node")
@debug_option
def label_node(context: str | None, node: str) -> None:
    """Label NODE with role=locust, so that load generators can run on it."""
    with session(os.environ, context, quiet=True) as it:
        nodes.label(it.api, node)


@main.command("cordon-loadtest-node", cls=StackCommand)
@_context
@click.argument("node")
@debug_option
def cordon_node(context: str | None, node: str) -> None:
    """Cordon NODE: only load generators are scheduled on it."""
    with session(os.environ, context, quiet=True) as it:
        nodes.cordon(it.api, node, closed=True)


@main.command("uncordon-loadtest-node", cls=StackCommand)
@_context
@click.argument("node")
@debug_option
def uncordon_node(context: str | None, node: str) -> None:
    """Uncordon NODE: any pod can be scheduled on it again."""
    with session(os.environ, context, quiet=True) as it:
        nodes.cordon(it.api, node, closed=False)


def _environ(overlays: tuple[str, ...]) -> Mapping[str, str]:
    return {**os.environ, **({"K8S_OVERLAYS": " ".join(overlays)} if overlays else {})}
