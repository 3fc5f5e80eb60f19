"""`seldon-up` and `seldon-down`: the gateway, up and down."""

import os

import click

from deploy.commands.base import StackCommand, debug_option, target_options
from deploy.console import say
from deploy.lifecycle import bring_up, take_down
from deploy.local import LocalStack
from deploy.locking import lock
from deploy.settings import StackSettings, gateway_host, home_from_env
from deploy.where import Where

_SPARK = "Spark is not part of this stack: nothing here needs it"
# What the original's seldon-up read and this machine has no use for, and what is said about it.
_HERE = {
    "SELDON_WITH_SPARK": _SPARK,
    "SELDON_WITH_GLUSTERFS": "one machine needs no GlusterFS: models are read from their folders",
    "GOOGLE_CLOUDSQL": "set SELDON_DATABASE_URL to use a database elsewhere",
}
_IN_CLUSTER = {
    "SELDON_WITH_SPARK": _SPARK,
    "SELDON_WITH_GLUSTERFS": (
        "Kubernetes has no GlusterFS since 1.26: the volume is what K8S_STORAGE_CLASS or "
        "DATA_VOLUME (nfs, hostPath, a claim) says"
    ),
    "GOOGLE_CLOUDSQL": "set SELDON_DATABASE_URL to use a database elsewhere",
    "DB_USER": "SELDON_DATABASE_URL has the database's user; without it there is none",
    "DB_PASSWORD": "SELDON_DATABASE_URL has the database's password; without it there is none",
}


@click.command("seldon-up", cls=StackCommand)
@target_options
@debug_option
def seldon_up(at: Where) -> None:
    """Start the gateway, here or in a cluster; one that runs already is left as it is.

    Here the state is in SELDON_HOME (./.seldon), ports are SELDON_REST_PORT, SELDON_GRPC_PORT,
    SELDON_ADMIN_PORT, SELDON_CONTROL_PORT; docs/kubernetes.md has a cluster's settings.
    """
    for variable, answer in (_IN_CLUSTER if at.in_cluster else _HERE).items():
        if value := os.environ.get(variable):
            # Not a password's value.
            shown = variable if variable.startswith("DB_") else f"{variable}={value}"
            say(f"{shown}: {answer}")
    if at.in_cluster:
        # Not at the top: one machine needs no client of Kubernetes.
        from deploy.kubernetes import deployment

        deployment.bring_up(os.environ, at.context)
        return
    local = LocalStack(home_from_env(os.environ))
    local.files.prepare()
    with lock(local.home):
        started = bring_up(local, os.environ)
    gateway = StackSettings.of_stack(local.files, os.environ).gateway
    host = gateway_host(gateway)
    say("the gateway is ready" if started else "the gateway runs already: nothing was changed")
    say(f"REST http://{host}:{gateway.rest_port}, gRPC {host}:{gateway.grpc_port}")


@click.command("seldon-down", cls=StackCommand)
@click.option("--purge", is_flag=True, help="Remove the data too: clients, keys, logs, volumes.")
@target_options
@debug_option
def seldon_down(purge: bool, at: Where) -> None:
    """Stop all of the stack, microservices and load tests too; clients and keys stay."""
    if at.in_cluster:
        # Not at the top: one machine needs no client of Kubernetes.
        from deploy.kubernetes import deployment

        deployment.take_down(os.environ, at.context, purge=purge)
        return
    take_down(home_from_env(os.environ), purge)
