import getpass
import os
import shutil
import signal
import sqlite3
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ports import free_ports
from seldon_gateway.errors import InvalidName, InvalidStrategy, RegistryUnavailable, UnknownClient
from seldon_gateway.registry import Client, Registry
from seldon_gateway.strategies import Endpoint, Strategy, Variation

A = Variation("a", 1.0, (Endpoint("127.0.0.1", 5000),))
B = Variation("b", 1.0, (Endpoint("127.0.0.1", 5001),))
DOCUMENT = {
    "algorithms": [
        {
            "name": "externalPredictionServer",
            "config": [{"name": "io.seldon.algorithm.external.url", "value": "http://m:5000/"}],
        }
    ]
}


def of_scope(registry: Registry, client: str, scope: str) -> Any:
    [consumer] = registry.list_keys(client, scope)
    return consumer


# Clients


def test_a_new_client_has_two_random_keys_and_a_secret(registry: Registry) -> None:
    first, second = registry.setup_client("one", "DB"), registry.setup_client("two", "DB")
    assert first.created
    keys = {first.js_key, first.all_key, first.secret, second.js_key, second.all_key, second.secret}
    assert len(keys) == 6
    assert all(key is not None and len(key) == 20 for key in keys)
    assert of_scope(registry, "one", "js").consumer_key == first.js_key
    assert of_scope(registry, "one", "all").secret_matches(first.secret or "")


def test_keys_may_be_chosen(registry: Registry) -> None:
    registry.setup_client("one", "DB", js_key="js-key", all_key="all_key", all_secret="secret")
    assert registry.find_consumer("js-key") is not None
    consumer = registry.find_consumer("all_key")
    assert consumer is not None
    assert consumer.secret_matches("secret")
    assert not consumer.secret_matches("Secret")


def test_a_js_key_has_no_secret_not_even_the_empty_one(registry: Registry) -> None:
    consumer = registry.find_consumer(registry.setup_client("one", "DB").js_key)
    assert consumer is not None
    assert not consumer.secret_matches("")


def test_a_second_setup_leaves_the_keys_and_the_revision(registry: Registry) -> None:
    first = registry.setup_client("one", "DB")
    revision = registry.revision()
    again = registry.setup_client("one", "Other", js_key="x", all_key="y", all_secret="z")
    assert (again.created, again.secret) == (False, None)
    assert (again.js_key, again.all_key) == (first.js_key, first.all_key)
    assert registry.list_clients() == [Client("one", "DB", True)]
    assert registry.revision() == revision


@pytest.mark.parametrize("name", ["", "a b", "-a", "a" * 26, "a/b", "\u00e9", "a\n"])
def test_a_wrong_client_name_is_refused(registry: Registry, name: str) -> None:
    with pytest.raises(InvalidName, match="1 to 25 letters, digits"):
        registry.setup_client(name, "DB")
    assert registry.list_clients() == []


@pytest.mark.parametrize("key", ["a b", "a" * 51, "a%20", "\u00e9"])
def test_a_wrong_key_is_refused(registry: Registry, key: str) -> None:
    with pytest.raises(InvalidName, match="1 to 50 letters, digits"):
        registry.setup_client("one", "DB", js_key=key)
    assert registry.list_clients() == []


def test_a_taken_key_is_refused_and_nothing_is_made(registry: Registry) -> None:
    registry.setup_client("one", "DB", js_key="taken")
    revision = registry.revision()
    with pytest.raises(InvalidName, match="in use by another client"):
        registry.setup_client("two", "DB", all_key="taken")
    assert [client.name for client in registry.list_clients()] == ["one"]
    assert registry.revision() == revision


def test_a_disabled_client_is_not_served_and_its_keys_are_inactive(registry: Registry) -> None:
    keys = registry.setup_client("one", "DB")
    registry.set_client_active("one", False)
    assert registry.served_clients() == []
    consumer = registry.find_consumer(keys.all_key)
    assert consumer is not None
    assert not consumer.active
    registry.set_client_active("one", True)
    [served] = registry.served_clients()
    assert (served.js_keys, served.all_keys) == ((keys.js_key,), (keys.all_key,))


