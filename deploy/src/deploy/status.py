"""The status of each program of the stack."""

import time
from dataclasses import dataclass

import psutil

from deploy import probes
from deploy.local import LocalStack

HEALTHY = "healthy"
_SUPERVISOR = "supervisord"


@dataclass(frozen=True)
class ServiceStatus:
    """One line of the table.

    Args:
        name: The program's, or the supervisor's.
        state: As the supervisor says it, in lower case.
        pid: 0 when there is no process.
        port: 0 when it has none.
        uptime_s: Since its last start; 0 when there is no process.
        restarts: Since it was added to the stack.
        health: "healthy", or what is wrong.
    """

    name: str
    state: str
    pid: int
    port: int
    uptime_s: float
    restarts: int
    health: str


def collect(stack: LocalStack) -> list[ServiceStatus]:
    """Collect the status of every program of a running stack.

    Raises:
        StackNotRunning: There is none.
        StackUnhealthy: Its supervisor is gone or hangs.
    """
    stack.require_running()
    supervisor = stack.supervisor_process()
    rows = [
        ServiceStatus(
            _SUPERVISOR, "running", supervisor.pid, 0, _uptime_s(supervisor.pid), 0, HEALTHY
        )
    ]
    states = stack.states()
    for name, program in stack.files.programs().items():
        state = states.get(name)
        pid = state.pid if state else 0
        running = state is not None and state.state in ("RUNNING", "STARTING")
        ready = running and probes.is_ready(program.ready_url)
        rows.append(
            ServiceStatus(
                name=name,
                state=state.state.lower() if state else "missing",
                pid=pid,
                port=program.port,
                uptime_s=_uptime_s(pid),
                restarts=stack.files.restarts(name),
                health=HEALTHY if ready else "not ready" if running else "down",
            )
        )
    return rows


def duration_text(seconds: float) -> str:
    """A duration as text: 45s, 3m 12s, 5h 2m, 2d 4h."""
    whole = int(seconds)
    days, hours, minutes = whole // 86400, whole // 3600 % 24, whole // 60 % 60
    if days:
        return f"{days}d {hours}h"
    if hours:
        return f"{hours}h {minutes}m"
    if minutes:
        return f"{minutes}m {whole % 60}s"
    return f"{whole}s"


def _uptime_s(pid: int) -> float:
    try:
        return max(0.0, time.time() - psutil.Process(pid).create_time()) if pid else 0.0
    except psutil.NoSuchProcess:
        return 0.0
