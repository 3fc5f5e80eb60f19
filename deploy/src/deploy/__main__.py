"""`python -m deploy deploy | undeploy | status | … | manifests`: what the Makefile calls."""

import os
from pathlib import Path

import click

from deploy import deployment
from deploy.commands.base import LazyStackGroup, StackCommand, debug_option
from deploy.lifecycle import take_down
from deploy.local import LocalStack
from deploy.settings import home_from_env

_ELSEWHERE = {
    "compose": "deploy.commands.compose:main",
    "images": "deploy.commands.images:build",
    "kubernetes": "deploy.commands.kubernetes:main",
    "logs": "deploy.commands.status:show_logs",
    "manifests": "deploy.commands.manifests:write_manifests",
    "status": "deploy.commands.status:show_status",
}


@click.group("deploy", cls=LazyStackGroup, elsewhere=_ELSEWHERE)
def main() -> None:
    """Operate the stack: a gateway, and the model deep MNIST over REST and gRPC.

    The commands act on this machine; `compose` and `kubernetes` have those for
    containers and for a cluster.
    """


@main.command("deploy", cls=StackCommand)
@click.option(
    "--model-folder",
    type=click.Path(path_type=Path),
    default=deployment.MODEL_FOLDER,
    show_default=True,
)
@debug_option
def deploy(model_folder: Path) -> None:
    """Start the stack and check a prediction over each protocol.

    A running stack is only checked.
    """
    local = LocalStack(home_from_env(os.environ))
    deployment.deploy(local, os.environ, model_folder.absolute())


@main.command("undeploy", cls=StackCommand)
@click.option("--purge", is_flag=True, help="Remove SELDON_HOME too: clients, keys, logs.")
@debug_option
def undeploy(purge: bool) -> None:
    """Stop every process of the stack; clients and keys are kept."""
    take_down(home_from_env(os.environ), purge)


if __name__ == "__main__":
    main()