def test_a_removed_client_leaves_nothing_and_its_name_is_free(registry: Registry) -> None:
    keys = registry.setup_client("one", "DB")
    registry.replace_variations("one", "rest", [A])
    registry.remove_client("one")
    assert registry.find_consumer(keys.js_key) is None
    assert registry.list_keys() == []
    assert registry.setup_client("one", "DB").created
    assert registry.strategy("one") == Strategy()


@pytest.mark.parametrize(
    "call",
    [
        lambda registry: registry.get_client("none"),
        lambda registry: registry.set_client_active("none", True),
        lambda registry: registry.remove_client("none"),
        lambda registry: registry.update_key("none", "js", "key"),
        lambda registry: registry.draft_strategy("none", DOCUMENT),
        lambda registry: registry.draft("none"),
        lambda registry: registry.commit_strategy("none"),
        lambda registry: registry.committed_strategy("none"),
        lambda registry: registry.replace_variations("none", "rest", [A]),
    ],
)
def test_an_unknown_client_is_refused_with_the_way_to_make_it(
    registry: Registry, call: Callable[[Registry], object]
) -> None:
    revision = registry.revision()
    with pytest.raises(UnknownClient, match="there is no client 'none'; create it with seldon-cli"):
        call(registry)
    assert registry.revision() == revision


# Keys


def test_keys_are_listed_by_client_and_scope(registry: Registry) -> None:
    one, two = registry.setup_client("one", "DB"), registry.setup_client("two", "DB")
    assert [key.consumer_key for key in registry.list_keys()] == [
        one.js_key,
        one.all_key,
        two.js_key,
        two.all_key,
    ]
    assert [key.consumer_key for key in registry.list_keys("two")] == [two.js_key, two.all_key]
    assert [key.client for key in registry.list_keys(scope="all")] == ["one", "two"]


def test_an_updated_key_takes_the_old_ones_place(registry: Registry) -> None:
    old = registry.setup_client("one", "DB")
    registry.update_key("one", "js", "new-js")
    registry.update_key("one", "all", "new-all", "new-secret")
    assert registry.find_consumer(old.js_key) is None
    assert registry.find_consumer(old.all_key) is None
    consumer = of_scope(registry, "one", "all")
    assert consumer.consumer_key == "new-all"
    assert consumer.secret_matches("new-secret")
    assert of_scope(registry, "one", "js").secret_hash == ""


def test_a_secret_is_changed_under_the_same_key(registry: Registry) -> None:
    keys = registry.setup_client("one", "DB", all_secret="old")
    registry.update_key("one", "all", keys.all_key, "new")
    consumer = registry.find_consumer(keys.all_key)
    assert consumer is not None
    assert consumer.secret_matches("new")
    assert not consumer.secret_matches("old")


@pytest.mark.parametrize(
    ("scope", "key", "secret", "message"),
    [
        ("all", "key", None, "secret is missing"),
        ("all", "key", "", "secret is missing"),
        ("root", "key", "secret", "scope is 'root', expected js or all"),
        ("js", "a b", None, "1 to 50 letters"),
        ("js", "taken", None, "key taken is in use by another consumer"),
    ],
)
def test_a_wrong_update_of_a_key_changes_nothing(
    registry: Registry, scope: str, key: str, secret: str | None, message: str
) -> None:
    registry.setup_client("other", "DB", js_key="taken")
    registry.setup_client("one", "DB")
    before, revision = registry.list_keys(), registry.revision()
    with pytest.raises(InvalidName, match=message):
        registry.update_key("one", scope, key, secret)
    assert registry.list_keys() == before
    assert registry.revision() == revision


def test_secrets_are_not_in_the_database_in_clear(registry: Registry, tmp_path: Path) -> None:
    made = registry.setup_client("one", "DB").secret or ""
    registry.setup_client("two", "DB", all_key="given-key", all_secret="given-secret")
    registry.update_key("one", "all", "newer-key", "newer-secret")
    content = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"given-key" in content
    for secret in (made, "given-secret", "newer-secret"):
        assert secret.encode() not in content


