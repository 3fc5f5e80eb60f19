"""`seldon-cli`: clients, keys, strategies and models, with the original's commands."""

import json
import os
from importlib.metadata import version

import click

from deploy.commands.base import LazyStackGroup, StackCommand, debug_option, target_options
from deploy.commands.cli_unneeded import unneeded_commands
from deploy.settings import StackSettings, gateway_host, home_from_env
from deploy.stack_target import StackTarget
from deploy.state_folder import StateFolder

_ELSEWHERE = {
    "api": "deploy.commands.cli_api:api",
    "check": "deploy.commands.cli_api:check_client",
    "client": "deploy.commands.cli_clients:client",
    "db": "deploy.commands.cli_clients:db",
    "keys": "deploy.commands.cli_clients:keys",
    "model": "deploy.commands.cli_model:model",
    "predict_alg": "deploy.commands.cli_strategies:predict_alg",
    "routing": "deploy.commands.cli_routing:routing",
}


def _print_default_config(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    """Print the settings that the original's configuration file has in common with ours."""
    if not wanted or context.resilient_parsing:
        return
    from deploy.commands import cli_strategies

    home = home_from_env(os.environ)
    gateway = StackSettings.of_stack(StateFolder(home), os.environ).gateway
    config = {
        "default_predictors": cli_strategies.PREDICTORS,
        "server_endpoint": f"http://{gateway_host(gateway)}:{gateway.rest_port}",
        "zkroot": str(home),
    }
    click.echo(json.dumps(config, indent=4, sort_keys=True))
    context.exit()


def _setup_config(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if not wanted or context.resilient_parsing:
        return
    click.echo("nothing to set up: settings come from environment variables (SELDON_*)")
    context.exit()


@click.group("seldon-cli", cls=LazyStackGroup, elsewhere=_ELSEWHERE)
@click.version_option(version("prediction-services-deploy"), prog_name="seldon-cli")
@click.option("-q", "--quiet", is_flag=True, help="Print only the result, as JSON.")
@click.option("--zk-hosts", hidden=True, help="Ignored: there is no ZooKeeper.")
@click.option(
    "--setup-config",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_setup_config,
    hidden=True,
)
@click.option(
    "--print-default-config",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_default_config,
    help="Print the settings in the original's format.",
)
@debug_option
@click.pass_context
def here(context: click.Context, quiet: bool, zk_hosts: str | None) -> None:
    """Manage models, and the gateway's clients, keys and strategies, on this machine."""
    home = home_from_env(os.environ)
    context.obj = StateFolder(home)
    if not quiet and context.invoked_subcommand != "model":  # which needs no stack
        # The original's first line named its ZooKeeper.
        click.echo(f"connected to the registry in {home}")
    context.meta["quiet"] = quiet


for unneeded in unneeded_commands():
    here.add_command(unneeded)


@click.command(
    "seldon-cli",
    cls=StackCommand,
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@target_options
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def main(words: tuple[str, ...], target: StackTarget) -> int:
    """Run seldon-cli on this machine, or in a cluster (--target, SELDON_TARGET)."""
    command = next((word for word in words if not word.startswith("-")), "")
    if not target.in_cluster or command == "model":  # whose files are on this machine
        here.main(list(words))
    # Imported on use: the container image has no kubernetes package.
    from deploy.kubernetes import remote_cli

    return remote_cli.run(words, os.environ, target.context)
