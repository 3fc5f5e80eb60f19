"""Starts and stops the gateway of a stack on this machine."""

import shutil
from collections.abc import Mapping
from pathlib import Path

from deploy import ports, stack
from deploy.console import say, step, wait_until
from deploy.databases import DEFAULT_DATABASE
from deploy.errors import SettingInvalid, StackUnhealthy
from deploy.local import REMEDY, Condition, LocalStack
from deploy.locking import lock
from deploy.operator_view import operator
from deploy.settings import StackSettings, recorded_variables

TEST_CLIENT = "test"  # the original's seldon-up made it

# Time for the supervisor to restart a process that was just killed.
_HEAL_S = 10.0


def bring_up(local: LocalStack, environ: Mapping[str, str]) -> bool:
    """Start the gateway unless a healthy one runs; the caller holds the lock.

    Args:
        local: Where.
        environ: What it is started with.

    Returns:
        Whether it was started; False if it was running.

    Raises:
        StackUnhealthy: Parts of a stack run.
        SettingInvalid: A stack runs with other settings.
        PortInUse, ProgramFailed, GatewayError: It cannot be started; nothing is left running.
    """
    if local.condition() is not Condition.ABSENT:
        _check_running(local, environ)
        return False

    settings = StackSettings.from_env(environ)
    programs = stack.gateway_programs(settings)
    ports.check_free(stack.gateway_ports(settings), settings.gateway.bind)
    local.files.prepare()
    local.files.write_variables(recorded_variables(environ))
    try:
        # First: creates the tables, and reports an unreachable database in a sentence.
        with operator(local.files, environ) as it:
            it.setup_client(TEST_CLIENT, DEFAULT_DATABASE)
        with step("starting the supervisor"):
            local.boot()
        with step("starting the gateway: control plane and Envoy"):
            local.start(programs)
    except BaseException:
        local.shut_down()
        raise
    return True


def take_down(home: Path, purge: bool) -> None:
    """Stop every process of the stack, whatever its state.

    Args:
        home: Its state folder.
        purge: Remove the state folder too, with clients, keys and logs.
    """
    if not home.is_dir():
        say(f"nothing to stop: {home} (SELDON_HOME) does not exist")
        return
    with lock(home):
        with step(f"stopping the stack in {home}"):
            count = LocalStack(home).shut_down()
        say(f"stopped {count} processes" if count else "no processes were running")
        if purge:
            shutil.rmtree(home)
            say(f"removed {home}")


def _check_running(local: LocalStack, environ: Mapping[str, str]) -> None:
    local.require_running()

    def missing() -> list[str]:
        # A command that was killed may have left a supervisor without a gateway.
        known = local.states()
        return [f"{name} is missing" for name in stack.GATEWAY_PROGRAMS if name not in known]

    if not wait_until(lambda: not local.unready() and not missing(), _HEAL_S):
        wrong = ", ".join({*local.unready(), *missing()})
        raise StackUnhealthy(f"the stack in {local.home} is unhealthy ({wrong}); {REMEDY}")
    running = local.files.variables() or {}
    wanted = recorded_variables(environ)
    here = {"SELDON_HOME": str(local.home)}
    if StackSettings.from_env({**running, **here}) != StackSettings.from_env(
        {**running, **wanted, **here}
    ):
        # Names alone: a database's URL may hold a password.
        changed = ", ".join(name for name, value in wanted.items() if running.get(name) != value)
        raise SettingInvalid(
            f"the stack in {local.home} was started with other values of {changed}; "
            f"to change them, {REMEDY}"
        )
