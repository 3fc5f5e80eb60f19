"""`seldon-cli`: clients, keys and strategies, in the original's words."""

import json
import os
from importlib.metadata import version

import click

from deploy.commands import cli_api, cli_clients, cli_strategies
from deploy.commands.base import StackGroup, debug_option
from deploy.settings import StackSettings, gateway_host, home_from_env
from deploy.state_folder import StateFolder


def _print_default_config(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    """The original's configuration file, as far as it means something here."""
    if not wanted or context.resilient_parsing:
        return
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
    click.echo("nothing to set up: settings are read from the environment (SELDON_*)")
    context.exit()


@click.group("seldon-cli", cls=StackGroup)
@click.version_option(version("prediction-services-deploy"), prog_name="seldon-cli")
@click.option("-q", "--quiet", is_flag=True, help="Print only what was asked for, as JSON.")
@click.option("--zk-hosts", hidden=True, help="Accepted; there is no ZooKeeper.")
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
    help="Print the settings in the original's form.",
)
@debug_option
@click.pass_context
def main(context: click.Context, quiet: bool, zk_hosts: str | None) -> None:
    """Operate the gateway on this machine: clients, their keys, their strategies."""
    home = home_from_env(os.environ)
    context.obj = StateFolder(home)
    if not quiet:
        # The original's first line said which ZooKeeper it was connected to.
        click.echo(f"connected to the registry in {home}")
    context.meta["quiet"] = quiet


main.add_command(cli_clients.client)
main.add_command(cli_clients.keys)
main.add_command(cli_clients.db)
main.add_command(cli_strategies.predict_alg)
main.add_command(cli_api.api)
for unneeded in cli_api.unneeded_commands():
    main.add_command(unneeded)
