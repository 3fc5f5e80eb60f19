"""`seldon-cli api`, the built-in test client, and the commands that have nothing to do here."""

import json
import os
from collections.abc import Iterator
from typing import Any

import click
import requests

from deploy import check
from deploy.errors import SettingInvalid, StackNotRunning
from deploy.operator_view import operator
from deploy.probes import loopback_session
from deploy.settings import StackSettings, gateway_host
from deploy.state_folder import StateFolder

_TIMEOUT_S = 30.0
_CALLBACK = "j"
_LEAST_ERROR_STATUS = 400


@click.command("api")
@click.option("--client-name", required=True)
@click.option("--endpoint", required=True, help="/js/predict (JS key) or /predict (token).")
@click.option("--method", default=None, type=click.Choice(["GET", "POST"]))
@click.option("--json", "document", help='The document to score: {"data": [...]}.')
@click.pass_context
def api(
    context: click.Context,
    client_name: str,
    endpoint: str,
    method: str | None,
    document: str | None,
) -> int:
    """Call the gateway as a client: prints its answer; status 1 when that is an error."""
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
            answer = _ask(session, method or "GET", url, **place)
        else:
            headers = {
                "Authorization": f"Bearer {check.access_token(gateway, shown)}",
                "Content-Type": "application/json",
            }
            answer = _ask(session, method or "POST", url, headers=headers, data=document or "")
    if not context.meta["quiet"]:
        click.echo(f"response code {answer.status_code}")
    text = answer.text
    if text.startswith(f"{_CALLBACK}("):
        text = text.removeprefix(f"{_CALLBACK}(").removesuffix(")")
    click.echo(text)
    return 1 if answer.status_code >= _LEAST_ERROR_STATUS or "error_id" in text else 0


def unneeded_commands() -> Iterator[click.Command]:
    """Commands of the original that are answered in a sentence."""
    yield _answering("memcached", "no memcached is needed: nothing to set up", works=True)
    yield _answering(
        "rpc",
        "custom request classes are not supported: send a DefaultCustomPredictRequest",
        works=False,
    )
    for name in ("attr", "import", "rec_alg", "rec_exp", "model"):
        yield _answering(
            name,
            f"{name} is about recommendations, which are not part of this product",
            works=False,
        )


def _answering(name: str, sentence: str, *, works: bool) -> click.Command:
    @click.command(
        name, hidden=True, context_settings={"ignore_unknown_options": True}, help=sentence
    )
    @click.argument("words", nargs=-1, type=click.UNPROCESSED)
    def command(words: tuple[str, ...]) -> None:
        if not works:
            raise SettingInvalid(sentence)
        click.echo(sentence)

    return command


def _ask(session: requests.Session, method: str, url: str, **how: Any) -> requests.Response:
    try:
        return session.request(method, url, timeout=_TIMEOUT_S, **how)
    except requests.RequestException as error:
        # Not the error itself: it names the URL, and with it the key.
        raise StackNotRunning(
            f"the gateway does not answer ({type(error).__name__}): is it up? See `make status`"
        ) from None


def _check_document(document: str | None) -> None:
    try:
        json.loads(document or "null")
    except ValueError as error:
        raise SettingInvalid(f"--json is no JSON: {error}") from None
