"""Strategy documents: from the original's JSON to typed variations, and back.

A document has either `variations` (label, ratio, config) or one `algorithms` list, labelled
"default". `externalPredictionServer` serves REST calls, `rpcPredictionServer` gRPC calls; the
ratios of each protocol sum to 1. Entries of a config that repeat are replicas.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

from seldon_gateway.errors import InvalidStrategy

Protocol = Literal["rest", "grpc"]

DEFAULT_LABEL = "default"
RATIO_TOLERANCE = 1e-6
MAX_VARIATIONS = 100
MAX_LABEL = 63

_REST_ALGORITHM = "externalPredictionServer"
_GRPC_ALGORITHM = "rpcPredictionServer"
_URL = "io.seldon.algorithm.external.url"
_NAME = "io.seldon.algorithm.external.name"
_HOST = "io.seldon.rpc.microservice.host"
_PORT = "io.seldon.rpc.microservice.port"

_LABEL = re.compile(rf"[A-Za-z0-9][A-Za-z0-9_.-]{{0,{MAX_LABEL - 1}}}")
# Paths of an endpoint's URL; any other would be ignored.
_PATHS = ("", "/", "/predict", "/js/predict")
_HOST_FORM = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,252})|\[[0-9a-fA-F:]+\]")


@dataclass(frozen=True, order=True)
class Endpoint:
    """Where one replica listens."""

    host: str
    port: int

    def __str__(self) -> str:
        """host:port."""
        return f"{self.host}:{self.port}"


@dataclass(frozen=True)
class Variation:
    """One share of a client's traffic of one protocol.

    Attributes:
        label: Its name in responses.
        ratio: Its share, in (0, 1].
        endpoints: At least one replica.
    """

    label: str
    ratio: float
    endpoints: tuple[Endpoint, ...]


@dataclass(frozen=True)
class Strategy:
    """A client's variations of each protocol; either may be empty."""

    rest: tuple[Variation, ...] = ()
    grpc: tuple[Variation, ...] = ()

    def of(self, protocol: Protocol) -> tuple[Variation, ...]:
        """The variations of one protocol."""
        return self.rest if protocol == "rest" else self.grpc


def parse(document: Any) -> Strategy:
    """Read a strategy document.

    Raises:
        InvalidStrategy: Names the field and what was expected.
    """
    if not isinstance(document, dict):
        raise InvalidStrategy("the document is not a JSON object")
    if "variations" in document:
        entries = document["variations"]
        if not isinstance(entries, list) or len(entries) > MAX_VARIATIONS:
            raise InvalidStrategy(f"variations is not a list of at most {MAX_VARIATIONS} entries")
        variations = [_variation(entry, f"variations[{i}]") for i, entry in enumerate(entries)]
    elif "algorithms" in document:
        variations = _single(document["algorithms"])
    else:
        raise InvalidStrategy("the document has neither variations nor algorithms")
    by_protocol: dict[Protocol, list[Variation]] = defaultdict(list)
    for protocol, variation in variations:
        by_protocol[protocol].append(variation)
    for protocol, of_protocol in by_protocol.items():
        check_ratios(of_protocol, protocol)
    return Strategy(tuple(by_protocol["rest"]), tuple(by_protocol["grpc"]))


def check_ratios(variations: Sequence[Variation], protocol: Protocol) -> None:
    """Check that the variations of one protocol can share its traffic.

    Raises:
        InvalidStrategy: A ratio outside (0, 1], a sum other than 1, a label twice.
    """
    for variation in variations:
        if not _LABEL.fullmatch(variation.label):
            raise InvalidStrategy(
                f"label is {variation.label!r}, expected 1 to 63 letters, digits, '_', '.' and '-'"
            )
        if not 0 < variation.ratio <= 1:
            raise InvalidStrategy(
                f"ratio of {variation.label} is {variation.ratio:g}, "
                "expected more than 0 and at most 1"
            )
    labels = [variation.label for variation in variations]
    if len(set(labels)) != len(labels):
        raise InvalidStrategy(f"{protocol} variations have the labels {labels}, expected each once")
    total = sum(variation.ratio for variation in variations)
    if variations and abs(total - 1) > RATIO_TOLERANCE:
        raise InvalidStrategy(
            f"the ratios of the {protocol} variations sum to {total:g}, expected 1.0 "
            "(REST and gRPC variations are summed separately)"
        )


def render(strategy: Strategy) -> dict[str, Any]:
    """Write a strategy as a document, the inverse of `parse`."""
    return {
        "variations": [
            {"label": v.label, "ratio": v.ratio, "config": {"algorithms": [_algorithm(v, p)]}}
            for p, variations in (("rest", strategy.rest), ("grpc", strategy.grpc))
            for v in variations
        ]
    }


