"""Runs Prometheus with the stack on this machine, if its binary is installed."""

import shutil

from deploy.console import say, step
from deploy.errors import ProgramFailed
from deploy.local import LocalStack
from deploy.programs import Program
from deploy.settings import StackSettings
from deploy.state_folder import write
from monitoring import prometheus, rules
from monitoring.metrics import LOADTEST_PORT

NAME = "prometheus"
BINARY = "prometheus"
MISSING = "install it (apt-get install prometheus, or prometheus.io) and run make deploy again"

# Stopped first, so that it records no failures of a stopping stack.
_PRIORITY = 990
_KEPT = "15d"


def bring_up(local: LocalStack, settings: StackSettings) -> None:
    """Start Prometheus if it is enabled, installed and not running."""
    if not settings.prometheus_port or NAME in local.files.programs():
        return
    binary = shutil.which(BINARY)
    if binary is None:
        say(f"Prometheus is not started: {BINARY} is not on the PATH; {MISSING}")
        return
    folder = local.home / NAME
    folder.mkdir(mode=0o700, exist_ok=True)
    document = prometheus.on_one_machine(
        str(local.files.targets),
        f"127.0.0.1:{settings.gateway.admin_port}",
        f"127.0.0.1:{LOADTEST_PORT}",
    )
    write(folder / "prometheus.yaml", prometheus.text(document))
    write(folder / prometheus.RULES_FILE, prometheus.text(rules.rules()))
    address = f"127.0.0.1:{settings.prometheus_port}"
    try:
        with step("starting Prometheus"):
            local.start([program(binary, address)])
    except ProgramFailed as error:
        local.remove([NAME])
        say(f"Prometheus is not started: {error}; set SELDON_PROMETHEUS_PORT=0 to leave it out")


def program(binary: str, address: str) -> Program:
    """Its command, run in the state folder."""
    return Program(
        name=NAME,
        argv=(
            binary,
            f"--config.file={NAME}/prometheus.yaml",
            f"--storage.tsdb.path={NAME}/data",
            f"--storage.tsdb.retention.time={_KEPT}",
            f"--web.listen-address={address}",
            "--log.level=warn",
        ),
        port=int(address.rpartition(":")[2]),
        ready_url=f"http://{address}/-/ready",
        priority=_PRIORITY,
    )
