"""`seldon-cli routing` and `check`: what commands on another machine ask of the registry's."""

import dataclasses
import json
import os
import sys

import click

from deploy import assignments, check, envoy_view
from deploy.errors import MicroserviceRefused, SettingInvalid
from deploy.microservices import Api
from deploy.operator_view import operator
from deploy.settings import StackSettings
from deploy.state_folder import StateFolder


@click.command("routing", hidden=True)
@click.option("--action", required=True, type=click.Choice(["show", "move", "versions"]))
@click.pass_obj
def routing(files: StateFolder, action: str) -> None:
    """Every client's variations as JSON; `move`: from the first line of stdin to the second.

    `versions`: what an Envoy has when it has the newest of all.
    """
    with operator(files, os.environ) as it:
        if action == "versions":
            timeout_s = StackSettings.of_stack(files, os.environ).gateway.timeout_s
            click.echo(json.dumps(envoy_view.newest_versions(it.registry, timeout_s)))
            return
        now = assignments.read(it.registry)
        if action == "move":
            before, after = _two_lines()
            if now != before:
                raise MicroserviceRefused(
                    "somebody else changed the clients' variations at the same time: run it again"
                )
            assignments.move(it.registry, before, after)
            now = assignments.read(it.registry)
        click.echo(assignments.to_json(now))


@click.command("check")
@click.option("--client-name", required=True)
@click.option("--gateway", help="HOST of the gateway; that of this machine's stack.")
@click.option("--rest-port", type=int, help="Likewise.")
@click.option("--grpc-port", type=int, help="Likewise.")
@click.pass_obj
def check_client(
    files: StateFolder,
    client_name: str,
    gateway: str | None,
    rest_port: int | None,
    grpc_port: int | None,
) -> None:
    """Predict one real digit over each protocol that serves the client."""
    settings = StackSettings.of_stack(files, os.environ).gateway
    settings = dataclasses.replace(
        settings,
        bind=gateway or settings.bind,
        rest_port=rest_port or settings.rest_port,
        grpc_port=grpc_port or settings.grpc_port,
    )
    with operator(files, os.environ) as it:
        shown = it.credentials(client_name)
        strategy = it.registry.strategy(client_name)
    served = [api for api in Api if strategy.of(api.protocol)]
    if not served:
        raise MicroserviceRefused(
            f"client {client_name} has no microservice: start one with start-microservice"
        )
    for api in served:
        click.echo(check.prediction(api, settings, shown))


def _two_lines() -> tuple[assignments.Assignments, assignments.Assignments]:
    try:
        before, after = sys.stdin.read().splitlines()
        return assignments.from_json(before), assignments.from_json(after)
    except ValueError as error:
        raise SettingInvalid(
            f"--action move reads two lines as --action show prints them: {error}"
        ) from None
