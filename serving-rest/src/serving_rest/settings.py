"""Configuration from environment variables."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self


class SettingInvalid(ValueError):
    """An environment variable is missing or invalid; the message names it and the limit."""


@dataclass(frozen=True)
class Settings:
    """The server's configuration; times are in seconds.

    Attributes:
        model_folder: MODEL_FOLDER, required.
        model_name: MODEL_NAME; None takes the name in model.json.
        model_engine: MODEL_ENGINE, litert or tensorflow; None selects by the folder's files.
        host: REST_HOST, the address to listen on.
        port: REST_PORT; 0 selects a free one, named in the log.
        workers: REST_WORKERS, processes; by default one per core.
        queue_limit: REST_QUEUE_LIMIT, maximum number of queued requests per worker.
        threads: REST_THREADS, threads per worker for requests that are no predictions: health,
            metrics, errors. They start on demand.
        max_body_bytes: REST_MAX_BODY_BYTES.
        timeout_s: REST_TIMEOUT_S, deadline of a request without one from the gateway.
        read_timeout_s: REST_READ_TIMEOUT_S, longest pause of a caller within a request, or in
            reading its response.
        drain_delay_s: REST_DRAIN_DELAY_S, how long a stopping worker reports not ready and still
            accepts connections, so that health checks notice first.
        grace_s: REST_GRACE_S, maximum duration of a graceful shutdown.
        silence_s: REST_SILENCE_S, a worker without a heartbeat for this long is replaced.
        metrics_dir: REST_METRICS_DIR, directory of the workers' metrics; None creates a temporary
            one.
    """

    model_folder: Path
    model_name: str | None = None
    model_engine: str | None = None
    host: str = "127.0.0.1"
    port: int = 8500
    workers: int = 1
    queue_limit: int = 256
    threads: int = 4
    max_body_bytes: int = 1 << 20
    timeout_s: float = 10.0
    read_timeout_s: float = 10.0
    drain_delay_s: float = 1.0
    grace_s: float = 10.0
    silence_s: float = 30.0
    metrics_dir: Path | None = None

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Self:
        """Read the settings; an empty variable counts as unset.

        Raises:
            SettingInvalid: Names the variable, its value and what was expected.
        """
        if not env.get("MODEL_FOLDER"):
            raise SettingInvalid("MODEL_FOLDER is not set, expected the path of a model folder")
        return cls(
            model_folder=Path(env["MODEL_FOLDER"]),
            model_name=env.get("MODEL_NAME") or None,
            model_engine=env.get("MODEL_ENGINE") or None,
            host=env.get("REST_HOST") or cls.host,
            port=_integer(env, "REST_PORT", cls.port, 0, 65_535),
            workers=_integer(env, "REST_WORKERS", _cores(), 1, 256),
            queue_limit=_integer(env, "REST_QUEUE_LIMIT", cls.queue_limit, 1, 10_000),
            threads=_integer(env, "REST_THREADS", cls.threads, 1, 11_000),
            max_body_bytes=_integer(env, "REST_MAX_BODY_BYTES", cls.max_body_bytes, 1024, 1 << 30),
            timeout_s=_seconds(env, "REST_TIMEOUT_S", cls.timeout_s, 0.001, 3600),
            read_timeout_s=_seconds(env, "REST_READ_TIMEOUT_S", cls.read_timeout_s, 0.1, 3600),
            drain_delay_s=_seconds(env, "REST_DRAIN_DELAY_S", cls.drain_delay_s, 0, 60),
            grace_s=_seconds(env, "REST_GRACE_S", cls.grace_s, 1, 3600),
            silence_s=_seconds(env, "REST_SILENCE_S", cls.silence_s, 1, 3600),
            metrics_dir=Path(env["REST_METRICS_DIR"]) if env.get("REST_METRICS_DIR") else None,
        )


def _integer(env: Mapping[str, str], name: str, default: int, least: int, most: int) -> int:
    text = env.get(name) or str(default)
    # int() alone would accept "1_000", " 7" and digits of other scripts.
    if not (text.isascii() and text.isdigit()) or not least <= int(text) <= most:
        raise SettingInvalid(f"{name} is {text!r}, expected an integer from {least} to {most}")
    return int(text)


def _seconds(env: Mapping[str, str], name: str, default: float, least: float, most: float) -> float:
    text = env.get(name) or str(default)
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not least <= value <= most:
        raise SettingInvalid(f"{name} is {text!r}, expected seconds from {least} to {most}")
    return value


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
