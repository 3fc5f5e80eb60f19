"""`seldon-cli api`, the built-in test client, and `check`, which sends a test prediction."""

import dataclasses
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
import requests

from deploy import check
from deploy.errors import MicroserviceRefused, SettingInvalid, StackNotRunning
from deploy.microservices import Api
from deploy.operator_view import operator
from deploy.probes import loopback_session
from deploy.settings import StackSettings, gateway_host
from deploy.state_folder import StateFolder
from serving_core import ModelFolderInvalid, read_model_folder

_TIMEOUT_S = 30.0
_CALLBACK = "j"
_LEAST_ERROR_STATUS = 400


@click.command("api")
@click.option("--client-name", required=True)
@click.option("--endpoint", required=True, help="Path: /js/predict (JS key) or /predict (token).")
@click.option("--method", default=None, type=click.Choice(["GET", "POST"]))
@click.option("--json", "document", help='Request document: {"data": [...]}.')
@click.pass_context
def api(
    context: click.Context,
    client_name: str,
    endpoint: str,
    method: str | None,
    document: str | None,
) -> int:
    """Send a request as a client and print the response; exit with status 1 on an error."""
    files: StateFolder = context.obj
    if not endpoint.startswith("/"):
        raise SettingInvalid(f"--endpoint is {endpoint!r}, expected a path such as /js/predict")
    _check_document(document)
    gateway = StackSettings.of_stack(files, os.environ).gateway
    with operator(files, os.environ) as it:
        shown = it.credentials(client_name)
    url = f"http://{gateway_host(gateway)}:{gateway.rest_port}{endpoint}"
    with loopback_session() as session:
        if endpoint.startswith("/js/"):
            fields = {"consumer_key": shown.js_key, "jsonpCallback": _CALLBACK}
            fields |= {"json": document} if document is not None else {}
            place = {"data": fields} if method == "POST" else {"params": fields}
            answer = _request(session, method or "GET", url, **place)
        else:
            headers = {
                "Authorization": f"Bearer {check.access_token(gateway, shown)}",
                "Content-Type": "application/json",
            }
            answer = _request(session, method or "POST", url, headers=headers, data=document or "")
    if not context.meta["quiet"]:
        click.echo(f"response code {answer.status_code}")
    text = answer.text
    if text.startswith(f"{_CALLBACK}("):
        text = text.removeprefix(f"{_CALLBACK}(").removesuffix(")")
    click.echo(text)
    return 1 if answer.status_code >= _LEAST_ERROR_STATUS or "error_id" in text else 0


@click.command("check")
@click.option("--client-name", required=True)
@click.option("--gateway", help="Host of the gateway.  [default: this machine's]")
@click.option("--rest-port", type=int, help="REST port.  [default: this stack's]")
@click.option("--grpc-port", type=int, help="gRPC port.  [default: this stack's]")
@click.pass_obj
def check_client(
    files: StateFolder,
    client_name: str,
    gateway: str | None,
    rest_port: int | None,
    grpc_port: int | None,
) -> None:
    """Send a test prediction over each API that serves the client: a digit, or an example."""
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
            f"client {client_name} has no microservice; start one with start-microservice"
        )
    for api in served:
        name = strategy.of(api.protocol)[0].label
        record = files.microservice(name, api)
        model = None
        if record is not None and gateway is None:
            with suppress(ModelFolderInvalid):  # removed since
                model = read_model_folder(Path(record.folder)).info
        click.echo(check.prediction(api, settings, shown, name, model))


def _request(session: requests.Session, method: str, url: str, **how: Any) -> requests.Response:
    try:
        return session.request(method, url, timeout=_TIMEOUT_S, **how)
    except requests.RequestException as error:
        # Not the error itself: its URL holds the key.
        raise StackNotRunning(
            f"the gateway does not respond ({type(error).__name__}); check it with `make status`"
        ) from None


def _check_document(document: str | None) -> None:
    try:
        json.loads(document or "null")
    except ValueError as error:
        raise SettingInvalid(f"--json is not valid JSON: {error}") from None
