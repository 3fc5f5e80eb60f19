"""`python -m deploy.sweep HOME PROGRAM`: run before a program is started again.

When a server's first process is killed, its workers may live on and hold its port; nobody would
stop them. The program's script calls this before every start but the first.
"""

import sys
from pathlib import Path

from deploy import stack_processes

_GRACE_S = 0.3


def main(home: str, program: str) -> None:
    """End what a predecessor of `program` left behind."""
    # Not the script that calls this: of_stack leaves out ancestors.
    leftovers = stack_processes.of_stack(Path(home), program)
    if leftovers:
        pids = ", ".join(str(process.pid) for process in leftovers)
        sys.stderr.write(f"{program}: stopping processes left over from the previous run: {pids}\n")
        stack_processes.end(leftovers, _GRACE_S)


if __name__ == "__main__":
    main(*sys.argv[1:])
