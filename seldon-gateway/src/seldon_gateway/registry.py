"""The registry of clients, their keys and their strategies, in SQLite or PostgreSQL.

Every change increments the revision in its transaction, so a reader polls that one number and reads
the rest only after it has changed.
"""

import re
import secrets as random
import sqlite3
import string
import time
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from operator import itemgetter
from typing import Any

import orjson
from sqlalchemy import (
    JSON,
    ForeignKey,
    String,
    cast,
    create_engine,
    delete,
    event,
    func,
    select,
    update,
)
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, IntegrityError, SQLAlchemyError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.schema import CreateIndex, CreateTable
from werkzeug.security import check_password_hash, generate_password_hash

from seldon_gateway import strategies
from seldon_gateway.errors import InvalidName, RegistryUnavailable, UnknownClient
from seldon_gateway.strategies import Protocol, Strategy, Variation

SCOPE_JS, SCOPE_ALL = "js", "all"
SCOPES = (SCOPE_JS, SCOPE_ALL)

_CLIENT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,24}")
_KEY = re.compile(r"[A-Za-z0-9_-]{1,50}")
_KEY_ALPHABET = string.ascii_uppercase + string.digits
_KEY_LENGTH = 20  # 103 bits
# A tenth of the usual cost: our secrets are random, and /token must not be a way to exhaust CPU.
_HASH_METHOD = "scrypt:4096:8:1"
_BUSY_TIMEOUT_S = 10
# A reader that is further behind reads everything.
_KEPT_CHANGES = 10_000
# In one query: SQLite limits its parameters.
_CHANGES_AT_ONCE = 500
_MAKE_TABLES_LOCK = 7_356_366  # any number that others do not use in the same database


class _Base(DeclarativeBase):
    pass


class _Revision(_Base):
    __tablename__ = "revision"
    id: Mapped[int] = mapped_column(primary_key=True)
    value: Mapped[int]


class _Changed(_Base):
    """The client of each recent change, so that readers fetch only what changed."""

    __tablename__ = "changed"
    revision: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    client: Mapped[str] = mapped_column(String(25))


class _Client(_Base):
    __tablename__ = "client"
    name: Mapped[str] = mapped_column(String(25), primary_key=True)
    db_name: Mapped[str] = mapped_column(String(75))
    active: Mapped[bool]
    created: Mapped[datetime]
    committed: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    draft: Mapped[dict[str, Any] | None] = mapped_column(JSON)


class _Consumer(_Base):
    __tablename__ = "consumer"
    consumer_key: Mapped[str] = mapped_column(String(50), primary_key=True)
    secret_hash: Mapped[str] = mapped_column(String(255))
    name: Mapped[str] = mapped_column(String(75))
    short_name: Mapped[str] = mapped_column(
        ForeignKey("client.name", ondelete="CASCADE"), index=True
    )
    created: Mapped[datetime]
    active: Mapped[bool]
    scope: Mapped[str] = mapped_column(String(25))


@dataclass(frozen=True)
class Client:
    """A tenant of the gateway."""

    name: str
    db_name: str
    active: bool


@dataclass(frozen=True)
class Consumer:
    """One credential of a client; `secret_hash` is "" for a JS key, which has no secret."""

    consumer_key: str
    client: str
    scope: str
    active: bool
    secret_hash: str

    def secret_matches(self, secret: str) -> bool:
        """Whether `secret` is this consumer's, in constant time."""
        return bool(self.secret_hash) and check_password_hash(self.secret_hash, secret)


@dataclass(frozen=True)
class SetupResult:
    """A client's credentials; `secret` only if this call created them."""

    created: bool
    js_key: str
    all_key: str
    secret: str | None


@dataclass(frozen=True)
class ServedClient:
    """An active client as the gateway routes it."""

    name: str
    js_keys: tuple[str, ...]
    all_keys: tuple[str, ...]
    strategy: Strategy


@dataclass(frozen=True)
class Changes:
    """Changes of the registry since a revision.

    Attributes:
        revision: The newest revision; the clients below may be newer still.
        everything: Whether `served` is complete and replaces all earlier clients.
        served: Clients as they are now.
        gone: Names of disabled or removed clients.
    """

    revision: int
    everything: bool
    served: list[ServedClient]
    gone: frozenset[str] = frozenset()


# For unknown keys: comparing with it takes as long as with a real hash.
_NO_CONSUMER_HASH = generate_password_hash("", method=_HASH_METHOD)


def burn_a_comparison() -> None:
    """Take as long as comparing a secret, so that timing does not reveal unknown keys."""
    check_password_hash(_NO_CONSUMER_HASH, "x")


