"""A result folder: its name, settings and raw results."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from loadtest.errors import LoadTestError
from loadtest.server_metrics import Reading

SETTINGS = "settings.json"
SERVER_METRICS = "server_metrics.json"
LATEST = "latest"
PROTOCOLS = {"rest": "REST", "grpc": "gRPC"}  # key in files, display name


class ResultUnreadable(LoadTestError):
    """A result folder lacks a file, or a file is invalid."""


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        ResultUnreadable: The file is missing or not a JSON object.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ResultUnreadable(
            f"{path.parent.name} has no {path.name}, expected a load-test result folder"
        ) from None
    except ValueError as error:
        raise ResultUnreadable(
            f"{path.parent.name}/{path.name} is not valid JSON: {error}"
        ) from error
    if not isinstance(document, dict):
        raise ResultUnreadable(f"{path.parent.name}/{path.name} is not a JSON object")
    return document


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run or comparison below `results`."""

    path: Path

    @classmethod
    def create(
        cls, output: Path, what: str, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> RunFolder:
        """Create `<UTC time>-<what>` below `output` and link `latest` to it.

        A suffix such as `-2` keeps names of the same second unique.
        """
        output.mkdir(parents=True, exist_ok=True)
        name = f"{now():%Y%m%dT%H%M%SZ}-{what}"
        path = output / name
        attempt = 1
        while True:
            try:
                path.mkdir()
                break
            except FileExistsError:
                attempt += 1
                path = output / f"{name}-{attempt}"
        folder = cls(path)
        folder._point_latest_here()
        return folder

    @property
    def raw(self) -> Path:
        """The folder of the raw results; created on first use."""
        path = self.path / "raw"
        path.mkdir(exist_ok=True)
        return path

    def raw_file(self, process: str) -> Path:
        return self.raw / f"{process}.json"

    def write_raw(self, process: str, result: Mapping[str, Any]) -> None:
        write_json(self.raw_file(process), result)

    def raw_results(self) -> list[dict[str, Any]]:
        """The raw results of the load generators, by name."""
        return [read_json(path) for path in sorted(self.path.glob("raw/*.json"))]

    def write_server_metrics(self, reading: Reading) -> None:
        write_json(self.path / SERVER_METRICS, reading.document())

    def server_metrics(self) -> Reading | None:
        """The server metrics; None if the run did not scrape any."""
        path = self.path / SERVER_METRICS
        return Reading.from_document(read_json(path)) if path.exists() else None

    def write_settings(self, settings: Mapping[str, Any]) -> None:
        write_json(self.path / SETTINGS, settings)

    def settings(self) -> dict[str, Any]:
        return read_json(self.path / SETTINGS)

    def _point_latest_here(self) -> None:
        link = self.path.parent / LATEST
        if link.exists() and not link.is_symlink():
            return  # a user's own folder
        fresh = self.path.parent / f".{LATEST}-{self.path.name}"
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(self.path.name)
        fresh.replace(link)
