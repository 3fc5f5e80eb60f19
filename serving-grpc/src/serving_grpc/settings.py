"""Configuration from environment variables."""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_MAX_PORT = 65535


class SettingInvalid(Exception):
    """An environment variable is missing or invalid; the message names it."""


@dataclass(frozen=True)
class Settings:
    """Settings of the gRPC server; `from_env` has each field's variable."""

    model_folder: Path
    model_name: str | None  # None: the name in model.json
    model_engine: str | None  # None: selected by the folder's files
    host: str
    port: int  # 0: a free one, named in the log
    metrics_port: int  # 0 likewise
    workers: int
    threads: int  # per worker, for health and reflection; predictions use none
    queue_limit: int  # maximum number of queued predictions per worker
    max_message_bytes: int
    grace_s: float  # for predictions in flight after SIGTERM

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> "Settings":
        """Read MODEL_* and GRPC_*, as README.md lists them.

        Raises:
            SettingInvalid: Names the variable, its value and what was expected.
        """
        folder = environ.get("MODEL_FOLDER", "")
        if not folder:
            raise SettingInvalid("MODEL_FOLDER is not set, expected the path of a model folder")
        return cls(
            model_folder=Path(folder),
            model_name=environ.get("MODEL_NAME") or None,
            model_engine=environ.get("MODEL_ENGINE") or None,
            host=environ.get("GRPC_HOST") or "127.0.0.1",
            port=_integer(environ, "GRPC_PORT", 8600, 0, _MAX_PORT),
            metrics_port=_integer(environ, "GRPC_METRICS_PORT", 8601, 0, _MAX_PORT),
            workers=_integer(environ, "GRPC_WORKERS", usable_cores(), 1, 1024),
            threads=_integer(environ, "GRPC_THREADS", 32, 1, 200_000),
            queue_limit=_integer(environ, "GRPC_QUEUE_LIMIT", 256, 1, 100_000),
            max_message_bytes=_integer(environ, "GRPC_MAX_MESSAGE_BYTES", 1_048_576, 1, 2**31 - 1),
            grace_s=_seconds(environ, "GRPC_GRACE_S", 10.0),
        )


def usable_cores() -> int:
    """Number of cores available to this process, in a container maybe fewer than the machine's."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _integer(environ: Mapping[str, str], variable: str, default: int, least: int, most: int) -> int:
    text = environ.get(variable) or str(default)
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if not least <= value <= most:
        raise SettingInvalid(
            f"{variable} is {text!r}, expected a whole number from {least} to {most}"
        )
    return value


def _seconds(environ: Mapping[str, str], variable: str, default: float) -> float:
    text = environ.get(variable) or str(default)
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise SettingInvalid(f"{variable} is {text!r}, expected a number of seconds, 0 or more")
    return value
