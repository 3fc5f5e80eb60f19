"""`seldon-up` and `seldon-down`: start the gateway, stop the stack."""

import os

import click

from deploy.commands.base import StackCommand, debug_option, target_options
from deploy.console import say
from deploy.lifecycle import bring_up, take_down
from deploy.local import LocalStack
from deploy.locking import lock
from deploy.settings import StackSettings, gateway_host, home_from_env
from deploy.stack_target import StackTarget

_SPARK = "ignored; Spark is not part of this stack"
# Variables of the original's seldon-up that are ignored, and what to set instead.
_HERE = {
    "SELDON_WITH_SPARK": _SPARK,
    "SELDON_WITH_GLUSTERFS": "ignored; models are read from folders of this machine",
    "GOOGLE_CLOUDSQL": "ignored; set SELDON_DATABASE_URL to use an external database",
}
_IN_CLUSTER = {
    "SELDON_WITH_SPARK": _SPARK,
    "SELDON_WITH_GLUSTERFS": (
        "ignored; Kubernetes removed GlusterFS in 1.26, set K8S_STORAGE_CLASS or DATA_VOLUME "
        "(nfs, hostPath, a claim) instead"
    ),
    "GOOGLE_CLOUDSQL": "ignored; set SELDON_DATABASE_URL to use an external database",
    "DB_USER": "ignored; the user is part of SELDON_DATABASE_URL",
    "DB_PASSWORD": "ignored; the password is part of SELDON_DATABASE_URL",
}


@click.command("seldon-up", cls=StackCommand)
@target_options
@debug_option
def seldon_up(target: StackTarget) -> None:
    """Start the gateway on this machine or in a cluster; a running one is left unchanged.

    On this machine SELDON_HOME (./.seldon) holds the state, and SELDON_REST_PORT,
    SELDON_GRPC_PORT, SELDON_ADMIN_PORT and SELDON_CONTROL_PORT set the ports.
    docs/kubernetes.md lists the settings of a cluster.
    """
    for variable, answer in (_IN_CLUSTER if target.in_cluster else _HERE).items():
        if value := os.environ.get(variable):
            # Not a password's value.
            shown = variable if variable.startswith("DB_") else f"{variable}={value}"
            say(f"{shown}: {answer}")
    if target.in_cluster:
        # Imported on use: one machine needs no kubernetes package.
        from deploy.kubernetes import deployment

        deployment.bring_up(os.environ, target.context)
        return
    local = LocalStack(home_from_env(os.environ))
    local.files.prepare()
    with lock(local.home):
        started = bring_up(local, os.environ)
    gateway = StackSettings.of_stack(local.files, os.environ).gateway
    host = gateway_host(gateway)
    say(
        "the gateway is ready" if started else "the gateway is already running: nothing was changed"
    )
    say(f"REST http://{host}:{gateway.rest_port}, gRPC {host}:{gateway.grpc_port}")


@click.command("seldon-down", cls=StackCommand)
@click.option("--purge", is_flag=True, help="Remove the data too: clients, keys, logs, volumes.")
@target_options
@debug_option
def seldon_down(purge: bool, target: StackTarget) -> None:
    """Stop the whole stack, with microservices and load tests; clients and keys are kept."""
    if target.in_cluster:
        # Imported on use: one machine needs no kubernetes package.
        from deploy.kubernetes import deployment

        deployment.take_down(os.environ, target.context, purge=purge)
        return
    take_down(home_from_env(os.environ), purge)
