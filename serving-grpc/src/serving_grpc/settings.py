"""Configuration from environment variables."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import env_settings as env
from serving_core import settings as common


class SettingInvalid(Exception):
    """An environment variable is missing or invalid; the message names it."""


@dataclass(frozen=True)
class Settings:
    """Settings of the gRPC server."""

    model_folder: Path = common.model_folder()
    model_name: str | None = common.model_name()
    model_engine: str | None = common.model_engine()
    host: str = common.host("GRPC")
    port: int = common.port("GRPC", 8600)
    metrics_port: int = env.integer(
        "GRPC_METRICS_PORT", 8601, 0, 65_535, "port of metrics and health; 0 likewise"
    )
    workers: int = common.workers("GRPC")
    queue_limit: int = common.queue_limit("GRPC")
    threads: int = env.integer(
        "GRPC_THREADS",
        32,
        1,
        200_000,
        "threads per worker, for calls that compute nothing: health, reflection, metadata",
    )
    max_message_bytes: int = env.integer(
        "GRPC_MAX_MESSAGE_BYTES", 1 << 20, 1024, 1 << 30, "largest request", unit="bytes"
    )
    drain_delay_s: float = common.drain_delay_s("GRPC", 0.5)
    grace_s: float = common.grace_s("GRPC")

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Self:
        """Read MODEL_* and GRPC_*, as README.md lists them.

        Raises:
            SettingInvalid: Names the variable, its value and what was expected.
        """
        return cls(**env.read(cls, environ, SettingInvalid))
