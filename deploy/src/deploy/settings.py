"""Settings of the stack on this machine, read once from the environment."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import env_settings as env
from deploy.errors import SettingInvalid
from deploy.state_folder import StateFolder
from seldon_gateway.settings import GatewaySettings

# The variables that a running stack keeps from the command that started it.
_RECORDED = ("SELDON_", "ENVOY_")
_NOT_RECORDED = {"SELDON_HOME", "SELDON_STACK", "SELDON_PROGRAM"}


def _ports(text: str) -> range:
    first, last = (env.number(part, int) for part in text.split("-"))
    if not 1 <= first <= last <= 65_535:
        raise ValueError
    return range(first, last + 1)


@dataclass(frozen=True, kw_only=True)
class StackSettings:
    """One stack; the gateway has its own settings: state folder, ports, database."""

    gateway: GatewaySettings
    microservice_ports: range = env.parsed(
        "SELDON_MICROSERVICE_PORTS",
        range(9100, 9900),
        _ports,
        "where model servers listen, on loopback; each takes the first free port",
        expected="a range of ports such as 9100-9899",
        words="9100-9899",
    )
    prometheus_port: int = env.integer(
        "SELDON_PROMETHEUS_PORT", 9190, 0, 65_535, "Prometheus, on loopback; 0 for none"
    )

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> "StackSettings":
        """Read SELDON_*; README.md has the table.

        Raises:
            SettingInvalid: Names the variable, its value and what was expected.
        """
        home = home_from_env(environ)
        return cls(
            gateway=GatewaySettings.from_env({**environ, "SELDON_HOME": str(home)}),
            **env.read(cls, environ, SettingInvalid),
        )

    @classmethod
    def of_stack(cls, files: StateFolder, environ: Mapping[str, str]) -> "StackSettings":
        """The settings of the running stack, else those of the environment.

        Raises:
            SettingInvalid: Names the variable, its value and what was expected.
        """
        recorded = files.variables()
        if recorded is None:
            return cls.from_env(environ)
        return cls.from_env({**recorded, "SELDON_HOME": str(files.home)})


def home_from_env(environ: Mapping[str, str]) -> Path:
    """SELDON_HOME as an absolute path.

    Raises:
        SettingInvalid: supervisord would misread it.
    """
    home = Path(environ.get("SELDON_HOME") or GatewaySettings.home).absolute().resolve()
    if re.search(r"[*?\[\n]", str(home)):
        raise SettingInvalid(f"SELDON_HOME is {str(home)!r}, expected a path without *, ? or [")
    return home


def gateway_host(gateway: GatewaySettings) -> str:
    """The host of the gateway, for URLs on this machine."""
    return reached_at(gateway.bind)


def reached_at(bind: str) -> str:
    """The host of a server that listens at `bind`, for URLs on this machine."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(bind, bind)  # noqa: S104
    return f"[{host}]" if ":" in host else host


def recorded_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables that a stack is started with."""
    return {
        name: value
        for name, value in environ.items()
        if name.startswith(_RECORDED) and name not in _NOT_RECORDED and value
    }
