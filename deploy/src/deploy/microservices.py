"""Microservices as values: the requested ones, the running ones, and what to keep."""

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

from deploy.errors import MicroserviceRefused
from seldon_gateway.strategies import RATIO_TOLERANCE, Protocol

LONGEST_NAME = 63
MOST_REPLICAS = 64

_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")


class Api(StrEnum):
    """The API of a microservice, as the original's commands spell it."""

    REST = "rest"
    RPC = "rpc"

    @property
    def protocol(self) -> Protocol:
        """The same as the gateway's registry spells it."""
        return "grpc" if self is Api.RPC else "rest"


@dataclass(frozen=True)
class Entry:
    """One `-p NAME FOLDER API RATIO` or `-i NAME IMAGE API RATIO`; `source` is FOLDER or IMAGE."""

    name: str
    source: str
    api: Api
    ratio: float


@dataclass(frozen=True)
class Wanted:
    """One `-p NAME FOLDER API RATIO` with a folder of this machine."""

    name: str
    folder: Path
    api: Api
    ratio: float


@dataclass(frozen=True)
class Replica:
    """One server process group; `metrics_port` is `port` where the protocol allows it."""

    program: str
    port: int
    metrics_port: int


@dataclass(frozen=True)
class Microservice:
    """A model behind one protocol.

    Args:
        name: Also the label of its variation and the model's name in answers.
        api: What it speaks.
        folder: Absolute path of the model folder.
        model: ModelFolder.fingerprint, which changes with the model.
        environment: The server's settings, without its ports.
        replicas: Its processes.
    """

    name: str
    api: Api
    folder: str
    model: str
    environment: Mapping[str, str]
    replicas: tuple[Replica, ...] = ()

    @property
    def file_name(self) -> str:
        """Name of its record in the folder `microservices`."""
        return f"microservice-{self.name}-{self.api}.json"

    def serves_as(self, other: "Microservice") -> bool:
        """Whether processes of `other` can serve it unchanged."""
        mine, theirs = (
            (service.name, service.api, service.folder, service.model, dict(service.environment))
            for service in (self, other)
        )
        return mine == theirs


def parse_wanted(entries: Iterable[Sequence[str]]) -> list[Wanted]:
    """Check every `-p NAME FOLDER API RATIO` before anything is started.

    Raises:
        MicroserviceRefused: Names the microservice, the value and the limit.
    """
    return [
        Wanted(entry.name, Path(entry.source).resolve(), entry.api, entry.ratio)
        for entry in parse_entries(entries)
    ]


def parse_entries(entries: Iterable[Sequence[str]]) -> list[Entry]:
    """The same, wherever the folder or image is.

    Raises:
        MicroserviceRefused: Names the microservice, the value and the limit.
    """
    wanted = [_parse_entry(*entry) for entry in entries]
    if not wanted:
        raise MicroserviceRefused("no microservice is given; add -p NAME FOLDER rest|rpc RATIO")
    seen: set[tuple[str, Api]] = set()
    for entry in wanted:
        if (entry.name, entry.api) in seen:
            raise MicroserviceRefused(
                f"microservice {entry.name} {entry.api} is given twice; remove one"
            )
        seen.add((entry.name, entry.api))
    for api in Api:
        ratios = [entry.ratio for entry in wanted if entry.api is api]
        if ratios and abs(sum(ratios) - 1.0) > RATIO_TOLERANCE:
            raise MicroserviceRefused(
                f"the ratios of the {api} microservices sum to {sum(ratios):.10g}, expected 1.0"
            )
    return wanted


def check_name(name: str) -> None:
    """Fail unless `name` can name a Deployment, a process and a host.

    Raises:
        MicroserviceRefused: Names the limit.
    """
    if len(name) > LONGEST_NAME or not _DNS_LABEL.fullmatch(name):
        raise MicroserviceRefused(
            f"microservice name is {name!r}, expected a DNS label: lower-case letters, digits and "
            f"inner dashes, at most {LONGEST_NAME} characters"
        )


def check_replicas(replicas: int) -> None:
    """Fail unless so many processes can be meant.

    Raises:
        MicroserviceRefused: Names the limit.
    """
    if not 1 <= replicas <= MOST_REPLICAS:
        raise MicroserviceRefused(f"--replicas is {replicas}, expected 1 to {MOST_REPLICAS}")


def _parse_entry(name: str, source: str, api: str, ratio: str) -> Entry:
    check_name(name)
    if api not in list(Api):
        raise MicroserviceRefused(f"microservice {name}: API type is {api!r}, expected rest or rpc")
    try:
        number = float(ratio)
    except ValueError:
        raise MicroserviceRefused(
            f"microservice {name}: ratio is {ratio!r}, expected a number in (0, 1]"
        ) from None
    if not 0.0 < number <= 1.0:
        raise MicroserviceRefused(
            f"microservice {name}: ratio is {ratio}, expected a number in (0, 1]"
        )
    return Entry(name, source, Api(api), number)


def programs_of(name: str, api: Api, programs: Iterable[str]) -> list[str]:
    """Those of `programs` that belong to the microservice, in the order of their numbers."""
    pattern = re.compile(rf"{re.escape(name)}-{api}-(\d+)")
    numbered = [(int(match[1]), match[0]) for match in map(pattern.fullmatch, programs) if match]
    return [program for _, program in sorted(numbered)]


def free_program_names(name: str, api: Api, programs: Iterable[str], count: int) -> list[str]:
    """The first `count` program names of the microservice that are not in `programs`."""
    taken = set(programs)
    names: list[str] = []
    number = 0
    while len(names) < count:
        candidate = f"{name}-{api}-{number}"
        if candidate not in taken:
            names.append(candidate)
        number += 1
    return names


def to_json(microservice: Microservice) -> str:
    """The record of what was started, for people and for from_json."""
    return json.dumps(asdict(microservice), indent=2) + "\n"


def from_json(text: str) -> Microservice:
    """Read what to_json wrote."""
    document = json.loads(text)
    return Microservice(
        name=document["name"],
        api=Api(document["api"]),
        folder=document["folder"],
        model=document["model"],
        environment=document["environment"],
        replicas=tuple(Replica(**replica) for replica in document["replicas"]),
    )


def kept_replicas(
    target: Microservice, recorded: Microservice | None, healthy: Collection[str], count: int
) -> tuple[Replica, ...]:
    """The running processes that `target` can keep, at most `count`.

    Args:
        target: The requested microservice.
        recorded: The one started last under that name, if any.
        healthy: Programs that are ready.
        count: Requested replicas.
    """
    if recorded is None or not recorded.serves_as(target):
        return ()
    return tuple(replica for replica in recorded.replicas if replica.program in healthy)[:count]
