"""What the serving path costs: CPU per prediction, latency, memory, cold start; see README.md."""

from pathlib import Path


def null_engine_folder() -> Path:
    """For a server's PYTHONPATH, see null_engine/sitecustomize.py."""
    return Path(__file__).with_name("null_engine")
