"""The operator's own copy of consumer secrets, on the machine that made them.

The registry holds hashes only. The commands that print a secret, as the original's did, and the
load test read it from here: one file for each client, readable by its owner alone. The servers
never do.
"""

import json
import os
import secrets as random
from pathlib import Path


class OperatorSecrets:
    """Secrets by client and consumer key, in one folder."""

    def __init__(self, folder: Path) -> None:
        """Use `folder`, made when the first secret is stored."""
        self._folder = folder

    def store(self, client: str, consumer_key: str, secret: str) -> None:
        """Store a secret; it replaces an earlier one of the same key."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        known = self._read(client) | {consumer_key: secret}
        temporary = self._folder / f".{client}.{random.token_hex(8)}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        with os.fdopen(os.open(temporary, flags, 0o600), "w") as file:
            json.dump(known, file)
        temporary.replace(self._file(client))

    def find(self, client: str, consumer_key: str) -> str:
        """The secret, or "" when it is not known here."""
        return self._read(client).get(consumer_key, "")

    def forget(self, client: str) -> None:
        """Remove a client's secrets."""
        self._file(client).unlink(missing_ok=True)

    def _file(self, client: str) -> Path:
        return self._folder / f"{client}.json"

    def _read(self, client: str) -> dict[str, str]:
        try:
            known = json.loads(self._file(client).read_text())
        except (FileNotFoundError, ValueError):
            return {}
        return dict(known) if isinstance(known, dict) else {}
