"""Configuration from environment variables."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import env_settings as env
from serving_core import settings as common


class SettingInvalid(ValueError):
    """An environment variable is missing or invalid; the message names it and the limit."""


@dataclass(frozen=True)
class Settings:
    """The server's configuration."""

    model_folder: Path = common.model_folder()
    model_name: str | None = common.model_name()
    model_engine: str | None = common.model_engine()
    host: str = common.host("REST")
    port: int = common.port("REST", 8500)
    workers: int = common.workers("REST")
    queue_limit: int = common.queue_limit("REST")
    threads: int = env.integer(
        "REST_THREADS",
        4,
        1,
        11_000,
        "threads per worker, started on demand, for requests that are no predictions",
    )
    max_body_bytes: int = env.integer(
        "REST_MAX_BODY_BYTES", 1 << 20, 1024, 1 << 30, "largest body", unit="bytes"
    )
    timeout_s: float = env.seconds(
        "REST_TIMEOUT_S", 10.0, 0.001, 3600, "deadline if the gateway sends none"
    )
    read_timeout_s: float = env.seconds(
        "REST_READ_TIMEOUT_S",
        10.0,
        0.1,
        3600,
        "longest pause of a caller within a request, or in reading its response",
    )
    drain_delay_s: float = common.drain_delay_s("REST", 1.0)
    grace_s: float = common.grace_s("REST")
    silence_s: float = env.seconds(
        "REST_SILENCE_S", 30.0, 1, 3600, "a worker without a heartbeat for this long is replaced"
    )
    metrics_dir: Path | None = env.path(
        "REST_METRICS_DIR",
        None,
        "shared metrics of the workers; emptied at start",
        words="a new temporary folder",
    )

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Self:
        """Read MODEL_* and REST_*, as README.md lists them.

        Raises:
            SettingInvalid: Names the variable, its value and what was expected.
        """
        return cls(**env.read(cls, environ, SettingInvalid))