class Registry:
    """The registry, over one SQLAlchemy engine; thread-safe."""

    def __init__(self, url: URL) -> None:
        """Use `open` instead."""
        self._engine = create_engine(url, pool_pre_ping=True)
        self._where = url.render_as_string(hide_password=True)
        if url.get_backend_name() == "sqlite":
            event.listen(self._engine, "connect", _configure_sqlite)

    @classmethod
    def open(cls, database_url: str) -> "Registry":
        """Connect, and make the tables when there are none.

        Raises:
            RegistryUnavailable: The URL is malformed, or the database cannot be reached.
        """
        try:
            registry = cls(make_url(database_url))
        except (ArgumentError, ImportError) as error:
            raise RegistryUnavailable(
                f"the database of SELDON_DATABASE_URL is not supported: {error}"
            ) from None
        except ValueError:  # its text may quote a password in place of the port
            raise RegistryUnavailable(
                "SELDON_DATABASE_URL is not a valid URL, expected one such as "
                "postgresql+psycopg://user:password@host:5432/db"
            ) from None
        registry._make_tables()
        try:
            with registry._begin() as session:
                if session.get(_Revision, 1) is None:
                    session.add(_Revision(id=1, value=1))
        except _Duplicate:
            pass  # another process inserted it meanwhile
        return registry

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()

    # What the gateway serves from

    def revision(self) -> int:
        """The number of the newest change."""
        with self._begin() as session:
            return session.scalars(select(_Revision.value)).one()

    def served_clients(self) -> list[ServedClient]:
        """Every active client with its active keys."""
        with self._begin() as session:
            return _served(session)

    def changes_since(self, revision: int | None) -> Changes | None:
        """The changes since a revision, or everything; None if there are none.

        Costs in proportion to the changes, unless they are too many or too old.
        """
        with self._begin() as session:
            # First: rows read later may be newer, and are then read again next time.
            newest = session.scalars(select(_Revision.value)).one()
            if newest == revision:
                return None
            if revision is not None and 0 < newest - revision <= _CHANGES_AT_ONCE:
                noted = select(_Changed.client).where(
                    _Changed.revision > revision, _Changed.revision <= newest
                )
                names = session.scalars(noted).all()
                # Fewer if another version of this program made a change.
                if len(names) == newest - revision:
                    served = _served(session, set(names))
                    gone = frozenset(names) - {client.name for client in served}
                    return Changes(newest, False, served, gone)
            return Changes(newest, True, _served(session))

    def find_consumer(self, consumer_key: str) -> Consumer | None:
        """The consumer of a key; not active if it or its client is disabled."""
        with self._begin() as session:
            row = session.get(_Consumer, consumer_key)
            if row is None:
                return None
            client = session.get_one(_Client, row.short_name)
            return Consumer(
                row.consumer_key,
                row.short_name,
                row.scope,
                row.active and client.active,
                row.secret_hash,
            )

    # Clients

    def setup_client(
        self,
        name: str,
        db_name: str,
        js_key: str | None = None,
        all_key: str | None = None,
        all_secret: str | None = None,
    ) -> SetupResult:
        """Register a client with a `js` and an `all` consumer; an existing one is unchanged.

        Args:
            name: 1 to 25 letters, digits, '_' and '-'.
            db_name: Recorded, as the original did.
            js_key: By default 20 random characters, as are the next two.
            all_key: See above.
            all_secret: See above.

        Raises:
            InvalidName: A name or key is not of its form, or the key is taken.
        """
        if not _CLIENT_NAME.fullmatch(name):
            raise InvalidName(
                f"client name is {name!r}, expected 1 to 25 letters, digits, '_' and '-'"
            )
        js_key, all_key = js_key or _random_key(), all_key or _random_key()
        secret = all_secret or _random_key()
        for key in (js_key, all_key):
            _check_key(key)
        now = datetime.now(UTC)
        try:
            with self._change(name) as session:
                if session.get(_Client, name) is not None:
                    raise _Exists
                session.add(_Client(name=name, db_name=db_name, active=True, created=now))
                session.flush()
                for key, scope, secret_hash in (
                    (js_key, SCOPE_JS, ""),
                    (all_key, SCOPE_ALL, _hash(secret)),
                ):
                    session.add(
                        _Consumer(
                            consumer_key=key,
                            secret_hash=secret_hash,
                            name=name,
                            short_name=name,
                            created=now,
                            active=True,
                            scope=scope,
                        )
                    )
        except _Exists:
            rows = {row.scope: row.consumer_key for row in self.list_keys(name)}
            return SetupResult(False, rows.get(SCOPE_JS, ""), rows.get(SCOPE_ALL, ""), None)
        except _Duplicate:
            raise InvalidName(
                f"a key of {name} is in use by another client; choose another"
            ) from None
        return SetupResult(True, js_key, all_key, secret)

    def list_clients(self) -> list[Client]:
        """Every client, by name."""
        with self._begin() as session:
            return [
                Client(row.name, row.db_name, row.active)
                for row in session.scalars(select(_Client).order_by(_Client.name))
            ]

    def get_client(self, name: str) -> Client:
        """One client.

        Raises:
            UnknownClient: No client of that name.
        """
        with self._begin() as session:
            row = _client(session, name)
            return Client(row.name, row.db_name, row.active)

    def set_client_active(self, name: str, active: bool) -> None:
        """Disable a client, whatever tokens it holds, or enable it again.

        Raises:
            UnknownClient: No client of that name.
        """
        with self._change(name) as session:
            _client(session, name).active = active

    def remove_client(self, name: str) -> None:
        """Forget a client, its keys and its strategy.

        Raises:
            UnknownClient: No client of that name.
        """
        with self._change(name) as session:
            client = _client(session, name)
            for row in session.scalars(select(_Consumer).where(_Consumer.short_name == name)):
                session.delete(row)
            session.flush()
            session.delete(client)

    # Keys

    def list_keys(self, client: str | None = None, scope: str | None = None) -> list[Consumer]:
        """Consumers, by client and scope."""
        query = select(_Consumer).order_by(_Consumer.short_name, _Consumer.scope.desc())
        if client is not None:
            query = query.where(_Consumer.short_name == client)
        if scope is not None:
            query = query.where(_Consumer.scope == scope)
        with self._begin() as session:
            return [
                Consumer(row.consumer_key, row.short_name, row.scope, row.active, row.secret_hash)
                for row in session.scalars(query)
            ]

    def update_key(self, client: str, scope: str, key: str, secret: str | None = None) -> None:
        """Give a client's consumer of one scope another key, and secret where the scope has one.

        Raises:
            UnknownClient: No client of that name.
            InvalidName: The key is not of its form or taken, or a secret is missing.
        """
        _check_key(key)
        if scope not in SCOPES:
            raise InvalidName(f"scope is {scope!r}, expected {SCOPE_JS} or {SCOPE_ALL}")
        if scope == SCOPE_ALL and not secret:
            raise InvalidName("secret is missing, expected one for scope all")
        try:
            with self._change(client) as session:
                _client(session, client)
                session.execute(
                    update(_Consumer)
                    .where(_Consumer.short_name == client, _Consumer.scope == scope)
                    .values(
                        consumer_key=key,
                        secret_hash=_hash(secret) if scope == SCOPE_ALL and secret else "",
                    )
                )
        except _Duplicate:
            raise InvalidName(f"key {key} is in use by another consumer; choose another") from None

    # Strategies

    def draft_strategy(self, client: str, document: dict[str, Any]) -> None:
        """Keep a document beside the one that is served, until it is committed.

        Raises:
            UnknownClient: No client of that name.
            InvalidStrategy: The document is wrong; nothing has changed.
        """
        strategies.parse(document)
        with self._begin() as session:
            _client(session, client).draft = document

    def draft(self, client: str) -> dict[str, Any] | None:
        """The document that the next commit would serve.

        Raises:
            UnknownClient: No client of that name.
        """
        with self._begin() as session:
            return _client(session, client).draft

    def commit_strategy(self, client: str) -> None:
        """Serve the draft; without one, nothing changes.

        Raises:
            UnknownClient: No client of that name.
        """
        with self._change(client) as session:
            row = _client(session, client)
            if row.draft is not None:
                row.committed = row.draft

    def committed_strategy(self, client: str) -> dict[str, Any] | None:
        """The document that is served.

        Raises:
            UnknownClient: No client of that name.
        """
        with self._begin() as session:
            return _client(session, client).committed

    def strategy(self, client: str) -> Strategy:
        """The variations that are served.

        Raises:
            UnknownClient: No client of that name.
        """
        document = self.committed_strategy(client)
        return strategies.parse(document) if document else Strategy()

    def replace_variations(
        self, client: str, protocol: Protocol, variations: Sequence[Variation]
    ) -> None:
        """Serve other variations of one protocol; those of the other stay as they are.

        Raises:
            UnknownClient: No client of that name.
            InvalidStrategy: The variations cannot share traffic; nothing has changed.
        """
        strategies.check_ratios(variations, protocol)
        with self._change(client) as session:
            row = _client(session, client, lock=True)
            current = strategies.parse(row.committed) if row.committed else Strategy()
            replaced = (
                Strategy(tuple(variations), current.grpc)
                if protocol == "rest"
                else Strategy(current.rest, tuple(variations))
            )
            document = strategies.render(replaced)
            strategies.parse(document)  # never store what cannot be read back
            if row.draft is None or row.draft == row.committed:
                row.draft = document
            row.committed = document

    def _make_tables(self) -> None:
        # Not create_all: it checks first and creates later, so two processes collide.
        with self._begin() as session:
            if self._engine.dialect.name == "postgresql":
                # There IF NOT EXISTS fails for all but the first of concurrent processes.
                session.execute(select(func.pg_advisory_xact_lock(_MAKE_TABLES_LOCK)))
            for table in _Base.metadata.sorted_tables:
                session.execute(CreateTable(table, if_not_exists=True))
                for index in table.indexes:
                    session.execute(CreateIndex(index, if_not_exists=True))

    # Transactions

    @contextmanager
    def _begin(self) -> Iterator[Session]:
        try:
            with Session(self._engine) as session, session.begin():
                yield session
        except IntegrityError as error:
            raise _Duplicate from error
        except SQLAlchemyError as error:
            reason = str(getattr(error, "orig", error)).splitlines()[0]
            raise RegistryUnavailable(
                f"the registry {self._where} cannot be used: {reason}"
            ) from error

    @contextmanager
    def _change(self, client: str) -> Iterator[Session]:
        with self._begin() as session:
            # First, so that concurrent changes wait instead of colliding later.
            raised = update(_Revision).values(value=_Revision.value + 1)
            revision = session.scalars(raised.returning(_Revision.value)).one()
            session.add(_Changed(revision=revision, client=client))
            session.execute(delete(_Changed).where(_Changed.revision <= revision - _KEPT_CHANGES))
            yield session