# Strategies


def test_a_draft_is_served_from_its_commit_on(registry: Registry) -> None:
    registry.setup_client("one", "DB")
    revision = registry.revision()
    registry.draft_strategy("one", DOCUMENT)
    assert registry.draft("one") == DOCUMENT
    assert registry.committed_strategy("one") is None
    assert registry.strategy("one") == Strategy()
    assert registry.revision() == revision
    registry.commit_strategy("one")
    assert registry.committed_strategy("one") == DOCUMENT
    assert registry.strategy("one").rest[0].endpoints == (Endpoint("m", 5000),)
    assert registry.revision() > revision


def test_a_commit_without_a_draft_serves_what_was_served(registry: Registry) -> None:
    registry.setup_client("one", "DB")
    registry.commit_strategy("one")
    assert registry.committed_strategy("one") is None


def test_a_draft_outlives_a_rollout(registry: Registry) -> None:
    registry.setup_client("one", "db")
    registry.draft_strategy("one", DOCUMENT)
    registry.replace_variations("one", "grpc", [Variation("g", 1.0, (Endpoint("h", 1),))])
    assert registry.draft("one") == DOCUMENT
    registry.commit_strategy("one")
    assert registry.committed_strategy("one") == DOCUMENT


def test_an_invalid_port_is_reported_without_the_password() -> None:
    with pytest.raises(RegistryUnavailable, match="SELDON_DATABASE_URL") as refused:
        Registry.open("postgresql+psycopg://user:hidden@host:secret/db")
    assert "secret" not in str(refused.value)
    assert "hidden" not in str(refused.value)


def test_a_wrong_draft_leaves_the_earlier_one(registry: Registry) -> None:
    registry.setup_client("one", "DB")
    registry.draft_strategy("one", DOCUMENT)
    with pytest.raises(InvalidStrategy):
        registry.draft_strategy("one", {"algorithms": [{"name": "x"}]})
    assert registry.draft("one") == DOCUMENT


def test_replaced_variations_leave_those_of_the_other_protocol(registry: Registry) -> None:
    registry.setup_client("one", "DB")
    registry.replace_variations("one", "rest", [A])
    registry.replace_variations("one", "grpc", [B])
    assert registry.strategy("one") == Strategy((A,), (B,))
    registry.replace_variations("one", "rest", [B])
    assert registry.strategy("one") == Strategy((B,), (B,))
    registry.replace_variations("one", "rest", [])
    assert registry.strategy("one") == Strategy((), (B,))


def test_replaced_variations_are_the_draft_where_there_was_no_other(registry: Registry) -> None:
    registry.setup_client("one", "DB")
    for _ in range(2):
        registry.replace_variations("one", "rest", [A])
        assert registry.draft("one") == registry.committed_strategy("one")
    registry.commit_strategy("one")
    assert registry.strategy("one") == Strategy((A,))


@pytest.mark.parametrize(
    "wrong",
    [
        Variation("a", 0.9, A.endpoints),
        Variation("a b", 1.0, A.endpoints),
        Variation("a", 1.0, ()),
        Variation("a", 1.0, (Endpoint("not a host", 1),)),
        Variation("a", 1.0, (Endpoint("host", 0),)),
    ],
)
def test_variations_that_cannot_be_served_change_nothing(
    registry: Registry, wrong: Variation
) -> None:
    registry.setup_client("one", "DB")
    registry.replace_variations("one", "rest", [A])
    revision = registry.revision()
    for protocol in ("rest", "grpc"):
        with pytest.raises(InvalidStrategy):
            registry.replace_variations("one", protocol, [wrong])
    assert registry.strategy("one") == Strategy((A,))
    assert registry.revision() == revision


