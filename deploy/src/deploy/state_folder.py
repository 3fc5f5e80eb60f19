"""The files of a stack in SELDON_HOME.

supervisord.conf, conf.d/   what the supervisor runs
run/                        each program's script, description and starts
logs/                       each program's log
microservices/              what start-microservice started
stack.json                  the settings the stack was started with
targets.json                scrape targets of the servers, for Prometheus (file_sd)
lock                        held by the command that changes the stack
seldon.db, secrets/, …      the gateway's data, which seldon-down keeps

Everything is readable by its owner alone.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from deploy import supervisor_conf
from deploy.errors import MicroserviceRefused, StackNotRunning
from deploy.microservices import Api, Microservice, from_json, to_json
from deploy.programs import Program, script_text
from deploy.targets import scrape_targets

_SOCKET_NAME = "supervisor.sock"
# Names the socket's folder when the home's own path is too long for a socket.
_SOCKET_RECORD = "supervisor.socket"
_SETTINGS = "stack.json"
_TARGETS = "targets.json"
_FOLDERS = ("conf.d", "logs", "run", "microservices", "metrics")


class StateFolder:
    """Reads and writes the files of one stack."""

    def __init__(self, home: Path) -> None:
        """Name the folder, an absolute path; touches nothing."""
        self.home = home

    def prepare(self) -> None:
        """Create the folders, readable by their owner alone: they will hold secrets."""
        os.umask(0o077)  # the folder may be there already, and open to others
        self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in _FOLDERS:
            (self.home / folder).mkdir(exist_ok=True)

    def require(self) -> None:
        """Fail if the folder does not exist, instead of creating it.

        Raises:
            StackNotRunning: Names the folder.
        """
        if not self.home.is_dir():
            raise StackNotRunning(
                f"there is no stack in {self.home} (SELDON_HOME); start one with `make deploy` or "
                "seldon-up, or set SELDON_HOME to the folder of another one"
            )

    def clear_programs(self) -> None:
        """Forget every program of a stack that is gone."""
        for folder in ("conf.d", "run", "metrics"):
            shutil.rmtree(self.home / folder, ignore_errors=True)
        (self.home / _TARGETS).unlink(missing_ok=True)

    # The supervisor's

    def write_supervisor_conf(self) -> Path:
        """Write supervisord.conf and return the socket it names."""
        socket = self.home / _SOCKET_NAME
        if not supervisor_conf.fits_socket(socket):
            socket = Path(tempfile.mkdtemp(prefix="seldon-")) / _SOCKET_NAME  # mode 0700
            write(self.home / _SOCKET_RECORD, f"{socket}\n")
        write(
            self.home / supervisor_conf.CONF_FILE,
            supervisor_conf.supervisord_conf(socket),
        )
        return socket

    @property
    def socket(self) -> Path:
        """The socket of the supervisor."""
        record = self.home / _SOCKET_RECORD
        return Path(record.read_text().strip()) if record.exists() else self.home / _SOCKET_NAME

    def remove_socket(self) -> None:
        """Remove the socket, and its folder where it has one of its own."""
        socket = self.socket
        socket.unlink(missing_ok=True)
        record = self.home / _SOCKET_RECORD
        if record.exists():
            if socket.parent.exists():
                socket.parent.rmdir()
            record.unlink()

    # Programs

    def write_program(self, program: Program, reap: tuple[str, ...]) -> None:
        """Write all that the supervisor needs to run `program`."""
        (self.home / program.starts).unlink(missing_ok=True)
        write(self.home / program.script, script_text(program, str(self.home), reap))
        write(self._description(program.name), json.dumps(asdict(program), indent=2) + "\n")
        # Last: this file makes the program exist.
        write(self._conf(program.name), supervisor_conf.program_conf(program))

    def unlist_program(self, name: str) -> None:
        """Remove the program from the supervisor's configuration."""
        self._conf(name).unlink(missing_ok=True)

    def drop_program(self, name: str) -> None:
        """Remove the rest of the program's files, but for its log."""
        for leftover in ("sh", "json", "starts"):
            (self.home / "run" / f"{name}.{leftover}").unlink(missing_ok=True)

    def programs(self) -> dict[str, Program]:
        """Every program as it was written, by name."""
        documents = [
            json.loads(path.read_text()) for path in sorted((self.home / "run").glob("*.json"))
        ]
        return {
            document["name"]: Program(**{**document, "argv": tuple(document["argv"])})
            for document in documents
        }

    def restarts(self, name: str) -> int:
        """How often the program was started again since it was added."""
        try:
            starts = (self.home / "run" / f"{name}.starts").read_text()
        except FileNotFoundError:
            return 0
        return max(0, len(starts.splitlines()) - 1)

    def _conf(self, name: str) -> Path:
        return self.home / supervisor_conf.PROGRAMS_FOLDER / f"{name}.conf"

    def _description(self, name: str) -> Path:
        return self.home / "run" / f"{name}.json"

    # Records

    def write_microservice(self, microservice: Microservice) -> None:
        """Record what was started."""
        write(self.home / "microservices" / microservice.file_name, to_json(microservice))

    def microservice(self, name: str, api: Api) -> Microservice | None:
        """What was started last under that name, None when nothing was.

        Raises:
            MicroserviceRefused: The record was damaged.
        """
        path = self.home / "microservices" / f"microservice-{name}-{api}.json"
        try:
            return from_json(path.read_text())
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise MicroserviceRefused(f"{path} is damaged ({error}); remove it") from error

    def write_targets(self) -> None:
        """Record the scrape targets of the running programs."""
        targets = scrape_targets(self.programs().values())
        write(self.targets, json.dumps(targets, indent=2) + "\n")

    @property
    def targets(self) -> Path:
        """The file of `write_targets`."""
        return self.home / _TARGETS

    def write_variables(self, variables: Mapping[str, str]) -> None:
        """Record the variables that the stack is started with."""
        write(self.home / _SETTINGS, json.dumps(dict(variables), indent=2) + "\n")

    def variables(self) -> dict[str, str] | None:
        """The variables that the stack was started with, None when there is no stack."""
        try:
            return dict(json.loads((self.home / _SETTINGS).read_text()))
        except (FileNotFoundError, ValueError):
            return None

    def drop_variables(self) -> None:
        """Record that no stack is running."""
        (self.home / _SETTINGS).unlink(missing_ok=True)


def write(path: Path, text: str) -> None:
    """Replace a file atomically; only its owner can read it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as content:
        content.write(text)
    temporary.replace(path)
