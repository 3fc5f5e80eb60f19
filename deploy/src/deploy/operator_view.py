"""The gateway's registry together with the operator's copy of the secrets."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from deploy.settings import StackSettings
from deploy.state_folder import StateFolder
from seldon_gateway.operator_secrets import OperatorSecrets
from seldon_gateway.registry import SCOPE_ALL, SCOPE_JS, Registry

_SECRETS_FOLDER = "secrets"


@dataclass(frozen=True)
class Key:
    """One consumer as `seldon-cli keys` prints it; a JS key's secret is empty."""

    db: str
    client: str
    key: str
    secret: str
    scope: str


@dataclass(frozen=True)
class Credentials:
    """The keys and the secret of a client."""

    js_key: str
    all_key: str
    all_secret: str


@dataclass(frozen=True)
class Operator:
    """Registry and secrets of one stack."""

    registry: Registry
    secrets: OperatorSecrets

    def setup_client(
        self,
        name: str,
        db_name: str,
        js_key: str | None = None,
        all_key: str | None = None,
        all_secret: str | None = None,
    ) -> bool:
        """Register a client and keep its secret; False when it is there already.

        Raises:
            InvalidName: A name or key is not of its form, or the key is taken.
        """
        made = self.registry.setup_client(name, db_name, js_key, all_key, all_secret)
        if made.secret is not None:
            self.secrets.store(name, made.all_key, made.secret)
        return made.created

    def remove_client(self, name: str) -> None:
        """Forget a client, its keys and its secret.

        Raises:
            UnknownClient: No client of that name.
        """
        self.registry.remove_client(name)
        self.secrets.forget(name)

    def update_key(self, client: str, scope: str, key: str, secret: str) -> None:
        """Give a client's consumer of one scope another key, and secret.

        Raises:
            UnknownClient: No client of that name.
            InvalidName: The key is not of its form or taken.
        """
        self.registry.update_key(client, scope, key, secret or None)
        if scope == SCOPE_ALL:
            self.secrets.store(client, key, secret)

    def keys(self, client: str | None = None, scope: str | None = None) -> list[Key]:
        """Consumers by client and scope; a secret that was made elsewhere is empty."""
        consumers = self.registry.list_keys(client, scope)
        # One client's keys cost the same however many clients there are.
        clients = self.registry.list_clients() if client is None else []
        if client is not None and consumers:
            clients = [self.registry.get_client(client)]
        databases = {row.name: row.db_name for row in clients}
        return [
            Key(
                db=databases.get(row.client, ""),
                client=row.client,
                key=row.consumer_key,
                secret=self.secrets.find(row.client, row.consumer_key)
                if row.scope == SCOPE_ALL
                else "",
                scope=row.scope,
            )
            for row in consumers
        ]

    def credentials(self, client: str) -> Credentials:
        """A client's first key of each scope.

        Raises:
            UnknownClient: No client of that name.
        """
        self.registry.get_client(client)
        by_scope = {key.scope: key for key in reversed(self.keys(client))}
        js_key, all_key = by_scope[SCOPE_JS], by_scope[SCOPE_ALL]
        return Credentials(js_key.key, all_key.key, all_key.secret)


@contextmanager
def operator(files: StateFolder, environ: Mapping[str, str]) -> Iterator[Operator]:
    """Open the registry of the stack whose files these are, running or not.

    Raises:
        StackNotRunning: There never was one.
        RegistryUnavailable: The database cannot be reached.
        SettingInvalid: Names the variable, its value and what was expected.
    """
    files.require()
    settings = StackSettings.of_stack(files, environ).gateway
    registry = Registry.open(settings.database_url)
    try:
        yield Operator(registry, OperatorSecrets(files.home / _SECRETS_FOLDER))
    finally:
        registry.close()