def test_every_change_raises_the_revision(registry: Registry) -> None:
    registry.setup_client("one", "DB")
    changes: list[Callable[[], object]] = [
        lambda: registry.setup_client("two", "DB"),
        lambda: registry.replace_variations("one", "rest", [A]),
        lambda: registry.commit_strategy("one"),
        lambda: registry.update_key("one", "js", "new"),
        lambda: registry.set_client_active("one", False),
        lambda: registry.remove_client("one"),
    ]
    for change in changes:
        before = registry.revision()
        change()
        assert registry.revision() > before


def test_a_registry_is_there_after_a_restart(registry: Registry, database_url: str) -> None:
    registry.setup_client("one", "DB")
    revision = registry.revision()
    registry.close()
    again = Registry.open(database_url)
    assert again.get_client("one") == Client("one", "DB", True)
    assert again.revision() == revision
    again.close()


# Databases


def write_from_eight_threads(database_url: str) -> None:
    """Two registries, as of two processes, on one database that is empty at first."""
    opened: list[Registry] = []
    errors: list[BaseException] = []
    start = threading.Barrier(8)

    def work(number: int) -> None:
        try:
            start.wait()
            own = Registry.open(database_url)
            opened.append(own)
            for index in range(5):
                name = f"client-{number}-{index}"
                own.setup_client(name, "DB")
                own.replace_variations(name, "rest", [A])
                own.replace_variations("shared", "grpc" if number % 2 else "rest", [B])
        except BaseException as error:
            errors.append(error)

    first = Registry.open(database_url)
    first.setup_client("shared", "DB")
    before = first.revision()
    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    try:
        assert errors == []
        assert len(first.list_clients()) == 41
        assert len(first.list_keys()) == 82
        assert first.revision() == before + 8 * 5 * 3
        assert first.strategy("shared") == Strategy((B,), (B,))
        named = [client.strategy.rest for client in first.served_clients()]
        assert named.count((A,)) == 40
        since = first.changes_since(before)
        assert since is not None
        assert not since.everything
        assert since.served == first.served_clients()
    finally:
        for registry in (first, *opened):
            registry.close()


def test_nothing_new_is_none(registry: Registry) -> None:
    registry.setup_client("one", "DB")
    everything = registry.changes_since(None)
    assert everything is not None
    assert everything.everything
    assert [client.name for client in everything.served] == ["one"]
    assert registry.changes_since(everything.revision) is None


def test_a_change_names_its_client_alone(registry: Registry) -> None:
    for name in ("one", "two", "three"):
        registry.setup_client(name, "DB")
    revision = registry.revision()
    registry.replace_variations("two", "rest", [A])
    registry.update_key("two", "js", "another-key")
    changes = registry.changes_since(revision)
    assert changes is not None
    assert not changes.everything
    [two] = changes.served
    assert (two.name, two.js_keys, two.strategy.rest) == ("two", ("another-key",), (A,))
    assert changes.gone == frozenset()


def test_disabled_and_removed_clients_are_gone(registry: Registry) -> None:
    for name in ("one", "two", "three"):
        registry.setup_client(name, "DB")
    revision = registry.revision()
    registry.set_client_active("one", False)
    registry.remove_client("two")
    changes = registry.changes_since(revision)
    assert changes is not None
    assert (changes.served, changes.gone) == ([], {"one", "two"})
    registry.set_client_active("one", True)
    changes = registry.changes_since(changes.revision)
    assert changes is not None
    assert [client.name for client in changes.served] == ["one"]


def test_changes_that_nobody_noted_are_found_all_the_same(
    registry: Registry, database_url: str
) -> None:
    registry.setup_client("one", "DB")
    revision = registry.revision()
    with sqlite3.connect(database_url.removeprefix("sqlite:///")) as database:
        # As a version of this program does that keeps no notes.
        database.execute("UPDATE client SET active = 0")
        database.execute("UPDATE revision SET value = value + 1")
    database.close()
    registry.setup_client("two", "DB")
    changes = registry.changes_since(revision)
    assert changes is not None
    assert changes.everything
    assert [client.name for client in changes.served] == ["two"]


