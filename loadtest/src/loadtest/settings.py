"""Settings of a load test: the original's options and further ones."""

from __future__ import annotations

import hashlib
import json
import math
import shlex
from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from loadtest.arrivals import CONSTANT, POISSON, TRACE
from loadtest.errors import SettingInvalid
from loadtest.payloads import DECIMALS, DIGIT_SIZE, DIGITS, FULL, PAYLOADS, Payloads, build
from loadtest.wire import JSON_POST, JSONP_GET, REST_FORMS
from monitoring.metrics import LOADTEST_PORT

JS_PREDICT = "js-predict"
GRPC_PREDICT = "grpc-predict"
TEST_TYPES = {JS_PREDICT: "rest", GRPC_PREDICT: "grpc"}

KEPT = "kept"
PER_CALL = "per-call"
CONNECTIONS = (KEPT, PER_CALL)

CLOSED = "closed"
OPEN = "open"
LOOPS = (CLOSED, OPEN)

METRICS_BIND = f"127.0.0.1:{LOADTEST_PORT}"
MAX_PROCESSES = 64
MAX_IMAGES = 16  # the servers' limit
MAX_USERS_PER_PROCESS = 2_000  # one native thread per user
REQUEST_TIMEOUT_S = 10.0  # longer than the gateway's upstream timeout
MODEL_FOLDER = Path("models/deep_mnist/1")


def wait_range(text: str) -> tuple[float, float]:
    """Parse "900-1100", or a single number for both bounds."""
    low, _, high = text.partition("-")
    try:
        return float(low), float(high or low)
    except ValueError:
        raise SettingInvalid(
            f'--wait is "{text}", expected MIN-MAX in milliseconds, such as 900-1100'
        ) from None


def _whole(name: str) -> Callable[[str], int]:
    def parse(text: str) -> int:
        try:
            return int(text)
        except ValueError:
            raise SettingInvalid(f'{name} is "{text}", expected a whole number') from None

    return parse


def _number(name: str, of: str = "seconds") -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            return float(text)
        except ValueError:
            raise SettingInvalid(f'{name} is "{text}", expected a number of {of}') from None

    return parse


# Environment variable -> setting and parser.
VARIABLES: Mapping[str, tuple[str, Callable[[str], Any]]] = {
    "LOADTEST_USERS": ("users", _whole("LOADTEST_USERS")),
    "LOADTEST_DURATION": ("duration_s", _number("LOADTEST_DURATION")),
    "LOADTEST_WARMUP": ("warmup_s", _number("LOADTEST_WARMUP")),
    "LOADTEST_WAIT": ("wait_ms", wait_range),
    "LOADTEST_PAYLOAD": ("payload", str),
    "LOADTEST_CONNECTIONS": ("connections", str),
    "LOADTEST_REST_FORM": ("rest_form", str),
    "LOADTEST_DECIMALS": ("decimals", str),
    "LOADTEST_IMAGES": ("images", _whole("LOADTEST_IMAGES")),
    "LOADTEST_LOOP": ("loop", str),
    "LOADTEST_RATE": ("rate", _number("LOADTEST_RATE", "arrivals per second")),
    "LOADTEST_ARRIVALS": ("arrivals", str),
    "LOADTEST_MAX_IN_FLIGHT": ("max_in_flight", _whole("LOADTEST_MAX_IN_FLIGHT")),
    "LOADTEST_SEED": ("seed", _whole("LOADTEST_SEED")),
    "LOADTEST_WORKERS": ("processes", _whole("LOADTEST_WORKERS")),
    "LOADTEST_WEB_PORT": ("web_port", _whole("LOADTEST_WEB_PORT")),
    "LOADTEST_METRICS_BIND": ("metrics_bind", str),
    "LOADTEST_OUTPUT": ("output", Path),
    "LOADTEST_HOST": ("host", str),
    "LOADTEST_MODEL_FOLDER": ("model_folder", Path),
    "LOADTEST_SERVER_METRICS": ("server_metrics", str),
}


@dataclass(frozen=True)
class Block:
    """One block of an interleaved run, in seconds from the end of the warm-up.

    Requests are sent from begin_s to end_s; the first settle_s are not measured.
    """

    number: int
    begin_s: float
    end_s: float
    settle_s: float


