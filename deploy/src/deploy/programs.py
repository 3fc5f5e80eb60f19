"""A program of the stack, and the two texts it becomes: a shell script and a supervisor section.

The section holds only names that are ours; whatever comes from outside (paths, settings) is quoted
in the script, so no per cent sign, semicolon or space in a path can change the configuration.
"""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field

LOG_LIMIT_BYTES = 20_000_000  # looked at when the program starts, then moved to <log>.1
OPEN_FILES = 65_536

STACK_VARIABLE = "SELDON_STACK"
PROGRAM_VARIABLE = "SELDON_PROGRAM"


@dataclass(frozen=True)
class Program:
    """One process that the supervisor keeps running.

    Args:
        name: Also the name of its log and script; letters, digits and dashes.
        argv: The command.
        environment: What the command reads, beside what every program gets.
        port: Where it is reached.
        ready_url: Answers 200 when the program does its work.
        priority: Programs are stopped from the highest to the lowest.
        stop_wait_s: Time to drain after SIGTERM, before SIGKILL.
        start_limit_s: Time to become ready.
    """

    name: str
    argv: tuple[str, ...]
    port: int
    ready_url: str
    environment: Mapping[str, str] = field(default_factory=dict)
    priority: int = 500
    stop_wait_s: int = 15
    start_limit_s: int = 60

    @property
    def script(self) -> str:
        """Path of the shell script, relative to the state folder."""
        return f"run/{self.name}.sh"

    @property
    def starts(self) -> str:
        """Path of the file with one line a start, relative to the state folder."""
        return f"run/{self.name}.starts"

    @property
    def log(self) -> str:
        """Path of the log, relative to the state folder."""
        return f"logs/{self.name}.log"


def script_text(program: Program, home: str, reap: tuple[str, ...]) -> str:
    """The shell script that the supervisor runs for `program`, in the state folder.

    The process writes its log itself, so it does not depend on the supervisor's pipes: when the
    supervisor dies, everything else goes on.

    Args:
        program: What to run.
        home: Absolute path of the state folder; marks every process of the stack.
        reap: Command that ends what a killed predecessor of the program left behind.
    """
    environment = {
        **program.environment,
        STACK_VARIABLE: home,
        PROGRAM_VARIABLE: program.name,
        "PYTHONUNBUFFERED": "1",
    }
    exports = [f"export {key}={shlex.quote(value)}" for key, value in sorted(environment.items())]
    return "\n".join(
        [
            "#!/bin/sh",
            "# Written by the deploy package: changes are lost.",
            f"touch {program.log}",
            f'if [ "$(wc -c <{program.log})" -gt {LOG_LIMIT_BYTES} ]; then',
            f"    mv -f {program.log} {program.log}.1",
            "fi",
            f"exec </dev/null >>{program.log} 2>&1",
            f'ulimit -n {OPEN_FILES} 2>/dev/null || ulimit -n "$(ulimit -H -n)"',
            *exports,
            f"if [ -s {program.starts} ]; then",
            f"    {shlex.join(reap)}",
            "fi",
            f"date +%s >>{program.starts}",
            f"exec {shlex.join(program.argv)}",
            "",
        ]
    )
