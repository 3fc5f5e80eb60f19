"""`seldon-cli predict_alg`: which microservices serve a client, as a document."""

import json
import os
from typing import Any, TextIO

import click

from deploy.errors import SettingInvalid
from deploy.operator_view import operator
from deploy.state_folder import StateFolder

PREDICTORS = ["externalPredictionServer", "rpcPredictionServer"]


@click.command("predict_alg")
@click.option("--action", required=True, type=click.Choice(["list", "show", "create", "commit"]))
@click.option("--client-name")
@click.option("--predictor-name", hidden=True)
@click.option("--config", hidden=True)
@click.option(
    "-f", "--json-file", type=click.File(), help="Strategy document for create; - reads stdin."
)
@click.pass_obj
def predict_alg(
    files: StateFolder,
    action: str,
    client_name: str | None,
    predictor_name: str | None,
    config: str | None,
    json_file: TextIO | None,
) -> None:
    """Show, create or commit a client's strategy."""
    if action == "list":
        for predictor in PREDICTORS:
            click.echo(predictor)
        return
    if client_name is None:
        raise SettingInvalid(f"--action {action} needs --client-name")
    with operator(files, os.environ) as it:
        if action == "show":
            document = it.registry.draft(client_name) or it.registry.committed_strategy(client_name)
            click.echo(json.dumps(document or {"algorithms": []}, indent=4, sort_keys=True))
        elif action == "create":
            if json_file is None:
                raise SettingInvalid("--action create needs -f FILE, or -f - for stdin")
            it.registry.draft_strategy(client_name, _document(json_file))
            click.echo(f"created the strategy of {client_name}; run --action commit to serve it")
        else:
            it.registry.commit_strategy(client_name)
            click.echo(f"committed the strategy of {client_name}")


def _document(json_file: TextIO) -> dict[str, Any]:
    try:
        document = json.load(json_file)
    except ValueError as error:
        raise SettingInvalid(f"{json_file.name} is not valid JSON: {error}") from None
    if not isinstance(document, dict):
        raise SettingInvalid(f"{json_file.name} is not a JSON object")
    return document
