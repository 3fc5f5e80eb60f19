"""`seldon-cli client`, `keys` and `db`."""

import json
import os
from dataclasses import asdict

import click

from deploy.databases import Databases
from deploy.errors import SettingInvalid
from deploy.operator_view import Operator, operator
from deploy.state_folder import StateFolder
from seldon_gateway.registry import SCOPE_ALL, SCOPES

_NOT_HERE = {
    "processactions": "prepares data for recommendations, which are not part of this product",
    "processevents": "prepares data for recommendations, which are not part of this product",
}
_NOTHING_TO_DO = {
    "zk_push": "nothing to push: clients are stored in the registry alone",
    "zk_pull": "nothing to pull: clients are stored in the registry alone",
}


@click.command("client")
@click.option(
    "--action",
    default="list",
    show_default=True,
    type=click.Choice(
        ["list", "setup", "enable", "disable", "remove", *_NOT_HERE, *_NOTHING_TO_DO]
    ),
)
@click.option("--db-name", help="A database of `seldon-cli db`, such as ClientDB.")
@click.option("--client-name")
@click.option("--input-date-string", hidden=True)
@click.option("--set-js-key", help="Consumer key of scope js.  [default: random]")
@click.option("--set-all-key", help="Consumer key of scope all.  [default: random]")
@click.option("--set-all-secret", help="Consumer secret of scope all.  [default: random]")
@click.pass_obj
def client(
    files: StateFolder,
    action: str,
    db_name: str | None,
    client_name: str | None,
    input_date_string: str | None,
    set_js_key: str | None,
    set_all_key: str | None,
    set_all_secret: str | None,
) -> None:
    """List, set up, enable, disable or remove clients."""
    if action in _NOT_HERE:
        raise SettingInvalid(f"--action {action} is not supported: it {_NOT_HERE[action]}")
    if action in _NOTHING_TO_DO:
        click.echo(_NOTHING_TO_DO[action])
        return
    with operator(files, os.environ) as it:
        if action == "list":
            _list(it)
            return
        if client_name is None:
            raise SettingInvalid(f"--action {action} needs --client-name")
        if action == "setup":
            if db_name is None:
                raise SettingInvalid("--action setup needs --db-name, such as ClientDB")
            Databases(files.home).check_known(db_name)
            made = it.setup_client(client_name, db_name, set_js_key, set_all_key, set_all_secret)
            click.echo(
                f"client {client_name} is set up on {db_name}"
                if made
                else f"client {client_name} was set up before: nothing was changed"
            )
            _show_keys(it, client_name)
        elif action == "remove":
            it.remove_client(client_name)
            click.echo(f"client {client_name} is removed")
        else:
            it.registry.set_client_active(client_name, action == "enable")
            click.echo(f"client {client_name} is {action}d")


@click.command("keys")
@click.option("--action", default="list", show_default=True, type=click.Choice(["list", "update"]))
@click.option("--client-name")
@click.option("--scope", type=click.Choice(SCOPES))
@click.option("--key", help="The new key.")
@click.option("--secret", help="The new secret, for scope all.")
@click.pass_obj
def keys(
    files: StateFolder,
    action: str,
    client_name: str | None,
    scope: str | None,
    key: str | None,
    secret: str | None,
) -> None:
    """List keys and secrets as a JSON array on one line, or update a key."""
    with operator(files, os.environ) as it:
        if action == "update":
            if client_name is None or key is None or scope is None:
                raise SettingInvalid("--action update needs --client-name, --scope and --key")
            if scope == SCOPE_ALL and not secret:
                raise SettingInvalid("--action update --scope all needs --secret")
            it.update_key(client_name, scope, key, secret or "")
        elif client_name is not None:
            it.registry.get_client(client_name)
        click.echo(json.dumps([asdict(row) for row in it.keys(client_name, scope)]))


@click.command("db")
@click.option(
    "--action",
    default="show",
    show_default=True,
    type=click.Choice(["show", "list", "setup", "commit"]),
)
@click.option("--db-name")
@click.option("--db-user")
@click.option("--db-password", help="Accepted and not stored.")
@click.option("--db-jdbc")
@click.pass_obj
def db(
    files: StateFolder,
    action: str,
    db_name: str | None,
    db_user: str | None,
    db_password: str | None,
    db_jdbc: str | None,
) -> None:
    """Show or edit the names of the databases that clients refer to."""
    files.require()
    databases = Databases(files.home)
    if action == "list":
        for entry in databases.working():
            click.echo(entry.name)
    elif action == "show":
        entries = [asdict(entry) for entry in databases.working() if db_name in (None, entry.name)]
        click.echo(json.dumps({"dbs": entries}, indent=4, sort_keys=True))
    elif action == "setup":
        if db_name is None:
            raise SettingInvalid("--action setup needs --db-name")
        databases.setup(db_name, db_user, db_jdbc)
        click.echo(f"database {db_name} is set up; run --action commit to apply it")
    else:
        databases.commit()
        click.echo("the databases are committed")


def _list(it: Operator) -> None:
    clients = it.registry.list_clients()
    if not clients:
        click.echo("there are no clients")
    for row in clients:
        click.echo(f"client[{row.name}]:" + ("" if row.active else " (disabled)"))
        click.echo(f"    DB_JNDI_NAME: {row.db_name}")


def _show_keys(it: Operator, client_name: str) -> None:
    for row in it.keys(client_name):
        click.echo(f"    {row.scope} key: {row.key}")
        if row.secret:
            click.echo(f"    {row.scope} secret: {row.secret}")