def test_a_database_of_before_gets_what_it_lacks(registry: Registry, database_url: str) -> None:
    registry.setup_client("one", "DB")
    registry.close()
    with sqlite3.connect(database_url.removeprefix("sqlite:///")) as database:
        database.execute("DROP TABLE changed")
        database.execute("DROP INDEX ix_consumer_short_name")
    database.close()
    again = Registry.open(database_url)
    revision = again.revision()
    again.set_client_active("one", False)
    changes = again.changes_since(revision)
    assert changes is not None
    assert changes.gone == {"one"}
    again.close()


def test_nothing_is_lost_when_eight_threads_write_to_sqlite(database_url: str) -> None:
    write_from_eight_threads(database_url)


def open_eight_times_at_once(database_url: str) -> None:
    start = threading.Barrier(8)
    opened: list[Registry] = []

    def work() -> None:
        start.wait()
        opened.append(Registry.open(database_url))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [registry.revision() for registry in opened] == [1] * 8
    for registry in opened:
        registry.close()


def test_a_new_database_is_made_once_by_eight_at_once(database_url: str) -> None:
    open_eight_times_at_once(database_url)


@pytest.mark.parametrize("url", ["nonsense", "nosuch://host/db", "sqlite:////nosuch/folder/x.db"])
def test_a_database_that_cannot_be_used_is_named(url: str) -> None:
    with pytest.raises(RegistryUnavailable):
        Registry.open(url)


def test_a_password_is_not_in_the_error() -> None:
    with pytest.raises(RegistryUnavailable) as refused:
        Registry.open("postgresql+psycopg://user:hidden@127.0.0.1:1/db")
    assert "hidden" not in str(refused.value)
    assert "127.0.0.1:1" in str(refused.value)


@pytest.fixture(scope="module")
def postgresql_url() -> Iterator[str]:
    """A PostgreSQL server of our own, in a temporary folder."""
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    initdb = str(found[-1]) if found else shutil.which("initdb")
    if initdb is None:
        pytest.skip("PostgreSQL's programs initdb and postgres are not installed")
    programs = Path(initdb).parent
    # It refuses to run as root.
    user = "postgres" if os.getuid() == 0 else getpass.getuser()
    folder = Path(tempfile.mkdtemp(prefix="postgresql-"))
    shutil.chown(folder, user)
    own: dict[str, Any] = {"user": user} if os.getuid() == 0 else {}
    make = [initdb, "-D", str(folder / "data"), "-U", "seldon", "-A", "trust", "--no-sync"]
    subprocess.run(make, check=True, stdout=subprocess.DEVNULL, cwd=folder, **own)
    [port] = free_ports(1)
    options = ["-c", "fsync=off", "-c", "listen_addresses=127.0.0.1", "-k", str(folder)]
    server = subprocess.Popen(
        [str(programs / "postgres"), "-D", str(folder / "data"), "-p", str(port), *options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=folder,
        **own,
    )
    wait = [str(programs / "pg_isready"), "-h", "127.0.0.1", "-p", str(port), "-t", "20"]
    while subprocess.run(wait, check=False, stdout=subprocess.DEVNULL).returncode != 0:
        assert server.poll() is None
    yield f"postgresql+psycopg://seldon@127.0.0.1:{port}/postgres"
    server.send_signal(signal.SIGINT)  # "fast": it does not wait for its callers
    server.wait(20)
    shutil.rmtree(folder)


def test_postgresql_serves_as_well(postgresql_url: str) -> None:
    open_eight_times_at_once(postgresql_url)
    write_from_eight_threads(postgresql_url)
    registry = Registry.open(postgresql_url)
    keys = registry.setup_client("one", "DB", all_secret="secret")
    with pytest.raises(InvalidName, match="in use by another client"):
        registry.setup_client("two", "DB", js_key=keys.js_key)
    registry.draft_strategy("one", DOCUMENT)
    registry.commit_strategy("one")
    assert registry.committed_strategy("one") == DOCUMENT
    registry.set_client_active("one", False)
    assert "one" not in [client.name for client in registry.served_clients()]
    registry.remove_client("one")
    with pytest.raises(UnknownClient):
        registry.get_client("one")
    registry.close()
