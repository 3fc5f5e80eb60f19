"""The supervisor's configuration: programs in, text out.

Only names of ours and relative paths are in it: supervisord runs in the state folder. What comes
from outside is in the programs' scripts (programs.py), where a shell's quoting is enough.
"""

from pathlib import Path

from deploy.programs import Program

# A Unix socket's path holds 107 bytes; supervisord binds a temporary "<path>.<pid>" first.
LONGEST_SOCKET_PATH = 107 - len(".4194304")

CONF_FILE = "supervisord.conf"
PID_FILE = "supervisord.pid"
SUPERVISOR_LOG = "logs/supervisord.log"
PROGRAMS_FOLDER = "conf.d"
FOLDERS = ("conf.d", "logs", "run", "microservices", "metrics")

# A process killed at any time is started again at once. One that cannot start is tried again
# after 1, 2, 3 … seconds, for about 12 hours.
_START_RETRIES = 300


def supervisord_conf(socket: Path) -> str:
    """The main file, which includes one file a program."""
    return f"""\
; Written by the deploy package: changes are lost.
[unix_http_server]
file={_value(str(socket))}
chmod=0700

[supervisord]
logfile={SUPERVISOR_LOG}
logfile_maxbytes=5MB
logfile_backups=1
pidfile={PID_FILE}
umask=077

[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface

[rpcinterface:nimble]
supervisor.rpcinterface_factory=deploy.nimble_supervisor:make_nimble

[include]
files={PROGRAMS_FOLDER}/*.conf
"""


def program_conf(program: Program) -> str:
    """The section of one program."""
    return f"""\
[program:{program.name}]
command=/bin/sh {program.script}
priority={program.priority}
autostart=true
autorestart=true
startsecs=1
startretries={_START_RETRIES}
stopsignal=TERM
stopwaitsecs={program.stop_wait_s}
stopasgroup=false
killasgroup=true
stdout_logfile=NONE
stderr_logfile=NONE
"""


def fits_socket(path: Path) -> bool:
    """Whether supervisord can bind a Unix socket at `path`, named so in its configuration."""
    text = str(path)
    return len(text.encode()) <= LONGEST_SOCKET_PATH and not any(mark in text for mark in " ;#\t\n")


def _value(text: str) -> str:
    return text.replace("%", "%%")
