"""The cases of the benchmark, their selection and order. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase

from bench.errors import BenchError

MOST_CALLERS = 200  # below the servers' queue limit of 256
TWO_WORKER_CALLERS = 32
CALLERS_PER_CORE = 32
NULL = "null-"  # prefix of servers without a model and their cases
GATEWAY_CALLERS_PER_CORE = (8, 32)


class Way(StrEnum):
    """The request variant."""

    POST = "post"
    JSONP = "jsonp"
    GRPC = "grpc"


class Form(StrEnum):
    """The format of requests and responses."""

    OURS = "ours"
    V1 = "v1"  # TensorFlow Serving's and KServe's {"instances": [[…]]}
    V1_BARE = "v1-bare"  # V1 requests, bare array responses, as BentoML's batches
    V2 = "v2"  # the open inference protocol, JSON tensors
    V2_BINARY = "v2-binary"  # the same with the binary extension
    V2_GRPC = "v2-grpc"  # the same over gRPC
    SELDON = "seldon"  # Seldon Core's {"data": {"ndarray": [[…]]}}
    SELDON_GRPC = "seldon-grpc"  # Seldon Core's SeldonMessage
    RECORDED = "recorded"  # the bytes of a file


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
    form: Form = Form.OURS

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
# What every server of ours with one worker is asked, and the name of its cases.
OUR_FORMS: Mapping[str, Sequence[tuple[str, Way, Form]]] = {
    "rest": (
        ("rest-post", Way.POST, Form.OURS),
        ("rest-jsonp", Way.JSONP, Form.OURS),
        ("rest-v2", Way.POST, Form.V2),
        ("rest-v2-binary", Way.POST, Form.V2_BINARY),
    ),
    "grpc": (("grpc", Way.GRPC, Form.OURS), ("grpc-v2", Way.GRPC, Form.V2_GRPC)),
}
# The case of ours that is compared with a peer: with V2 the requests are the same bytes.
COUNTERPARTS: Mapping[Form, str] = {
    Form.V1: "rest-post",
    Form.V1_BARE: "rest-post",
    Form.SELDON: "rest-post",
    Form.SELDON_GRPC: "grpc",
    Form.V2: "rest-v2",
    Form.V2_BINARY: "rest-v2-binary",
    Form.V2_GRPC: "grpc-v2",
}


def all_cases(callers: Sequence[int], peers: Sequence[tuple[str, Way, Form]] = ()) -> list[Case]:
    """Every case.

    Args:
        callers: Numbers of connections; servers with two workers use TWO_WORKER_CALLERS, scaling
            cases CALLERS_PER_CORE per core, the gateway's GATEWAY_CALLERS_PER_CORE.
        peers: Names, request variants and formats of other servers.
    """
    cases = []
    for server in OUR_SERVERS:
        forms = OUR_FORMS[server.protocol]
        if server.upstream:
            cases += [
                Case(server.name.replace("-", f"-{name}-", 1), server, way, count, gateway=True)
                for name, way in (("rest", Way.POST), ("grpc", Way.GRPC))
                for count in (each * server.workers for each in GATEWAY_CALLERS_PER_CORE)
            ]
            continue
        if server.shared:
            cases.append(Case(server.name, server, forms[0][1], CALLERS_PER_CORE * server.workers))
            continue
        if server.workers > 1:
            cases.append(Case(server.name, server, forms[0][1], TWO_WORKER_CALLERS))
            continue
        for name, way, form in forms:
            for gateway in (False, True):
                named = f"{NULL if server.null else ''}{name}{'-gateway' if gateway else ''}"
                cases += [Case(named, server, way, count, gateway, form) for count in callers]
    for name, way, form in peers:
        protocol = "grpc" if way is Way.GRPC else "rest"
        server = ServerKind(name, protocol, peer=True)
        cases += [Case(name, server, way, count, form=form) for count in callers]
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
