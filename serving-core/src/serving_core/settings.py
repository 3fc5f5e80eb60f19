"""Settings that both servers have, with the same limits."""

import os
from typing import Any

import env_settings as env


def usable_cores() -> int:
    """Number of cores available to this process, in a container maybe fewer than the machine's."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def model_folder() -> Any:
    return env.path("MODEL_FOLDER", env.REQUIRED, "the path of a model folder")


def model_name() -> Any:
    meaning = "the model's name in responses"
    return env.text("MODEL_NAME", None, meaning, words="the name in `model.json`, or the folder's")


def model_engine() -> Any:
    return env.text(
        "MODEL_ENGINE",
        None,
        "`litert`, `tensorflow`, `onnx` or `python`",
        words="by the folder's files",
    )


def host(prefix: str) -> Any:
    return env.text(f"{prefix}_HOST", "127.0.0.1", "address to listen on")


def port(prefix: str, default: int) -> Any:
    meaning = "port to listen on; 0 selects a free one, named in the log"
    return env.integer(f"{prefix}_PORT", default, 0, 65_535, meaning)


def workers(prefix: str) -> Any:
    meaning = "worker processes"
    return env.integer(f"{prefix}_WORKERS", usable_cores, 1, 256, meaning, words="the usable cores")


def queue_limit(prefix: str) -> Any:
    return env.integer(f"{prefix}_QUEUE_LIMIT", 256, 1, 10_000, "queued predictions per worker")


def drain_delay_s(prefix: str, default: float) -> Any:
    meaning = (
        "time after SIGTERM in which the server reports not ready and still accepts requests, so "
        "that load balancers notice; part of the grace"
    )
    return env.seconds(f"{prefix}_DRAIN_DELAY_S", default, 0, 60, meaning)


def grace_s(prefix: str) -> Any:
    meaning = "longest time from SIGTERM until requests in flight are cancelled"
    return env.seconds(f"{prefix}_GRACE_S", 10.0, 0, 3600, meaning)
