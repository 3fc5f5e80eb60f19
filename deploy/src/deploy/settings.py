"""Settings of the stack on this machine, read once from the environment."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deploy.errors import SettingInvalid
from deploy.state_folder import StateFolder
from seldon_gateway.settings import GatewaySettings

DEFAULT_HOME = ".seldon"
DEFAULT_MICROSERVICE_PORTS = "9100-9899"

_LOWEST_PORT, _HIGHEST_PORT = 1, 65535

# The variables that a running stack keeps from the command that started it.
_RECORDED = ("SELDON_", "ENVOY_")
_NOT_RECORDED = {"SELDON_HOME", "SELDON_STACK", "SELDON_PROGRAM"}


@dataclass(frozen=True)
class StackSettings:
    """One stack.

    Args:
        gateway: The gateway's own settings: state folder, ports, database.
        microservice_ports: SELDON_MICROSERVICE_PORTS, where model servers listen.
        prometheus_port: SELDON_PROMETHEUS_PORT, of a Prometheus on this machine; 0 for none.
    """

    gateway: GatewaySettings
    microservice_ports: range
    prometheus_port: int

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> "StackSettings":
        """Read SELDON_*; README.md has the table.

        Raises:
            SettingInvalid: Names the variable, its value and what was expected.
        """
        home = home_from_env(environ)
        return cls(
            gateway=GatewaySettings.from_env({**environ, "SELDON_HOME": str(home)}),
            microservice_ports=_ports(
                environ.get("SELDON_MICROSERVICE_PORTS") or DEFAULT_MICROSERVICE_PORTS
            ),
            prometheus_port=_port_or_none(environ.get("SELDON_PROMETHEUS_PORT") or "9190"),
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
    home = Path(environ.get("SELDON_HOME") or DEFAULT_HOME).absolute().resolve()
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


def _port_or_none(text: str) -> int:
    if text.isascii() and text.isdigit() and int(text) <= _HIGHEST_PORT:
        return int(text)
    raise SettingInvalid(
        f"SELDON_PROMETHEUS_PORT is {text!r}, expected a port up to {_HIGHEST_PORT}, or 0 for none"
    )


def _ports(text: str) -> range:
    match = re.fullmatch(r"(\d{1,5})-(\d{1,5})", text)
    if match:
        first, last = int(match[1]), int(match[2])
        if _LOWEST_PORT <= first <= last <= _HIGHEST_PORT:
            return range(first, last + 1)
    raise SettingInvalid(
        f"SELDON_MICROSERVICE_PORTS is {text!r}, expected a range such as "
        f"{DEFAULT_MICROSERVICE_PORTS}"
    )
