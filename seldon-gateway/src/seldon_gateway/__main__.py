"""`python -m seldon_gateway control-plane | bootstrap`: what the container images run."""

import argparse
import json
import os
import sys

from seldon_gateway.envoy_bootstrap import bootstrap
from seldon_gateway.errors import GatewayError
from seldon_gateway.processes import control_plane_command
from seldon_gateway.settings import GatewaySettings


def main() -> None:
    """Become the control plane, or print Envoy's bootstrap; one sentence and 1 on an error."""
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
    command = control_plane_command(settings)
    settings.home.mkdir(parents=True, exist_ok=True)
    os.execve(command.argv[0], command.argv, os.environ | command.env)  # noqa: S606 - no shell


if __name__ == "__main__":
    main()
