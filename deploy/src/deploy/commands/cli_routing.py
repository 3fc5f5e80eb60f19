"""`seldon-cli routing`: the registry's routing, for commands on another machine."""

import json
import os
import sys

import click

from deploy import assignments, envoy_view
from deploy.errors import MicroserviceRefused, SettingInvalid
from deploy.operator_view import operator
from deploy.settings import StackSettings
from deploy.state_folder import StateFolder


@click.command("routing", hidden=True)
@click.option("--action", required=True, type=click.Choice(["show", "move", "versions"]))
@click.pass_obj
def routing(files: StateFolder, action: str) -> None:
    """Print every client's variations as JSON; `move` reads old and new ones from stdin.

    `versions` prints the xDS versions of an up-to-date Envoy.
    """
    with operator(files, os.environ) as it:
        if action == "versions":
            settings = StackSettings.of_stack(files, os.environ).gateway
            click.echo(json.dumps(envoy_view.newest_versions(it.registry, settings)))
            return
        now = assignments.read(it.registry)
        if action == "move":
            before, after = _two_lines()
            if now != before:
                raise MicroserviceRefused(
                    "another command changed the clients' variations meanwhile; run this one again"
                )
            assignments.move(it.registry, before, after)
            now = assignments.read(it.registry)
        click.echo(assignments.to_json(now))


def _two_lines() -> tuple[assignments.Assignments, assignments.Assignments]:
    try:
        before, after = sys.stdin.read().splitlines()
        return assignments.from_json(before), assignments.from_json(after)
    except ValueError as error:
        raise SettingInvalid(
            f"stdin of --action move is not two lines as --action show prints them: {error}"
        ) from None