class _Exists(Exception):
    """The client exists; rolls the transaction back."""


class _Duplicate(Exception):
    """A primary key is taken."""


def _served(session: Session, names: Collection[str] | None = None) -> list[ServedClient]:
    """The active clients of these names, or all of them."""
    # Columns instead of objects: a fifth of the time with many clients.
    consumers = select(_Consumer.short_name, _Consumer.scope, _Consumer.consumer_key).where(
        _Consumer.active
    )
    # As text, the cache key by which clients share a parsed strategy.
    clients = select(_Client.name, cast(_Client.committed, String)).where(_Client.active)
    if names is not None:
        consumers = consumers.where(_Consumer.short_name.in_(names))
        clients = clients.where(_Client.name.in_(names))
    keys: dict[tuple[str, str], list[str]] = defaultdict(list)
    for client, scope, key in session.execute(consumers):
        keys[client, scope].append(key)
    return [
        ServedClient(
            name,
            tuple(sorted(keys.get((name, SCOPE_JS), ()))),
            tuple(sorted(keys.get((name, SCOPE_ALL), ()))),
            _strategy(committed or "null"),
        )
        # Sorted here: SQLite would scan all clients to sort some.
        for name, committed in sorted(session.execute(clients), key=itemgetter(0))
    ]


@lru_cache(maxsize=4096)
def _strategy(committed: str) -> Strategy:
    document = orjson.loads(committed)
    return strategies.parse(document) if document else Strategy()


def _client(session: Session, name: str, *, lock: bool = False) -> _Client:
    client = session.get(_Client, name, with_for_update=lock)
    if client is None:
        raise UnknownClient(
            f"there is no client {name!r}; create it with "
            f"seldon-cli client --action setup --db-name ClientDB --client-name {name}"
        )
    return client


def _configure_sqlite(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={_BUSY_TIMEOUT_S * 1000}")
    _use_write_ahead_log(cursor)
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _use_write_ahead_log(cursor: sqlite3.Cursor) -> None:
    """Switch to WAL; it ignores busy_timeout while another process switches."""
    deadline = time.monotonic() + _BUSY_TIMEOUT_S
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


def _random_key() -> str:
    return "".join(random.choice(_KEY_ALPHABET) for _ in range(_KEY_LENGTH))


def _check_key(key: str) -> None:
    if not _KEY.fullmatch(key):
        raise InvalidName("consumer key is invalid, expected 1 to 50 letters, digits, '_' and '-'")


def _hash(secret: str) -> str:
    return generate_password_hash(secret, method=_HASH_METHOD)
