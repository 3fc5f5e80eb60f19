"""`start-microservice` and `stop-microservice`: model servers in and out of service."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import click

from deploy.commands.base import StackCommand, debug_option
from deploy.console import say
from deploy.errors import MicroserviceRefused
from deploy.local import LocalStack
from deploy.locking import lock
from deploy.microservices import Api, check_name, check_replicas, parse_wanted
from deploy.operator_view import operator
from deploy.rollout import Rollout
from deploy.settings import StackSettings, home_from_env

_ENTRY = (str, str, str, str)


@click.command("start-microservice", cls=StackCommand)
@click.option("--type", "kind", required=True, type=click.Choice(["recommendation", "prediction"]))
@click.option("--client", required=True, help="Whose traffic the microservices serve.")
@click.option(
    "-i",
    "images",
    multiple=True,
    type=_ENTRY,
    metavar="NAME IMAGE rest|rpc RATIO",
    help="A microservice from an image; needs containers.",
)
@click.option(
    "-p",
    "pipelines",
    multiple=True,
    type=_ENTRY,
    metavar="NAME FOLDER rest|rpc RATIO",
    help="A microservice from a model folder; may repeat for an A/B test.",
)
@click.option("--replicas", default=1, show_default=True, help="Server process groups for each.")
@debug_option
def start_microservice(
    kind: str,
    client: str,
    images: tuple[tuple[str, str, str, str], ...],
    pipelines: tuple[tuple[str, str, str, str], ...],
    replicas: int,
) -> None:
    """Serve a client's predictions by microservices, each with its RATIO of the traffic.

    The ratios of each API sum to 1. New servers are ready before the old ones stop; when one
    cannot start, everything stays as it was.
    """
    if kind == "recommendation":
        raise MicroserviceRefused(
            "recommendation microservices are not part of this product: use --type prediction"
        )
    if images:
        raise MicroserviceRefused(
            f"microservice {images[0][0]}: images (-i) need containers, which this machine's stack "
            "does not use: give a model folder with -p"
        )
    wanted = parse_wanted(pipelines)
    check_replicas(replicas)
    with _rollout() as rollout:
        if rollout.start(client, wanted, replicas, os.environ):
            for entry in wanted:
                say(
                    f"{entry.name} serves {entry.ratio:g} of the {entry.api} traffic of "
                    f"client {client}"
                )
        else:
            say(f"client {client} is served so already: nothing was changed")


@click.command("stop-microservice", cls=StackCommand)
@click.argument("name")
@click.argument("api", required=False, type=click.Choice([it.value for it in Api]))
@debug_option
def stop_microservice(name: str, api: str | None) -> None:
    """Stop the microservice NAME, of one API or of both.

    A client that has only this one for an API has none then. One that shares a client's traffic
    with others is refused: give its share to others first.
    """
    check_name(name)
    with _rollout() as rollout:
        rollout.stop(name, [Api(api)] if api else list(Api))
    say(f"{name} is stopped")


@contextmanager
def _rollout() -> Iterator[Rollout]:
    local = LocalStack(home_from_env(os.environ))
    local.require_running()
    with lock(local.home), operator(local.files, os.environ) as it:
        settings = StackSettings.of_stack(local.files, os.environ)
        yield Rollout(local, settings, it.registry)