@dataclass(frozen=True)
class LoadTestSettings:
    """Settings of one run. A field's metadata holds its command-line option.

    Attributes:
        client: The client whose keys are used.
        hatch_rate: Spawn rate, users per second.
        host: Base URL of the REST API, without a path.
        oauth_endpoint: Base URL of the token endpoint, without a path; `host` by default.
        rest_form: The REST request variant, see wire.REST_FORMS; ignored by gRPC.
        decimals: Decimal places of every number, or "full"; None for full digits and two decimals
            of random numbers.
        images: Images per request.
        wait_ms: Bounds of a user's uniform wait time after each response.
        processes: Load-generator processes that share the users or the schedule.
        loop: "closed": each user waits for its response, then pauses. "open": requests follow a
            schedule, independent of responses; users, hatch_rate and wait_ms are ignored.
        rate: Arrival rate of the open loop, requests per second.
        arrivals: See arrivals.schedule.
        max_in_flight: Maximum in-flight requests of the open loop, over all processes.
        blocks: The blocks of an interleaved run; empty for a single one.
        web_port: Port of Locust's web UI during the run.
        metrics_bind: HOST:PORT of this run's metrics; None serves none.
        server_metrics: The servers' /metrics, see server_metrics.urls; None scrapes none.
        group: A name that interleaved runs share; set with `blocks`.
        model_folder: The model's folder; its model.json lists the misclassified digits.
    """

    client: str = field(metadata={"option": "--seldon-client"})
    test_type: str = field(metadata={"option": "--test-type"})
    users: int = field(default=50, metadata={"option": "--locust-clients"})
    hatch_rate: float = field(default=5.0, metadata={"option": "--locust-hatch-rate"})
    processes: int = field(default=1, metadata={"option": "--locust-slaves"})
    host: str = field(default="http://127.0.0.1:8080", metadata={"option": "--host"})
    grpc_endpoint: str = field(
        default="127.0.0.1:5000", metadata={"option": "--seldon-grpc-endpoint"}
    )
    oauth_endpoint: str = field(
        default="http://127.0.0.1:8080", metadata={"option": "--seldon-oauth-endpoint"}
    )
    data_size: int = field(
        default=DIGIT_SIZE, metadata={"option": "--seldon-predict-default-data-size"}
    )
    duration_s: float = field(default=60.0, metadata={"option": "--duration"})
    warmup_s: float = field(default=5.0, metadata={"option": "--warmup"})
    wait_ms: tuple[float, float] = field(default=(900.0, 1100.0), metadata={"option": "--wait"})
    payload: str = field(default=DIGITS, metadata={"option": "--payload"})
    connections: str = field(default=KEPT, metadata={"option": "--connections"})
    rest_form: str = field(default=JSONP_GET, metadata={"option": "--rest-form"})
    decimals: str | None = field(default=None, metadata={"option": "--decimals"})
    images: int = field(default=1, metadata={"option": "--images"})
    loop: str = CLOSED
    rate: float | None = field(default=None, metadata={"option": "--rate"})
    arrivals: str = field(default=POISSON, metadata={"option": "--arrivals"})
    max_in_flight: int = field(default=2_000, metadata={"option": "--max-in-flight"})
    seed: int = field(default=1, metadata={"option": "--seed"})
    web_port: int | None = None
    metrics_bind: str | None = None
    output: Path = Path("results")
    model_folder: Path | None = None
    server_metrics: str | None = None
    blocks: tuple[Block, ...] = ()
    group: str | None = None

    def __post_init__(self) -> None:
        """Validate.

        Raises:
            SettingInvalid: A setting is out of range; the message names the option.
        """
        if not self.client:
            raise SettingInvalid("--seldon-client is empty, expected a client's name")
        _one_of("--test-type", self.test_type, tuple(TEST_TYPES))
        _one_of("--payload", self.payload, PAYLOADS)
        _one_of("--connections", self.connections, CONNECTIONS)
        _one_of("--rest-form", self.rest_form, REST_FORMS)
        if self.decimals is not None:
            _one_of("--decimals", self.decimals, DECIMALS)
        _within("--images", self.images, 1, MAX_IMAGES)
        if self.images > 1 and self.protocol == "rest" and self.rest_form == JSONP_GET:
            raise SettingInvalid(
                f"--images is {self.images}, expected 1 with {JSONP_GET}; add --rest-form "
                f"{JSON_POST}"
            )
        _within("--locust-slaves", self.processes, 1, MAX_PROCESSES)
        _within("--seed", self.seed, 0, 2**63 - 1)
        if not self.open:
            _within("--locust-clients", self.users, 1, self.processes * MAX_USERS_PER_PROCESS)
        if not self.open and self.users < self.processes:
            raise SettingInvalid(
                f"--locust-slaves is {self.processes}, expected at most --locust-clients, "
                f"{self.users}"
            )
        _one_of("--loop", self.loop, LOOPS)
        self._check_schedule()
        _within("--locust-hatch-rate", self.hatch_rate, 0.01, 1_000)
        if self.web_port is not None:
            _within("--web-port", self.web_port, 1, 65_535)
        if self.metrics_bind is not None:
            host_and_port("--metrics-bind", self.metrics_bind)
        _within("--duration", self.duration_s, 0.1, 7 * 86_400)
        _within("--warmup", self.warmup_s, 0, 3_600)
        for wait in self.wait_ms:
            _within("--wait", wait, 0, 3_600_000)
        if self.wait_ms[0] > self.wait_ms[1]:
            raise SettingInvalid(f"--wait is {self.wait_text}, expected MIN-MAX with MIN <= MAX")
        _within("--seldon-predict-default-data-size", self.data_size, 1, 100_000)
        if self.payload == DIGITS and self.data_size != DIGIT_SIZE:
            raise SettingInvalid(
                f"--seldon-predict-default-data-size is {self.data_size}, expected {DIGIT_SIZE} "
                "for digits; add --payload random"
            )
        _base_url("--host", self.host)
        _base_url("--seldon-oauth-endpoint", self.oauth_endpoint)
        host_and_port("--seldon-grpc-endpoint", self.grpc_endpoint)

    def _check_schedule(self) -> None:
        traced = self.arrivals.startswith(TRACE)
        if not traced:
            _one_of("--arrivals", self.arrivals, (POISSON, CONSTANT, f"{TRACE}FILE"))
        if self.loop == CLOSED:
            if self.rate is not None or traced:
                given = "--rate" if self.rate is not None else "--arrivals"
                raise SettingInvalid(f"--loop is {CLOSED}, expected {OPEN} with {given}")
            return
        if self.rate is not None:
            _within("--rate", self.rate, 0.01, 1_000_000)
        elif not traced:
            raise SettingInvalid(
                f"--rate is missing, expected a number with --loop {OPEN}, or --arrivals "
                f"{TRACE}FILE"
            )
        _within("--max-in-flight", self.max_in_flight, self.processes, 100_000)

    @classmethod
    def from_env(cls, environ: Mapping[str, str], **given: Any) -> LoadTestSettings:
        """Settings from `given`, else the environment, else this machine's defaults.

        None and empty variables count as absent.
        """
        values = {name: value for name, value in given.items() if value is not None}
        for variable, (name, parse) in VARIABLES.items():
            if name not in values and environ.get(variable):
                values[name] = parse(environ[variable])
        rest_port = environ.get("SELDON_REST_PORT") or "8080"
        grpc_port = environ.get("SELDON_GRPC_PORT") or "5000"
        here = f"http://{_here(environ.get('SELDON_BIND'))}:{rest_port}"
        host = str(values.get("host", here))
        if "://" not in host:
            host = f"http://{host}"
        values["host"] = host.rstrip("/")
        targets = Path(environ.get("SELDON_HOME") or ".seldon") / "targets.json"
        # The stack deployed here, if it is the one under test.
        if values["host"] == here and "grpc_endpoint" not in values and targets.is_file():
            values.setdefault("server_metrics", str(targets.resolve()))
            values.setdefault("metrics_bind", METRICS_BIND)
        oauth = values.get("oauth_endpoint", values["host"])
        if "://" not in oauth:
            oauth = f"http://{oauth}"
        values["oauth_endpoint"] = oauth.rstrip("/")
        _base_url("--host", values["host"])
        values.setdefault("grpc_endpoint", f"{_bracketed(urlsplit(host).hostname)}:{grpc_port}")
        if values.get("rate") is not None or str(values.get("arrivals", "")).startswith(TRACE):
            values.setdefault("loop", OPEN)
        if "model_folder" not in values and (MODEL_FOLDER / "model.json").is_file():
            values["model_folder"] = MODEL_FOLDER
        return cls(**values)

    @property
    def protocol(self) -> str:
        return TEST_TYPES[self.test_type]

    @property
    def endpoint(self) -> str:
        """Host and port of the API under test."""
        return self.grpc_endpoint if self.protocol == "grpc" else urlsplit(self.host).netloc

    @property
    def number_decimals(self) -> str:
        """The effective number of decimals."""
        return self.decimals or (FULL if self.payload == DIGITS else "2")

    def build_payloads(self) -> Payloads:
        """The instances of the run."""
        return build(self.payload, self.data_size, self.seed, self.number_decimals, self.images)

    @property
    def wait_text(self) -> str:
        return f"{self.wait_ms[0]:g}-{self.wait_ms[1]:g}"

    @property
    def open(self) -> bool:
        return self.loop == OPEN

    @property
    def spawn_s(self) -> float:
        """Seconds until every user has started."""
        return 0.0 if self.open else self.users / self.hatch_rate

    @property
    def measuring_s(self) -> float:
        """Seconds from the end of the warm-up to the end of the run."""
        return max((block.end_s for block in self.blocks), default=self.duration_s)

    @property
    def total_s(self) -> float:
        return self.spawn_s + self.warmup_s + self.measuring_s

    @property
    def command(self) -> str:
        """The command line that repeats the run, without secrets and local paths."""
        words = ["launch-locust-load-test"]
        for one in fields(self):
            option = one.metadata.get("option")
            value = getattr(self, one.name)
            if option is None or (one.default is not MISSING and value == one.default):
                continue
            if one.name == "oauth_endpoint" and value == self.host:
                continue
            text = self.wait_text if one.name == "wait_ms" else _plain(value)
            if one.name == "arrivals" and value.startswith(TRACE):
                text = TRACE + Path(value.removeprefix(TRACE)).name
            words += [option, text]
        return shlex.join(words)

    @property
    def _trace_sha256(self) -> str | None:
        """The hash of the trace file, so that runs of different traces count as unequal."""
        if not (self.open and self.arrivals.startswith(TRACE)):
            return None
        try:
            content = Path(self.arrivals.removeprefix(TRACE)).read_bytes()
        except OSError:
            return None  # arrivals.schedule reports it
        return hashlib.sha256(content).hexdigest()

    def document(self, *, interrupted: bool = False) -> dict[str, Any]:
        """The content of settings.json."""
        return {
            "protocol": self.protocol,
            "test_type": self.test_type,
            "loop": self.loop,
            "users": None if self.open else self.users,
            "hatch_rate": None if self.open else self.hatch_rate,
            "wait_ms": None if self.open else list(self.wait_ms),
            "rate": self.rate,
            "arrivals": self.arrivals.partition(":")[0] if self.open else None,
            "trace_sha256": self._trace_sha256,
            "data_size": self.data_size,
            "max_in_flight": self.max_in_flight if self.open else None,
            "blocks": len(self.blocks),
            "group": self.group,
            "settle_s": self.blocks[0].settle_s if self.blocks else None,
            "duration_s": self.duration_s,
            "warmup_s": self.warmup_s,
            "payload": self.payload,
            "connections": self.connections,
            "rest_form": self.rest_form if self.protocol == "rest" else None,
            "decimals": self.number_decimals,
            "images": self.images,
            "seed": self.seed,
            "processes": self.processes,
            "endpoint": self.endpoint,
            "command": self.command,
            "interrupted": interrupted,
        }

    def to_json(self) -> str:
        """Serialise for a Locust process of this machine."""
        model = None if self.model_folder is None else str(self.model_folder.resolve())
        return json.dumps(
            {**asdict(self), "output": str(self.output.resolve()), "model_folder": model}
        )

    @classmethod
    def from_json(cls, text: str) -> LoadTestSettings:
        values = json.loads(text)
        values["wait_ms"] = tuple(values["wait_ms"])
        values["output"] = Path(values["output"])
        values["blocks"] = tuple(Block(**block) for block in values["blocks"])
        if values["model_folder"] is not None:
            values["model_folder"] = Path(values["model_folder"])
        return cls(**values)


