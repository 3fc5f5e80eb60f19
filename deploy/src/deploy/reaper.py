"""`python -m deploy.reaper HOME PROGRAM`: stops what a killed program left running.

When a server's parent process is killed, its workers may survive and hold its port. The program's
script runs this before every start but the first.
"""

import sys
from pathlib import Path

from deploy import stack_processes

_GRACE_S = 0.3


def main(home: str, program: str) -> None:
    """Stop the processes that the previous run of `program` left behind."""
    # of_stack leaves out ancestors, so not the calling script.
    leftovers = stack_processes.of_stack(Path(home), program)
    if leftovers:
        pids = ", ".join(str(process.pid) for process in leftovers)
        sys.stderr.write(f"{program}: stopping processes left over from the previous run: {pids}\n")
        stack_processes.end(leftovers, _GRACE_S)


if __name__ == "__main__":
    main(*sys.argv[1:])
