"""`seldon-up` and `seldon-down`: the gateway, up and down."""

import os

import click

from deploy.commands.base import StackCommand, debug_option
from deploy.console import say
from deploy.lifecycle import bring_up, take_down
from deploy.local import LocalStack
from deploy.locking import lock
from deploy.settings import StackSettings, gateway_host, home_from_env

# What the original's seldon-up read and this machine has no use for, and what is said about it.
_ANSWERED = {
    "SELDON_WITH_SPARK": "Spark is not part of this stack: nothing here needs it",
    "SELDON_WITH_GLUSTERFS": "one machine needs no GlusterFS: models are read from their folders",
    "GOOGLE_CLOUDSQL": "set SELDON_DATABASE_URL to use a database elsewhere",
}


@click.command("seldon-up", cls=StackCommand)
@debug_option
def seldon_up() -> None:
    """Start the gateway on this machine; one that runs already is left as it is.

    The state is in SELDON_HOME (./.seldon). Ports: SELDON_REST_PORT, SELDON_GRPC_PORT,
    SELDON_ADMIN_PORT, SELDON_CONTROL_PORT.
    """
    for variable, answer in _ANSWERED.items():
        if variable in os.environ:
            say(f"{variable}={os.environ[variable]}: {answer}")
    local = LocalStack(home_from_env(os.environ))
    local.files.prepare()
    with lock(local.home):
        started = bring_up(local, os.environ)
    gateway = StackSettings.of_stack(local.files, os.environ).gateway
    host = gateway_host(gateway)
    say("the gateway is ready" if started else "the gateway runs already: nothing was changed")
    say(f"REST http://{host}:{gateway.rest_port}, gRPC {host}:{gateway.grpc_port}")


@click.command("seldon-down", cls=StackCommand)
@click.option("--purge", is_flag=True, help="Remove SELDON_HOME too: clients, keys, logs.")
@debug_option
def seldon_down(purge: bool) -> None:
    """Stop every process of the stack, microservices too; clients and keys stay."""
    take_down(home_from_env(os.environ), purge)
