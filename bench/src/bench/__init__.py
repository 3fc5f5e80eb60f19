"""Benchmark of the serving path: CPU per prediction, latency, memory, cold start."""

from pathlib import Path


def null_engine_folder() -> Path:
    """The folder for a server's PYTHONPATH, see null_engine/sitecustomize.py."""
    return Path(__file__).with_name("null_engine")
