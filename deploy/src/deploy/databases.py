"""Database names that clients refer to, as in the original's `seldon-cli db`.

Clients are stored in the gateway's registry (SELDON_DATABASE_URL); these records exist for the
original's commands and listings alone. Passwords are not stored.
"""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from deploy.errors import SettingInvalid
from deploy.state_folder import write

DEFAULT_DATABASE = "ClientDB"
_FILE = "databases.json"


@dataclass(frozen=True)
class Database:
    """One entry, with the original's fields and defaults."""

    name: str
    user: str = ""
    jdbc: str = ""
    maxIdle: int = 50  # noqa: N815  # the contract's spelling
    minIdle: int = 20  # noqa: N815


class Databases:
    """The entries of one stack: edited in a working copy, used once committed."""

    def __init__(self, home: Path) -> None:
        """Use the state folder `home`."""
        self._path = home / _FILE

    def working(self) -> list[Database]:
        """The entries as `db --action setup` left them."""
        return self._read("working")

    def committed(self) -> list[Database]:
        """The entries that clients can be set up on."""
        return self._read("committed")

    def setup(self, name: str, user: str | None, jdbc: str | None) -> None:
        """Create or edit an entry of the working copy."""
        entries = {entry.name: entry for entry in self.working()}
        entry = entries.get(name, Database(name))
        entries[name] = replace(
            entry,
            user=entry.user if user is None else user,
            jdbc=entry.jdbc if jdbc is None else jdbc,
        )
        self._write(list(entries.values()), self.committed())

    def commit(self) -> None:
        """Make the working copy available to clients."""
        self._write(self.working(), self.working())

    def check_known(self, name: str) -> None:
        """Fail unless clients can be set up on `name`.

        Raises:
            SettingInvalid: Lists the databases that they can use.
        """
        known = [entry.name for entry in (*self.committed(), *self.working())]
        if name not in known:
            names = ", ".join(sorted(set(known)))
            raise SettingInvalid(
                f"database {name!r} is not set up, expected one of {names}; "
                f"add it with seldon-cli db --action setup --db-name {name}"
            )

    def _read(self, key: str) -> list[Database]:
        try:
            document = json.loads(self._path.read_text())
            return [Database(**entry) for entry in document[key]]
        except FileNotFoundError:
            return [Database(DEFAULT_DATABASE)]
        except (ValueError, KeyError, TypeError) as error:
            raise SettingInvalid(f"{self._path} is damaged ({error}); remove it") from error

    def _write(self, working: list[Database], committed: list[Database]) -> None:
        document = {
            "working": [asdict(entry) for entry in working],
            "committed": [asdict(entry) for entry in committed],
        }
        write(self._path, json.dumps(document, indent=2) + "\n")
