"""The programs of one stack on this machine: started, watched and stopped through supervisord.

Independent of gateways and models.
"""

import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from enum import Enum, auto
from pathlib import Path

import psutil

from deploy import probes, stack_processes, supervisor_conf
from deploy.console import wait_until
from deploy.errors import ProgramFailed, StackNotRunning, StackUnhealthy
from deploy.programs import STACK_VARIABLE, Program
from deploy.state_folder import StateFolder
from deploy.supervisor_client import ProcessState, SupervisorClient

REMEDY = "run `make undeploy`, then `make deploy` (seldon-down, then seldon-up)"

# States in which a program that was started has failed.
_FAILED = {"BACKOFF", "FATAL", "EXITED", "STOPPED", "UNKNOWN"}

_SUPERVISOR_TIMEOUT_S = 10.0
_ORPHAN_GRACE_S = 10.0
_ROUNDS = 2  # a stopping server may have started a worker meanwhile

# Programs get their settings explicitly (programs.py); these are never inherited.
_NOT_INHERITED = ("SELDON_", "MODEL_", "REST_", "GRPC_", "PROMETHEUS_", "GUNICORN_", "SUPERVISOR_")


class Condition(Enum):
    """The condition of a stack."""

    ABSENT = auto()
    RUNNING = auto()
    ORPHANED = auto()  # its supervisor is gone, other processes are not


