"""Settings of a load test: the original's options and further ones."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import env_settings as env
from loadtest.arrivals import CONSTANT, POISSON, TRACE
from loadtest.credentials import ALL, JS, NO_GATEWAY
from loadtest.datasets import READERS
from loadtest.errors import SettingInvalid
from loadtest.payloads import DECIMALS, DIGIT_SIZE, DIGITS, FULL, OPEN_INFERENCE, RANDOM, SELDON
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
MAX_WAIT_MS = 3_600_000
REQUEST_TIMEOUT_S = 10.0  # longer than the gateway's upstream timeout
MODEL_FOLDER = Path("models/deep_mnist/1")
MODEL_NAME = "tensorflow-deep-mnist"  # of the stack's own microservice


# Options that `command` leaves out: implied by others, or of this machine.
_NOT_REPEATED = {"loop", "web_port", "metrics_bind", "output", "model_folder", "server_metrics"}


def workers(default: int, meaning: str, option: str = "") -> Any:
    """The setting LOADTEST_WORKERS; its default depends on the target."""
    return env.integer("LOADTEST_WORKERS", default, 1, MAX_PROCESSES, meaning, option=option)


def _wait_range(text: str) -> tuple[float, float]:
    low, _, high = text.partition("-")
    return env.number(low), env.number(high or low)


def _payload(text: str) -> str | None:
    known = text in (DIGITS, RANDOM) or Path(text).suffix in READERS
    return text if known else None


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
    """Settings of one run.

    Attributes:
        blocks: The blocks of an interleaved run; empty for a single one.
        group: A name that interleaved runs share; set with `blocks`.
    """

    client: str = env.text("", env.REQUIRED, "client whose keys are used", option="--seldon-client")
    test_type: str = env.choice(
        "", env.REQUIRED, tuple(TEST_TYPES), "protocol to test", option="--test-type"
    )
    users: int = env.integer(
        "LOADTEST_USERS",
        50,
        1,
        MAX_PROCESSES * MAX_USERS_PER_PROCESS,
        f"simulated users (closed loop), at most {MAX_USERS_PER_PROCESS} per process",
        option="--locust-clients",
    )
    hatch_rate: float = env.decimal(
        "", 5.0, 0.01, 1_000, "spawn rate", unit="users per second", option="--locust-hatch-rate"
    )
    processes: int = workers(
        1,
        "load-generator processes, which share the users or the schedule",
        option="--locust-slaves",
    )
    host: str = env.text(
        "LOADTEST_HOST",
        "http://127.0.0.1:8080",
        "base URL of the REST API, without a path",
        words="http://SELDON_BIND:SELDON_REST_PORT (127.0.0.1, 8080)",
        option="--host",
    )
    grpc_endpoint: str = env.text(
        "",
        "127.0.0.1:5000",
        "HOST:PORT of the gRPC API",
        words="the host of --host, port SELDON_GRPC_PORT or 5000",
        option="--seldon-grpc-endpoint",
    )
    oauth_endpoint: str = env.text(
        "",
        "http://127.0.0.1:8080",
        f"base URL of the token endpoint, without a path; {NO_GATEWAY}: servers without a gateway, "
        "which need no token",
        words="--host",
        option="--seldon-oauth-endpoint",
    )
    data_size: int | None = env.integer(
        "LOADTEST_DATA_SIZE",
        None,
        1,
        100_000,
        "numbers per digit; with random values the size of a variable dimension",
        words=f"{DIGIT_SIZE} for digits, else 1",
        option="--seldon-predict-default-data-size",
    )
    duration_s: float = env.seconds(
        "LOADTEST_DURATION", 60.0, 0.1, 7 * 86_400, "measured duration", option="--duration"
    )
    warmup_s: float = env.seconds(
        "LOADTEST_WARMUP", 5.0, 0, 3_600, "warm-up before the measured duration", option="--warmup"
    )
    wait_ms: tuple[float, float] = env.parsed(
        "LOADTEST_WAIT",
        (900.0, 1100.0),
        _wait_range,
        "wait time of a user after each response, uniform between the two",
        expected="MIN-MAX in milliseconds, such as 900-1100",
        words="900-1100",
        option="--wait",
    )
    payload: str = env.parsed(
        "LOADTEST_PAYLOAD",
        DIGITS,
        _payload,
        "instances: held-out MNIST digits by the Seldon protocol; random values of the model's "
        "signature, or the rows of a file, by the Open Inference Protocol",
        expected=f"{DIGITS}, {RANDOM} or a file {', '.join(READERS)}",
        accepts=lambda value: _payload(value) is not None,
        option="--payload",
    )
    model_name: str = env.text(
        "LOADTEST_MODEL_NAME",
        MODEL_NAME,
        "name of the model in requests of the Open Inference Protocol: any of the client's "
        "variations, or that of a server without a gateway",
        option="--model-name",
    )
    connections: str = env.choice(
        "LOADTEST_CONNECTIONS",
        KEPT,
        CONNECTIONS,
        "kept: one connection per user; per-call: one per request",
        option="--connections",
    )
    rest_form: str = env.choice(
        "LOADTEST_REST_FORM",
        JSONP_GET,
        REST_FORMS,
        "REST request variant of digits: the original's JSONP GET, or a JSON POST",
        option="--rest-form",
    )
    decimals: str | None = env.choice(
        "LOADTEST_DECIMALS",
        None,
        DECIMALS,
        "decimal places of digits and random floats, in both protocols",
        words="full for digits, 2 for random values",
        option="--decimals",
    )
    images: int = env.integer(
        "LOADTEST_IMAGES", 1, 1, MAX_IMAGES, "images or rows per request", option="--images"
    )
    loop: str = env.choice(
        "LOADTEST_LOOP",
        CLOSED,
        LOOPS,
        "closed: each user waits for its response, then pauses; open: requests follow an arrival "
        "schedule, whatever the number of users",
        words="open with --rate, else closed",
        option="--loop",
    )
    rate: float | None = env.decimal(
        "LOADTEST_RATE",
        None,
        0.01,
        1_000_000,
        "arrival rate of the open loop",
        unit="requests per second",
        option="--rate",
    )
    arrivals: str = env.text(
        "LOADTEST_ARRIVALS",
        POISSON,
        "arrival process: poisson, constant, or trace:FILE with one time in seconds per line",
        option="--arrivals",
    )
    max_in_flight: int = env.integer(
        "LOADTEST_MAX_IN_FLIGHT",
        2_000,
        1,
        100_000,
        "maximum in-flight requests of the open loop, over all processes",
        option="--max-in-flight",
    )
    seed: int = env.integer(
        "LOADTEST_SEED",
        1,
        0,
        2**63 - 1,
        "seed of instance order, wait times and ids",
        option="--seed",
    )
    web_port: int | None = env.integer(
        "LOADTEST_WEB_PORT", None, 1, 65_535, "port of Locust's web UI", option="--web-port"
    )
    metrics_bind: str | None = env.text(
        "LOADTEST_METRICS_BIND",
        None,
        "HOST:PORT of this run's Prometheus metrics",
        words=f"{METRICS_BIND} with a stack deployed here, else none",
        option="--metrics-bind",
    )
    output: Path = env.path(
        "LOADTEST_OUTPUT", Path("results"), "parent folder of the result folder", option="--output"
    )
    model_folder: Path | None = env.path(
        "LOADTEST_MODEL_FOLDER",
        None,
        "the model's folder; its model.json holds the expected accuracy",
        words=f"{MODEL_FOLDER} if it exists",
        option="--model-folder",
    )
    server_metrics: str | None = env.text(
        "LOADTEST_SERVER_METRICS",
        None,
        "comma-separated /metrics URLs of the model servers, or a Prometheus file_sd file",
        words="the stack deployed here",
        option="--server-metrics",
    )
    blocks: tuple[Block, ...] = ()
    group: str | None = None

    def __post_init__(self) -> None:
        """Validate.

        Raises:
            SettingInvalid: A setting is out of range; the message names the option.
        """
        if not self.client:
            raise SettingInvalid("--seldon-client is empty, expected a client's name")
        env.check(self, SettingInvalid)
        if self.images > 1 and self._by_jsonp:
            raise SettingInvalid(
                f"--images is {self.images}, expected 1 with {JSONP_GET}; add --rest-form "
                f"{JSON_POST}"
            )
        most = self.processes * MAX_USERS_PER_PROCESS
        if not self.open and not self.processes <= self.users <= most:
            raise SettingInvalid(
                f"--locust-clients is {self.users}, expected {self.processes} to {most} with "
                f"--locust-slaves {self.processes}"
            )
        self._check_schedule()
        if self.metrics_bind is not None:
            host_and_port("--metrics-bind", self.metrics_bind)
        if not 0 <= self.wait_ms[0] <= self.wait_ms[1] <= MAX_WAIT_MS:
            raise SettingInvalid(
                f"--wait is {self.wait_text}, expected MIN-MAX with 0 <= MIN <= MAX <= "
                f"{MAX_WAIT_MS}"
            )
        if self.decimals is not None and self.reads_file:
            raise SettingInvalid(
                f"--decimals is {self.decimals}, expected none with a file, whose values are sent "
                "as they are; remove it"
            )
        if self.payload == DIGITS and self.data_size not in (None, DIGIT_SIZE):
            raise SettingInvalid(
                f"--seldon-predict-default-data-size is {self.data_size}, expected {DIGIT_SIZE} "
                "for digits; add --payload random"
            )
        _base_url("--host", self.host)
        if self.oauth_endpoint != NO_GATEWAY:
            _base_url("--seldon-oauth-endpoint", self.oauth_endpoint)
        host_and_port("--seldon-grpc-endpoint", self.grpc_endpoint)

    def _check_schedule(self) -> None:
        traced = self.arrivals.startswith(TRACE)
        if not traced and self.arrivals not in (POISSON, CONSTANT):
            raise SettingInvalid(
                f"--arrivals is {self.arrivals!r}, expected {POISSON} or {CONSTANT} or {TRACE}FILE"
            )
        if self.loop == CLOSED:
            if self.rate is not None or traced:
                given = "--rate" if self.rate is not None else "--arrivals"
                raise SettingInvalid(f"--loop is {CLOSED}, expected {OPEN} with {given}")
            return
        if self.rate is None and not traced:
            raise SettingInvalid(
                f"--rate is missing, expected a number with --loop {OPEN}, or --arrivals "
                f"{TRACE}FILE"
            )
        if self.max_in_flight < self.processes:
            raise SettingInvalid(
                f"--max-in-flight is {self.max_in_flight}, expected at least --locust-slaves, "
                f"{self.processes}"
            )

    @classmethod
    def from_env(cls, environ: Mapping[str, str], **given: Any) -> LoadTestSettings:
        """Settings from `given`, else the environment, else this machine's defaults.

        None and empty variables count as absent.
        """
        values = {name: value for name, value in given.items() if value is not None}
        overridden = {one.name for one in env.settings_of(cls) if one.field in values}
        left = {name: text for name, text in environ.items() if name not in overridden}
        values |= env.read(cls, left, SettingInvalid)
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
        if "://" not in oauth and oauth != NO_GATEWAY:
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
        return self.decimals or ("2" if self.payload == RANDOM else FULL)

    @property
    def reads_file(self) -> bool:
        """Whether the instances are those of a file."""
        return self.payload not in (DIGITS, RANDOM)

    @property
    def _by_jsonp(self) -> bool:
        return (self.payload, self.protocol, self.rest_form) == (DIGITS, "rest", JSONP_GET)

    @property
    def scopes(self) -> tuple[str, ...]:
        """The scopes of the keys that requests need."""
        if self.oauth_endpoint == NO_GATEWAY:
            return ()
        return (JS,) if self.protocol == "rest" and self.payload == DIGITS else (ALL,)

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
        for one in env.settings_of(type(self)):
            value = getattr(self, one.field)
            if one.field in _NOT_REPEATED or value == one.default:
                continue
            if one.field == "oauth_endpoint" and value == self.host:
                continue
            text = self.wait_text if one.field == "wait_ms" else env.plain(value)
            if one.field == "arrivals" and value.startswith(TRACE):
                text = TRACE + Path(value.removeprefix(TRACE)).name
            if one.field == "payload":
                text = Path(value).name
            words += [one.option, text]
        return shlex.join(words)

    @property
    def _trace_sha256(self) -> str | None:
        if not (self.open and self.arrivals.startswith(TRACE)):
            return None
        return _sha256(Path(self.arrivals.removeprefix(TRACE)))

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
            "data_size": self.data_size or (DIGIT_SIZE if self.payload == DIGITS else None),
            "max_in_flight": self.max_in_flight if self.open else None,
            "blocks": len(self.blocks),
            "group": self.group,
            "settle_s": self.blocks[0].settle_s if self.blocks else None,
            "duration_s": self.duration_s,
            "warmup_s": self.warmup_s,
            "payload": Path(self.payload).name,
            "payload_sha256": _sha256(Path(self.payload)) if self.reads_file else None,
            "dialect": SELDON if self.payload == DIGITS else OPEN_INFERENCE,
            "model_name": None if self.payload == DIGITS else self.model_name,
            "connections": self.connections,
            "rest_form": (
                self.rest_form if self.protocol == "rest" and self.payload == DIGITS else None
            ),
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
        payload = str(Path(self.payload).resolve()) if self.reads_file else self.payload
        return json.dumps(
            {
                **asdict(self),
                "output": str(self.output.resolve()),
                "model_folder": model,
                "payload": payload,
            }
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


def _sha256(path: Path) -> str | None:
    """The hash of a file of instances or arrivals: runs with different ones are unequal."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None  # whoever reads the file reports it


def _here(bind: str | None) -> str:
    """The address to reach a gateway that listens at `bind`."""
    return _bracketed({"0.0.0.0": None, "::": "::1"}.get(bind or "", bind))  # noqa: S104


def _bracketed(host: str | None) -> str:
    return f"[{host}]" if host and ":" in host else host or "127.0.0.1"


def _base_url(option: str, url: str) -> None:
    expected = "expected http://HOST:PORT"
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise SettingInvalid(f"{option} is {url!r}, {expected}: {error}") from None
    if parts.scheme != "http" or not parts.hostname:
        raise SettingInvalid(f"{option} is {url!r}, {expected}")
    if parts.path.strip("/") or parts.query or parts.fragment or parts.username:
        raise SettingInvalid(f"{option} is {url!r}, {expected} without a path")


def host_and_port(option: str, endpoint: str) -> tuple[str, int]:
    """Parse HOST:PORT.

    Raises:
        SettingInvalid: It is malformed; the message names the option.
    """
    host, _, port = endpoint.rpartition(":")
    if not host or "/" in host or not port.isdecimal() or not 1 <= int(port) <= 65_535:
        raise SettingInvalid(f"{option} is {endpoint!r}, expected HOST:PORT")
    return host.strip("[]"), int(port)
