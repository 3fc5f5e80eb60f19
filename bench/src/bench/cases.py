"""The cases of the benchmark, their selection and order. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase

from bench.errors import BenchError

MOST_CALLERS = 200  # below the servers' queue limit of 256
TWO_WORKER_CALLERS = 32
CALLERS_PER_CORE = 32
GATEWAY_CALLERS_PER_CORE = (8, 32)


class Way(StrEnum):
    """The request variant."""

    POST = "post"
    JSONP = "jsonp"
    GRPC = "grpc"


@dataclass(frozen=True)
class ServerKind:
    """A server configuration.

    Attributes:
        name: The name of the server and its cases.
        protocol: rest or grpc.
        workers: Worker processes.
        null: With the null engine instead of a model.
        peer: Another project's server.
        shared: Server and load generator share as many cores as there are workers.
        upstream: A null upstream for both protocols, behind a gateway with `workers` threads.
    """

    name: str
    protocol: str
    workers: int = 1
    null: bool = False
    peer: bool = False
    shared: bool = False
    upstream: bool = False

    @property
    def load_threads(self) -> int:
        """Threads of the load generator."""
        return self.workers if self.shared else 1


@dataclass(frozen=True)
class Case:
    """One request variant to one server, with a number of concurrent connections."""

    name: str
    server: ServerKind
    way: Way
    callers: int
    gateway: bool = False

    @property
    def label(self) -> str:
        """The display name of the case."""
        return f"{self.name}, {self.callers} connection{'s' if self.callers > 1 else ''}"


OUR_SERVERS = (
    ServerKind("rest", "rest"),
    ServerKind("grpc", "grpc"),
    ServerKind("null-rest", "rest", null=True),
    ServerKind("null-grpc", "grpc", null=True),
    ServerKind("rest-2-workers", "rest", workers=2),
    ServerKind("grpc-2-workers", "grpc", workers=2),
    # Adjacent, as they are compared within a round.
    ServerKind("rest-on-1-core", "rest", shared=True),
    ServerKind("rest-on-2-cores", "rest", workers=2, shared=True),
    ServerKind("grpc-on-1-core", "grpc", shared=True),
    ServerKind("grpc-on-2-cores", "grpc", workers=2, shared=True),
    ServerKind("null-rest-on-1-core", "rest", null=True, shared=True),
    ServerKind("null-rest-on-2-cores", "rest", workers=2, null=True, shared=True),
    ServerKind("null-grpc-on-1-core", "grpc", null=True, shared=True),
    ServerKind("null-grpc-on-2-cores", "grpc", workers=2, null=True, shared=True),
    ServerKind("gateway-on-1-core", "rest", null=True, shared=True, upstream=True),
    ServerKind("gateway-on-2-cores", "rest", workers=2, null=True, shared=True, upstream=True),
)


def all_cases(callers: Sequence[int], peers: Sequence[tuple[str, Way]] = ()) -> list[Case]:
    """Every case.

    Args:
        callers: Numbers of connections; servers with two workers use TWO_WORKER_CALLERS, scaling
            cases CALLERS_PER_CORE per core, the gateway's GATEWAY_CALLERS_PER_CORE.
        peers: Names and request variants of other servers.
    """
    cases = []
    for server in OUR_SERVERS:
        ways = (Way.GRPC,) if server.protocol == "grpc" else (Way.POST, Way.JSONP)
        if server.upstream:
            cases += [
                Case(server.name.replace("-", f"-{name}-", 1), server, way, count, gateway=True)
                for name, way in (("rest", Way.POST), ("grpc", Way.GRPC))
                for count in (each * server.workers for each in GATEWAY_CALLERS_PER_CORE)
            ]
            continue
        if server.shared:
            cases.append(Case(server.name, server, ways[0], CALLERS_PER_CORE * server.workers))
            continue
        if server.workers > 1:
            cases.append(Case(server.name, server, ways[0], TWO_WORKER_CALLERS))
            continue
        for way in ways:
            name = server.name if way is Way.GRPC else f"{server.name}-{way}"
            for gateway in (False, True):
                named = f"{name}-gateway" if gateway else name
                cases += [Case(named, server, way, count, gateway) for count in callers]
    for name, way in peers:
        protocol = "grpc" if way is Way.GRPC else "rest"
        server = ServerKind(name, protocol, peer=True)
        cases += [Case(name, server, way, count) for count in callers]
    return cases


def select(cases: Sequence[Case], patterns: str) -> list[Case]:
    """The cases that match one of the comma-separated patterns; all for "".

    Raises:
        BenchError: A pattern matches no case.
    """
    wanted = [pattern.strip() for pattern in patterns.split(",") if pattern.strip()]
    for pattern in wanted:
        if not any(fnmatchcase(case.name, pattern) for case in cases):
            names = ", ".join(dict.fromkeys(case.name for case in cases))
            raise BenchError(f"CASES has {pattern!r}, expected a pattern of: {names}")
    if not wanted:
        return list(cases)
    return [case for case in cases if any(fnmatchcase(case.name, one) for one in wanted)]


def parse_callers(text: str) -> list[int]:
    """Parse "1,8,32".

    Raises:
        BenchError: Not whole numbers from 1 to MOST_CALLERS.
    """
    words = [word.strip() for word in text.split(",")]
    if not all(word.isascii() and word.isdigit() for word in words) or not all(
        1 <= int(word) <= MOST_CALLERS for word in words
    ):
        raise BenchError(
            f"CALLERS is {text!r}, expected whole numbers from 1 to {MOST_CALLERS} such as 1,8,32"
        )
    return sorted({int(word) for word in words})


def interleaved(cases: Iterable[Case], round_number: int) -> list[tuple[ServerKind, list[Case]]]:
    """The servers and cases of one round, in order.

    The order rotates every round and reverses a server's cases every second round, which spreads
    drift of the machine. The scaling cases of one and two cores stay adjacent.
    """
    by_server: dict[ServerKind, list[Case]] = {}
    for case in cases:
        by_server.setdefault(case.server, []).append(case)
    order = list(by_server.items())
    first = round_number % len(order)
    if order[first][0].shared and order[first][0].workers > 1:
        first -= 1
    order = order[first:] + order[:first]
    return [(server, own[::-1] if round_number % 2 else own) for server, own in order]
