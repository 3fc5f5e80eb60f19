"""Client of supervisord: XML-RPC over its Unix socket, with a timeout on every call.

The supervisor package's own transport has no timeout, so a stopped supervisord would block every
command.
"""

import socket
import xmlrpc.client
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

from deploy.errors import StackUnhealthy

_CALL_TIMEOUT_S = 3.0

# Faults of supervisor.xmlrpc.Faults for calls without effect.
_ALREADY_ADDED = 90
_BAD_NAME = 10
_NOT_RUNNING = 70


@dataclass(frozen=True)
class ProcessState:
    """The state of one program in supervisord.

    Args:
        name: The program's.
        state: STARTING, RUNNING, BACKOFF, STOPPING, STOPPED, EXITED, FATAL or UNKNOWN.
        pid: 0 when there is no process.
        started: Unix time of the last start, 0 before the first.
    """

    name: str
    state: str
    pid: int
    started: int


class _UnixConnection(HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_CALL_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class _UnixTransport(xmlrpc.client.Transport):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def make_connection(self, host: Any) -> HTTPConnection:
        connection = _UnixConnection(self._path)
        self._connection = (host, connection)  # the base class closes it
        return connection


class SupervisorClient:
    """The calls of supervisord that the commands use.

    Every method raises StackUnhealthy if supervisord does not respond within 3 s.
    """

    def __init__(self, path: Path) -> None:
        """Remember the socket; connect at each call."""
        self._path = path

    def answers(self) -> bool:
        """Whether a supervisord listens and works; False when nothing listens.

        Raises:
            StackUnhealthy: Something listens and does not answer.
        """
        try:
            self._call("getState")
        except _Absent:
            return False
        return True

    def pid(self) -> int:
        """The process id of supervisord."""
        return int(self._call("getPID"))

    def states(self) -> dict[str, ProcessState]:
        """Every program by name."""
        return {
            info["name"]: ProcessState(info["name"], info["statename"], info["pid"], info["start"])
            for info in self._call("getAllProcessInfo")
        }

    def add(self, name: str) -> None:
        """Read the configuration again and start the program `name` that it now has."""
        self._call("reloadConfig")
        self._call("addProcessGroup", name, unless=_ALREADY_ADDED)

    def stop(self, name: str) -> None:
        """Stop the program without waiting; states() shows when it has stopped."""
        self._call("stopProcess", name, False, unless=_NOT_RUNNING)

    def forget(self, name: str) -> None:
        """Drop a stopped program; its file in the configuration is gone already."""
        self._call("removeProcessGroup", name, unless=_BAD_NAME)
        self._call("reloadConfig")

    def shut_down(self) -> None:
        """Stop every program, then supervisord itself; returns before it is done."""
        self._call("shutdown")

    def _call(self, method: str, *arguments: object, unless: int | None = None) -> Any:
        transport = _UnixTransport(self._path)
        try:
            with xmlrpc.client.ServerProxy("http://localhost", transport=transport) as proxy:
                return getattr(proxy.supervisor, method)(*arguments)
        except xmlrpc.client.Fault as fault:
            if fault.faultCode == unless:
                return None
            raise StackUnhealthy(f"supervisord rejected {method}: {fault.faultString}") from fault
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise _Absent(f"no supervisord listens at {self._path}") from error
        except TimeoutError as error:
            raise StackUnhealthy(
                f"supervisord did not respond within {_CALL_TIMEOUT_S:g} s at {self._path}"
            ) from error
        except (OSError, HTTPException, xmlrpc.client.Error) as error:
            raise StackUnhealthy(
                f"request to supervisord at {self._path} failed: {error}"
            ) from error


class _Absent(StackUnhealthy):
    """Nothing listens at the socket."""