def _plain(value: Any) -> str:
    return f"{value:.12g}" if isinstance(value, float) else str(value)


def _here(bind: str | None) -> str:
    """The address to reach a gateway that listens at `bind`."""
    return _bracketed({"0.0.0.0": None, "::": "::1"}.get(bind or "", bind))  # noqa: S104


def _bracketed(host: str | None) -> str:
    return f"[{host}]" if host and ":" in host else host or "127.0.0.1"


def _one_of(option: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise SettingInvalid(f'{option} is "{value}", expected {" or ".join(choices)}')


def _within(option: str, value: float, low: float, high: float) -> None:
    if not (math.isfinite(value) and low <= value <= high):
        raise SettingInvalid(f"{option} is {value:g}, expected {low:g} to {high:,.12g}")


def _base_url(option: str, url: str) -> None:
    expected = "expected http://HOST:PORT"
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise SettingInvalid(f'{option} is "{url}", {expected}: {error}') from None
    if parts.scheme != "http" or not parts.hostname:
        raise SettingInvalid(f'{option} is "{url}", {expected}')
    if parts.path.strip("/") or parts.query or parts.fragment or parts.username:
        raise SettingInvalid(f'{option} is "{url}", {expected} without a path')


def host_and_port(option: str, endpoint: str) -> tuple[str, int]:
    """Parse HOST:PORT.

    Raises:
        SettingInvalid: It is malformed; the message names the option.
    """
    host, _, port = endpoint.rpartition(":")
    if not host or "/" in host or not port.isdecimal() or not 1 <= int(port) <= 65_535:
        raise SettingInvalid(f'{option} is "{endpoint}", expected HOST:PORT')
    return host.strip("[]"), int(port)