class LocalStack:
    """One stack, by its state folder."""

    def __init__(self, home: Path) -> None:
        """Name the stack whose state is in `home`, an absolute path; touches nothing."""
        self.home = home
        self.files = StateFolder(home)

    @property
    def _supervisor(self) -> SupervisorClient:
        return SupervisorClient(self.files.socket)

    # State

    def condition(self) -> Condition:
        """Look for the supervisor, then for processes without one.

        Raises:
            StackUnhealthy: The supervisor is there and does not answer.
        """
        try:
            if self._supervisor.answers():
                return Condition.RUNNING
        except StackUnhealthy as error:
            raise StackUnhealthy(f"{error}; {REMEDY}") from error
        return Condition.ORPHANED if stack_processes.of_stack(self.home) else Condition.ABSENT

    def require_running(self) -> None:
        """Return if there is a stack with its supervisor.

        Raises:
            StackNotRunning: There is none.
            StackUnhealthy: There is one without a supervisor, or with one that hangs.
        """
        condition = self.condition()
        if condition is Condition.ABSENT:
            raise StackNotRunning(
                f"no stack is running in {self.home} (SELDON_HOME); "
                "start one with `make deploy` or seldon-up"
            )
        if condition is Condition.ORPHANED:
            count = len(stack_processes.of_stack(self.home))
            raise StackUnhealthy(
                f"the supervisor of the stack in {self.home} is not running, but {count} of its "
                f"processes are; {REMEDY}"
            )

    def states(self) -> dict[str, ProcessState]:
        """What the supervisor knows of every program."""
        return self._supervisor.states()

    def supervisor_process(self) -> psutil.Process:
        """The supervisor itself."""
        return psutil.Process(self._supervisor.pid())

    def unready(self) -> list[str]:
        """The programs that are not ready, each with its state."""
        states = self.states()
        return [
            f"{name} is {states[name].state if name in states else 'missing'}"
            for name, program in self.files.programs().items()
            if not (
                name in states
                and states[name].state in ("RUNNING", "STARTING")
                and probes.is_ready(program.ready_url)
            )
        ]

    # Start

    def boot(self) -> None:
        """Start a supervisor that has no programs yet.

        Raises:
            ProgramFailed: supervisord did not start.
        """
        self.files.clear_programs()
        self.files.remove_socket()
        self.files.prepare()
        self.files.write_supervisor_conf()
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith(_NOT_INHERITED)
        }
        started = subprocess.run(
            [sys.executable, "-m", "supervisor.supervisord", "-c", supervisor_conf.CONF_FILE],
            cwd=self.home,
            env={**inherited, STACK_VARIABLE: str(self.home)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_SUPERVISOR_TIMEOUT_S,
            check=False,
        )
        if started.returncode != 0 or not wait_until(
            self._supervisor.answers, _SUPERVISOR_TIMEOUT_S, every_s=0.02
        ):
            said = (started.stderr or started.stdout).strip().splitlines()
            raise ProgramFailed(
                f"supervisord did not start: {said[-1] if said else 'no output'} "
                f"(log: {self.home / supervisor_conf.SUPERVISOR_LOG})"
            )

    def start(self, programs: Sequence[Program]) -> None:
        """Start programs and wait until each is ready.

        After a failure they are still registered: remove() them.

        Raises:
            ProgramFailed: With the program's own sentence.
        """
        log_sizes = {name: probes.log_size(self.home / log) for name, log in _logs(programs)}
        for program in programs:
            reap = (sys.executable, "-m", "deploy.reaper", str(self.home), program.name)
            self.files.write_program(program, reap)
            self._supervisor.add(program.name)
        waiting = list(programs)

        def all_ready() -> bool:
            states = self.states()
            for program in list(waiting):
                state = states.get(program.name)
                if state is None or state.state in _FAILED:
                    said = probes.last_sentence(self.home / program.log, log_sizes[program.name])
                    raise ProgramFailed(
                        f"{program.name} did not start: {said} (log: {self.home / program.log})"
                    )
                if probes.is_ready(program.ready_url):
                    waiting.remove(program)
            return not waiting

        limit_s = max((program.start_limit_s for program in programs), default=0)
        if not wait_until(all_ready, limit_s):
            raise ProgramFailed(
                f"{waiting[0].name} is not ready after {limit_s:g} s "
                f"(log: {self.home / waiting[0].log})"
            )
        self.files.write_targets()

    # Stop

    def remove(self, names: Sequence[str]) -> None:
        """Stop programs, letting each drain, and forget them; their logs stay.

        Raises:
            StackUnhealthy: The supervisor does not stop them.
        """
        known = self.states()
        programs = self.files.programs()
        for name in names:
            self.files.unlist_program(name)
            if name in known:
                self._supervisor.stop(name)
        limit_s = max((programs[name].stop_wait_s for name in names if name in programs), default=0)

        def all_stopped() -> bool:
            states = self.states()
            return all(name not in states or states[name].pid == 0 for name in names)

        if not wait_until(all_stopped, limit_s + _SUPERVISOR_TIMEOUT_S, every_s=0.05):
            raise StackUnhealthy(f"supervisord did not stop {', '.join(names)}; {REMEDY}")
        for name in names:
            if name in known:
                self._supervisor.forget(name)
            # Processes left over by a killed program.
            stack_processes.end(stack_processes.of_stack(self.home, name), _ORPHAN_GRACE_S)
            self.files.drop_program(name)
        self.files.write_targets()

    def shut_down(self) -> int:
        """Stop every process of the stack, with or without a supervisor.

        Returns:
            How many processes were there.
        """
        count = len(stack_processes.of_stack(self.home))
        try:
            supervisor = self.supervisor_process()
            programs = sorted(self.files.programs().values(), key=lambda it: -it.priority)
            limit_s = max((program.stop_wait_s for program in programs), default=0)
            for program in programs:  # in parallel; shutdown stops one after the other
                self._supervisor.stop(program.name)
            self._supervisor.shut_down()
            stack_processes.wait_gone([supervisor], limit_s + _SUPERVISOR_TIMEOUT_S)
        except (StackUnhealthy, psutil.NoSuchProcess):
            pass  # gone or hanging: its processes are found by their environment
        # A hanging one must not restart what is stopped below.
        stack_processes.kill(stack_processes.supervisors(self.home))
        for _ in range(_ROUNDS):
            stack_processes.end(stack_processes.of_stack(self.home), _ORPHAN_GRACE_S)
        self.files.clear_programs()
        self.files.remove_socket()
        self.files.drop_variables()
        return count


def _logs(programs: Iterable[Program]) -> Iterable[tuple[str, str]]:
    return ((program.name, program.log) for program in programs)
