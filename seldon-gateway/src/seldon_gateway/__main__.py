"""`python -m seldon_gateway control-plane | bootstrap`: what the container images run."""

import argparse
import json
import os
import sys

from seldon_gateway.envoy_bootstrap import bootstrap
from seldon_gateway.errors import GatewayError
from seldon_gateway.processes import control_plane_command
from seldon_gateway.registry import Registry
from seldon_gateway.settings import GatewaySettings


def main() -> None:
    """Run the control plane, or print Envoy's bootstrap; exit with a sentence on an error."""
    parser = argparse.ArgumentParser(prog="seldon-gateway")
    parser.add_argument("what", choices=("control-plane", "bootstrap"))
    what = parser.parse_args().what
    try:
        settings = GatewaySettings.from_env(os.environ)
    except GatewayError as error:
        sys.exit(f"seldon-gateway: {error}")
    if what == "bootstrap":
        json.dump(bootstrap(settings), sys.stdout, indent=1)
        return
    _check(settings)
    command = control_plane_command(settings)
    os.execve(command.argv[0], command.argv, os.environ | command.env)  # noqa: S606 - no shell


def _check(settings: GatewaySettings) -> None:
    """Check the settings before gunicorn does, which would print tracebacks.

    Exits:
        With one sentence if the state cannot be stored.
    """
    try:
        settings.home.mkdir(parents=True, exist_ok=True)
        writable = os.access(settings.home, os.W_OK | os.X_OK)
    except OSError:
        writable = False
    if not writable:
        sys.exit(
            f"seldon-gateway: SELDON_HOME is {settings.home}, expected a folder that user "
            f"{os.geteuid()} can write the registry and the signing key to; run "
            f"chown -R {os.geteuid()} on it, or set SELDON_HOME to another"
        )
    try:
        Registry.open(settings.database_url).close()
    except GatewayError as error:
        sys.exit(f"seldon-gateway: {error}")


if __name__ == "__main__":
    main()
