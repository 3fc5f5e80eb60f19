"""`start-microservice` and `stop-microservice`: start and stop model servers."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import click

from deploy.commands.base import StackCommand, debug_option, target_options
from deploy.console import say
from deploy.errors import MicroserviceRefused
from deploy.local import LocalStack
from deploy.locking import lock
from deploy.microservices import (
    Api,
    Entry,
    Wanted,
    check_name,
    check_replicas,
    parse_entries,
    parse_wanted,
)
from deploy.operator_view import operator
from deploy.rollout import Rollout
from deploy.settings import StackSettings, home_from_env
from deploy.stack_target import StackTarget

_ENTRY = (str, str, str, str)


@click.command("start-microservice", cls=StackCommand)
@click.option("--type", "kind", required=True, type=click.Choice(["recommendation", "prediction"]))
@click.option("--client", required=True, help="Client that the microservices serve.")
@click.option(
    "-i",
    "images",
    multiple=True,
    type=_ENTRY,
    metavar="NAME IMAGE rest|rpc RATIO",
    help="Microservice from an image with server and model, in a cluster; may repeat.",
)
@click.option(
    "-p",
    "pipelines",
    multiple=True,
    type=_ENTRY,
    metavar="NAME FOLDER rest|rpc RATIO",
    help="Microservice from a model folder, on this machine or on the cluster's volume; may "
    "repeat for an A/B test.",
)
@click.option(
    "--replicas", type=int, help="Server process groups, or pods, per microservice.  [default: 1]"
)
@target_options
@debug_option
def start_microservice(
    kind: str,
    client: str,
    images: tuple[tuple[str, str, str, str], ...],
    pipelines: tuple[tuple[str, str, str, str], ...],
    replicas: int | None,
    target: StackTarget,
) -> None:
    """Serve a client with microservices, each with its RATIO of the traffic.

    The ratios of each API sum to 1. Old servers stop after the new ones are ready; when a new one
    fails to start, nothing changes.
    """
    if kind == "recommendation":
        raise MicroserviceRefused(
            "--type is recommendation, expected prediction; this product has no recommendations"
        )
    if replicas is not None:
        check_replicas(replicas)
    if target.in_cluster:
        # Imported on use: one machine needs no kubernetes package.
        from deploy.kubernetes import deployment

        entries = parse_entries([*images, *pipelines])
        changed = deployment.start(
            client,
            entries[: len(images)],
            entries[len(images) :],
            replicas,
            os.environ,
            target.context,
        )
        _report(client, entries, changed)
        return
    if images:
        raise MicroserviceRefused(
            f"microservice {images[0][0]}: images (-i) are not supported on this machine, "
            "where the stack runs without containers; give a model folder with -p"
        )
    wanted = parse_wanted(pipelines)
    with _rollout() as rollout:
        _report(client, wanted, rollout.start(client, wanted, replicas or 1, os.environ))


def _report(client: str, wanted: Sequence[Wanted | Entry], changed: bool) -> None:
    if not changed:
        say(f"client {client} is already served like this: nothing was changed")
        return
    for entry in wanted:
        say(f"{entry.name} serves {entry.ratio:g} of the {entry.api} traffic of client {client}")


@click.command("stop-microservice", cls=StackCommand)
@click.argument("name")
@click.argument("api", required=False, type=click.Choice([it.value for it in Api]))
@target_options
@debug_option
def stop_microservice(name: str, api: str | None, target: StackTarget) -> None:
    """Stop the microservice NAME, for one API or for both.

    Fails if the microservice shares a client's traffic with others: change their ratios first. A
    client that has no other microservice for an API is left without one.
    """
    check_name(name)
    apis = [Api(api)] if api else list(Api)
    if target.in_cluster:
        # Imported on use: one machine needs no kubernetes package.
        from deploy.kubernetes import deployment

        deployment.stop(name, apis, os.environ, target.context)
    else:
        with _rollout() as rollout:
            rollout.stop(name, apis)
    say(f"stopped {name}")


@contextmanager
def _rollout() -> Iterator[Rollout]:
    local = LocalStack(home_from_env(os.environ))
    local.require_running()
    with lock(local.home), operator(local.files, os.environ) as it:
        settings = StackSettings.of_stack(local.files, os.environ)
        yield Rollout(local, settings, it.registry)
