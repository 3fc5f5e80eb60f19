"""What is measured, as values: the cases, which of them are asked for, in which order."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase

from bench.errors import BenchError

MOST_CALLERS = 200  # under the queues' limit of 256, so that no server refuses
TWO_WORKER_CALLERS = 32
CALLERS_PER_CORE = 32
GATEWAY_CALLERS_PER_CORE = (8, 32)


class Way(StrEnum):
    """How a prediction is asked for."""

    POST = "post"
    JSONP = "jsonp"
    GRPC = "grpc"


@dataclass(frozen=True)
class ServerKind:
    """A server as it is started for a round.

    Attributes:
        name: Of it, and of its cases.
        protocol: rest or grpc.
        workers: Its processes.
        null: Without a model.
        peer: Another's.
        shared: All on as many cores as it has workers, the load as well, in as many threads.
        upstream: What answers at once behind a gateway of as many threads, for both protocols.
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
        """Of the load generator."""
        return self.workers if self.shared else 1


@dataclass(frozen=True)
class Case:
    """One way to one server, with so many callers at once; each has a connection of its own."""

    name: str
    server: ServerKind
    way: Way
    callers: int
    gateway: bool = False

    @property
    def label(self) -> str:
        """For a line of progress."""
        return f"{self.name}, {self.callers} caller{'s' if self.callers > 1 else ''}"


OUR_SERVERS = (
    ServerKind("rest", "rest"),
    ServerKind("grpc", "grpc"),
    ServerKind("null-rest", "rest", null=True),
    ServerKind("null-grpc", "grpc", null=True),
    ServerKind("rest-2-workers", "rest", workers=2),
    ServerKind("grpc-2-workers", "grpc", workers=2),
    # Next to each other: they are compared, round by round.
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
    """Every case there is.

    Args:
        callers: How many at once; two workers are measured with TWO_WORKER_CALLERS alone, and
            what runs on one core and on two with CALLERS_PER_CORE for each, the gateway there
            with GATEWAY_CALLERS_PER_CORE.
        peers: Other servers, by name, and what they speak.
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


def chosen(cases: Sequence[Case], patterns: str) -> list[Case]:
    """Those whose name fits one of the patterns, separated by commas; all of them for "".

    Raises:
        BenchError: A pattern fits none.
    """
    wanted = [pattern.strip() for pattern in patterns.split(",") if pattern.strip()]
    for pattern in wanted:
        if not any(fnmatchcase(case.name, pattern) for case in cases):
            names = ", ".join(dict.fromkeys(case.name for case in cases))
            raise BenchError(f"CASES has {pattern!r}, which fits none of: {names}")
    if not wanted:
        return list(cases)
    return [case for case in cases if any(fnmatchcase(case.name, one) for one in wanted)]


def parse_callers(text: str) -> list[int]:
    """Read "1,8,32".

    Raises:
        BenchError: No list of whole numbers from 1 to MOST_CALLERS.
    """
    words = [word.strip() for word in text.split(",")]
    if not all(word.isascii() and word.isdigit() for word in words) or not all(
        1 <= int(word) <= MOST_CALLERS for word in words
    ):
        raise BenchError(
            f"CALLERS is {text!r}, expected whole numbers from 1 to {MOST_CALLERS} such as 1,8,32"
        )
    return sorted({int(word) for word in words})


def in_turns(cases: Iterable[Case], round_number: int) -> list[tuple[ServerKind, list[Case]]]:
    """One round: each server with its cases.

    Every round begins with another server, and every second one goes through a server's cases
    backwards, so that a machine that gets slower or faster does not always hit the same ones. What
    runs on one core and what is compared with it on two stay next to each other.
    """
    by_server: dict[ServerKind, list[Case]] = {}
    for case in cases:
        by_server.setdefault(case.server, []).append(case)
    turns = list(by_server.items())
    first = round_number % len(turns)
    if turns[first][0].shared and turns[first][0].workers > 1:
        first -= 1
    turns = turns[first:] + turns[:first]
    return [(server, own[::-1] if round_number % 2 else own) for server, own in turns]