def _algorithm(variation: Variation, protocol: str) -> dict[str, Any]:
    config: list[dict[str, str]] = []
    if protocol == "rest":
        for endpoint in variation.endpoints:
            config.append({"name": _URL, "value": f"http://{endpoint}/predict"})
        config.append({"name": _NAME, "value": variation.label})
        return {"name": _REST_ALGORITHM, "config": config}
    for endpoint in variation.endpoints:
        config.append({"name": _HOST, "value": endpoint.host})
        config.append({"name": _PORT, "value": str(endpoint.port)})
    return {"name": _GRPC_ALGORITHM, "config": config}


def _variation(entry: Any, where: str) -> tuple[Protocol, Variation]:
    if not isinstance(entry, dict):
        raise InvalidStrategy(f"{where} is not an object")
    label, ratio = entry.get("label"), entry.get("ratio")
    if not isinstance(label, str):
        raise InvalidStrategy(f"{where}.label is missing or not a string")
    try:
        share = float(ratio)  # type: ignore[arg-type]  # numbers may be texts: contract of old
    except (TypeError, ValueError, OverflowError):
        raise InvalidStrategy(f"{where}.ratio is {ratio!r}, expected a number") from None
    config = entry.get("config")
    algorithms = config.get("algorithms") if isinstance(config, dict) else None
    found = list(_endpoints(algorithms, f"{where}.config.algorithms"))
    if len(found) != 1:
        raise InvalidStrategy(f"{where}.config.algorithms has {len(found)} entries, expected 1")
    protocol, endpoints = found[0]
    return protocol, Variation(label, share, endpoints)


def _single(algorithms: Any) -> list[tuple[Protocol, Variation]]:
    """The form without ratios: the first algorithm of each transport serves it."""
    first: dict[Protocol, Variation] = {}
    for protocol, endpoints in _endpoints(algorithms, "algorithms"):
        first.setdefault(protocol, Variation(DEFAULT_LABEL, 1.0, endpoints))
    return list(first.items())


def _endpoints(algorithms: Any, where: str) -> Iterable[tuple[Protocol, tuple[Endpoint, ...]]]:
    if not isinstance(algorithms, list):
        raise InvalidStrategy(f"{where} is missing or not a list")
    for index, algorithm in enumerate(algorithms):
        here = f"{where}[{index}]"
        name = algorithm.get("name") if isinstance(algorithm, dict) else None
        if name not in (_REST_ALGORITHM, _GRPC_ALGORITHM):
            raise InvalidStrategy(
                f"{here}.name is {name!r}, expected {_REST_ALGORITHM} or {_GRPC_ALGORITHM}"
            )
        values = _config(algorithm.get("config"), f"{here}.config")
        if name == _REST_ALGORITHM:
            yield "rest", tuple(_from_url(url, here) for url in _required(values, _URL, here))
        else:
            hosts, ports = _required(values, _HOST, here), _required(values, _PORT, here)
            if len(hosts) != len(ports):
                raise InvalidStrategy(f"{here}.config has {len(hosts)} hosts, {len(ports)} ports")
            pairs = zip(hosts, ports, strict=True)
            yield "grpc", tuple(_endpoint(host, port, here) for host, port in pairs)


def _config(config: Any, where: str) -> dict[str, list[str]]:
    if not isinstance(config, list):
        raise InvalidStrategy(f"{where} is missing or not a list")
    values: dict[str, list[str]] = defaultdict(list)
    for item in config:
        if not isinstance(item, dict) or not isinstance(item.get("name"), str):
            raise InvalidStrategy(f"{where} has an entry without name and value")
        values[item["name"]].append(str(item.get("value")))
    return values


def _required(values: dict[str, list[str]], name: str, where: str) -> list[str]:
    if not values.get(name):
        raise InvalidStrategy(f"{where}.config has no {name}")
    return values[name]


def _from_url(url: str, where: str) -> Endpoint:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    # Requests keep the caller's path and use plain HTTP: reject a URL that says otherwise.
    extra = parts.username or parts.query or parts.fragment if host else None
    if not host or parts.scheme != "http" or extra or parts.path not in _PATHS:
        raise InvalidStrategy(
            f"{where}: {url[:64]!r} is not a URL such as http://host:5000/predict"
        )
    if ":" in host:
        host = f"[{host}]"  # an IPv6 address, whose brackets urlsplit takes away
    return _endpoint(host, str(80 if port is None else port), where)


def _endpoint(host: str, port: str, where: str) -> Endpoint:
    if len(port) > 5:
        raise InvalidStrategy(f"{where}: port is {port[:8]!r}…, expected 1 to 65535")
    if not _HOST_FORM.fullmatch(host):
        raise InvalidStrategy(f"{where}: {host!r} is not a host name")
    if not port.isascii() or not port.isdigit() or not 1 <= int(port) <= 65535:
        raise InvalidStrategy(f"{where}: port is {port!r}, expected 1 to 65535")
    return Endpoint(host, int(port))
