"""Probes the stack's processes over HTTP, and reads their logs."""

import re
from pathlib import Path

import requests

_PROBE_TIMEOUT_S = 2.0
_SENTENCE = re.compile(r"serving-(rest|grpc): ")
_ANSI = re.compile(r"\x1b\[[0-9;]*m")


def loopback_session() -> requests.Session:
    """A session that ignores proxies, for requests to this machine."""
    session = requests.Session()
    session.trust_env = False
    return session


def is_ready(url: str) -> bool:
    """Whether `url` responds with 200."""
    with loopback_session() as session:
        try:
            return session.get(url, timeout=_PROBE_TIMEOUT_S).status_code == 200
        except requests.RequestException:
            return False


def log_size(log: Path) -> int:
    """Bytes in `log`, 0 when there is none."""
    try:
        return log.stat().st_size
    except FileNotFoundError:
        return 0


def last_sentence(log: Path, offset: int) -> str:
    """Why a process ended, from what it wrote to its log after the first `offset` bytes.

    Our servers print one sentence before they exit; later lines of libraries are ignored.
    """
    lines = [line.strip() for line in _since(log, offset).splitlines() if line.strip()]
    own = [line for line in lines if _SENTENCE.match(line)]
    return (own or lines or ["no output"])[-1]


def _since(log: Path, offset: int) -> str:
    if log_size(log) < offset:
        offset = 0  # moved away when its program started
    try:
        with log.open("rb") as content:
            content.seek(offset)
            return _ANSI.sub("", content.read().decode(errors="replace"))
    except FileNotFoundError:
        return ""
