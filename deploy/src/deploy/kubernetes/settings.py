"""Settings of the stack on Kubernetes, read once from the environment."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

from kubernetes.utils.quantity import parse_quantity

from deploy.errors import SettingInvalid
from deploy.images import Build
from deploy.microservices import Api
from deploy.stack import server_environment
from loadtest.settings import TEST_TYPES
from loadtest.settings import VARIABLES as LOADTEST_VARIABLES
from seldon_gateway.settings import GatewaySettings

PROJECT = "prediction-services"
DATA_FOLDER = "/seldon-data"  # the original's, where every pod has the shared volume

SERVICE_TYPES = ("ClusterIP", "NodePort", "LoadBalancer")
ACCESS_MODES = ("ReadWriteOnce", "ReadWriteMany")
OVERLAYS = ("monitoring", "loadtest")

# Variables passed on unchanged to a load test's pods; the others are set here.
_LOADTEST_PASSED = tuple(
    name
    for name in LOADTEST_VARIABLES
    if name
    not in {
        "LOADTEST_WORKERS", "LOADTEST_OUTPUT", "LOADTEST_HOST", "LOADTEST_METRICS_BIND",
        "LOADTEST_MODEL_FOLDER", "LOADTEST_SERVER_METRICS", "LOADTEST_WEB_PORT",
    }
)  # fmt: skip

# The same for the control plane and for Envoy.
_CONTROL_PLANE_PASSED = ("SELDON_TIMEOUT", "SELDON_TOKEN_TTL", "SELDON_CORS_ORIGINS")
_ENVOY_PASSED = ("SELDON_POLL", "SELDON_JWKS_CACHE")

_MOST_REPLICAS = 64
_LEAST_HEAP_MIB = 128
_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_DNS_NAME = re.compile(r"[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?")
_QUANTITY = re.compile(r"(0|[1-9]\d*)(\.\d{1,3})?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.:-]{0,251}[A-Za-z0-9])?")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_VERSION = re.compile(r"[1-9]\d{0,8}")


@dataclass(frozen=True)
class Resources:
    """What a container gets, in Kubernetes' quantities.

    No limit of CPU by default: the kernel enforces one by stopping the process for the rest of
    100 ms, which is the latency that this stack is built to avoid.
    """

    cpu: str
    memory: str
    memory_limit: str
    cpu_limit: str | None = None


@dataclass(frozen=True)
class Sizing:
    """Pods of one service; more than `replicas` only under load."""

    replicas: int
    resources: Resources
    max_replicas: int = 0


@dataclass(frozen=True)
class DataVolume:
    """The volume with the models.

    Attributes:
        source: As a PersistentVolume has it: {"hostPath": …} or {"nfs": …}; None takes what the
            storage class provides.
        claim: One that exists already; None makes it.
        access_mode: ReadWriteOnce keeps every pod that mounts it on one node.
    """

    source: Mapping[str, Any] | None
    claim: str | None
    access_mode: str


@dataclass(frozen=True)
class LoadTest:
    """One load test.

    Attributes:
        client: Whose keys are used.
        test_type: js-predict or grpc-predict.
        workers: Load generators.
        environment: LOADTEST_* as they are.
        resources: Of each load generator, whose own delays are measured too if it has too little.
    """

    client: str = "deep_mnist_client"
    test_type: str = "js-predict"
    workers: int = 1
    environment: Mapping[str, str] = field(default_factory=dict)
    resources: Resources = Resources("1", "512Mi", "2Gi")


@dataclass(frozen=True)
class KubernetesSettings:
    """The whole stack in one namespace; docs/kubernetes.md has the table of variables.

    Attributes:
        database_url: Its password: objects name a Secret, never this.
        gateway_environment: SELDON_* passed on to the control plane.
        envoy_environment: SELDON_* passed on to Envoy.
        server_environment: MODEL_ENGINE, REST_* and GRPC_* passed on to the servers.
        poll_s: Seconds between Envoy's polls, plus a random delay of up to the same again.
        node_ports: REST and gRPC, with the service type NodePort; 0 lets the cluster choose.
        in_flight: Predictions in flight for each pod over which there are to be more pods; needs
            an adapter that gives the cluster Prometheus's metrics. 0: CPU alone decides.
        model_target: Folder on the volume, above the version.
    """

    namespace: str
    create_namespace: bool
    instance: str
    registry: str
    tag: str
    pull_secret: str | None
    overlays: tuple[str, ...]
    envoy: Sizing
    control_plane: Sizing
    rest: Sizing
    grpc: Sizing
    in_flight: int
    service_type: str
    node_ports: tuple[int, int]
    pages_service_type: str
    gateway_environment: Mapping[str, str]
    envoy_environment: Mapping[str, str]
    server_environment: Mapping[Api, Mapping[str, str]]
    poll_s: float
    database_url: str | None = field(repr=False)
    volume: DataVolume
    storage_class: str | None
    storage_size: str
    model_source: str | None
    model_sha256: str | None
    model_target: str
    model_version: str
    pod_monitors: bool
    load_test: LoadTest

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> "KubernetesSettings":
        """Read every variable; an empty one counts as absent.

        Raises:
            SettingInvalid: Names the variable, its value and what was expected.
        """
        read = _Reader(environ)
        database_url = read.database_url()
        return cls(
            namespace=read.name("K8S_NAMESPACE", PROJECT),
            create_namespace=read.flag("K8S_CREATE_NAMESPACE", default=True),
            instance=read.name("SELDON_INSTANCE", PROJECT),
            registry=read.text("K8S_REGISTRY", "localhost"),
            tag=read.tag(),
            pull_secret=read.name("K8S_PULL_SECRET") if read.has("K8S_PULL_SECRET") else None,
            overlays=read.overlays(),
            envoy=read.sizing("ENVOY", Resources("1", "256Mi", "1280Mi")),
            control_plane=read.sizing(
                "CONTROL_PLANE", Resources("100m", "192Mi", "384Mi"), 2 if database_url else 1
            ),
            rest=read.sizing("REST", Resources("1", "512Mi", "1Gi"), scales=True),
            grpc=read.sizing("GRPC", Resources("1", "512Mi", "1Gi"), scales=True),
            in_flight=read.integer("K8S_IN_FLIGHT", 0, 0, 10_000),
            service_type=read.one_of("SELDON_SERVER_SERVICE_TYPE", SERVICE_TYPES),
            node_ports=(
                read.node_port("SELDON_SERVER_NODEPORT", 30015),
                read.node_port("SELDON_SERVER_RPC_NODEPORT", 30017),
            ),
            pages_service_type=read.one_of("SELDON_SERVICE_TYPE", SERVICE_TYPES),
            gateway_environment=read.passed(_CONTROL_PLANE_PASSED),
            envoy_environment=read.passed(_ENVOY_PASSED),
            server_environment={api: server_environment(api, environ) for api in Api},
            poll_s=GatewaySettings.from_env(read.passed(_ENVOY_PASSED)).poll_s,
            database_url=database_url,
            volume=read.volume(),
            storage_class=(read.storage_class() if read.has("K8S_STORAGE_CLASS") else None),
            storage_size=read.quantity("K8S_STORAGE_SIZE", "10Gi"),
            model_source=read.text("MODEL_SOURCE") or None,
            model_sha256=read.matching("MODEL_SHA256", _SHA256, "64 hexadecimal digits") or None,
            model_target=read.model_target(),
            model_version=read.matching("MODEL_VERSION", _VERSION, "a whole number from 1") or "1",
            pod_monitors=read.flag("K8S_POD_MONITORS", default=False),
            load_test=read.load_test(),
        )._checked()

    def _checked(self) -> "KubernetesSettings":
        if self.control_plane.replicas > 1 and self.database_url is None:
            raise SettingInvalid(
                f"K8S_CONTROL_PLANE_REPLICAS is {self.control_plane.replicas}, expected 1 without "
                "SELDON_DATABASE_URL, since pods cannot share a SQLite file"
            )
        if self.envoy_heap_mib < _LEAST_HEAP_MIB:
            raise SettingInvalid(
                "K8S_ENVOY_RESOURCES has a memory limit of "
                f"{self.envoy.resources.memory_limit}, expected at least 160Mi: Envoy's heap is "
                f"four fifths of it, and at least {_LEAST_HEAP_MIB} MiB"
            )
        if self.in_flight and not (self.rest.max_replicas or self.grpc.max_replicas):
            raise SettingInvalid(
                f"K8S_IN_FLIGHT is {self.in_flight}, expected K8S_REST_MAX_REPLICAS or "
                "K8S_GRPC_MAX_REPLICAS with it"
            )
        return self

    @property
    def envoy_heap_mib(self) -> int:
        """Heap limit at which Envoy rejects requests, below the memory limit that kills it."""
        # A fifth is left for what is not on its heap: threads, and the program itself.
        return int(parse_quantity(self.envoy.resources.memory_limit)) * 4 // 5 >> 20

    @property
    def model_folder(self) -> str:
        """Where the model servers find the model."""
        return f"{self.model_target}/{self.model_version}"

    def image(self, name: str) -> str:
        """The full name of one of this project's images."""
        return f"{self.registry}/{PROJECT}/{name}:{self.tag}"


class _Reader:
    """Variables by name; every method raises SettingInvalid."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ

    def text(self, name: str, default: str = "") -> str:
        return self._environ.get(name, "").strip() or default

    def has(self, name: str) -> bool:
        return bool(self.text(name))

    def matching(self, name: str, form: re.Pattern[str], expected: str, default: str = "") -> str:
        text = self.text(name, default)
        if text and not form.fullmatch(text):
            raise SettingInvalid(f"{name} is {text!r}, expected {expected}")
        return text

    def name(self, name: str, default: str = "") -> str:
        expected = "at most 63 lower-case letters, digits and inner dashes"
        return self.matching(name, _DNS_LABEL, expected, default)

    def storage_class(self) -> str:
        return self.matching("K8S_STORAGE_CLASS", _DNS_NAME, "a storage class's name")

    def tag(self) -> str:
        tag = self.text("K8S_TAG", version("prediction-services-deploy"))
        try:
            Build(registry=self.text("K8S_REGISTRY", "localhost"), tag=tag, version="", revision="")
        except SettingInvalid as error:
            raise SettingInvalid(f"K8S_{error}") from None
        return tag

    def quantity(self, name: str, default: str) -> str:
        text = self.text(name, default)
        if not _QUANTITY.fullmatch(text) or not float(re.sub(r"[A-Za-z]+$", "", text)):
            raise SettingInvalid(f"{name} is {text!r}, expected a quantity such as {default}")
        return text

    def integer(self, name: str, default: int, least: int, most: int) -> int:
        text = self.text(name, str(default))
        if not (text.isascii() and text.isdigit()) or not least <= int(text) <= most:
            raise SettingInvalid(
                f"{name} is {text!r}, expected a whole number from {least} to {most}"
            )
        return int(text)

    def node_port(self, name: str, default: int) -> int:
        port = self.integer(name, default, 0, 32767)
        if 0 < port < 30000:
            raise SettingInvalid(
                f"{name} is '{port}', expected 30000 to 32767, or 0 to let the cluster choose"
            )
        return port

    def flag(self, name: str, *, default: bool) -> bool:
        text = self.text(name, str(default)).lower()
        if text not in ("true", "false"):
            raise SettingInvalid(f"{name} is {text!r}, expected true or false")
        return text == "true"

    def one_of(self, name: str, choices: tuple[str, ...]) -> str:
        text = self.text(name, choices[0])
        if text not in choices:
            raise SettingInvalid(f"{name} is {text!r}, expected {' or '.join(choices)}")
        return text

    def overlays(self) -> tuple[str, ...]:
        names = re.split(r"[\s,]+", self.text("K8S_OVERLAYS"))
        for overlay in filter(None, names):
            if overlay not in OVERLAYS:
                raise SettingInvalid(
                    f"K8S_OVERLAYS has {overlay!r}, expected {' or '.join(OVERLAYS)}"
                )
        return tuple(overlay for overlay in OVERLAYS if overlay in names)

    def sizing(
        self, service: str, default: Resources, replicas: int = 1, *, scales: bool = False
    ) -> Sizing:
        wanted = self.integer(f"K8S_{service}_REPLICAS", replicas, 1, _MOST_REPLICAS)
        most = 0
        if scales and self.has(f"K8S_{service}_MAX_REPLICAS"):
            most = self.integer(f"K8S_{service}_MAX_REPLICAS", 0, wanted, _MOST_REPLICAS)
        return Sizing(wanted, self._resources(f"K8S_{service}_RESOURCES", default), most)

    def _resources(self, name: str, default: Resources) -> Resources:
        if not self.has(name):
            return default
        given = self._json(name, '{"requests": {"cpu": "1", "memory": "512Mi"}}')
        requests, limits = given.pop("requests", {}), given.pop("limits", {})
        for values in (requests, limits):
            if (
                given
                or not isinstance(values, dict)
                or not values.keys() <= {"cpu", "memory"}
                or not all(_QUANTITY.fullmatch(str(value)) for value in values.values())
            ):
                raise SettingInvalid(
                    f"{name} is {self.text(name)!r}, expected requests and limits, each with "
                    "quantities of cpu and memory"
                )
        memory = str(requests.get("memory", limits.get("memory", default.memory)))
        return Resources(
            cpu=str(requests.get("cpu", limits.get("cpu", default.cpu))),
            memory=memory,
            memory_limit=str(
                limits.get("memory", memory if "memory" in requests else default.memory_limit)
            ),
            cpu_limit=str(limits["cpu"]) if "cpu" in limits else None,
        )

    def _json(self, name: str, example: str) -> dict[str, Any]:
        text = self.text(name)
        try:
            # The original's manifests had it as a member, without braces around it.
            document = json.loads(f"{{{text}}}" if text.startswith('"') else text)
        except ValueError:
            document = None
        if not isinstance(document, dict):
            raise SettingInvalid(f"{name} is {text!r}, expected JSON such as {example}")
        return document

    def database_url(self) -> str | None:
        url = self.text("SELDON_DATABASE_URL")
        if not url:
            return None
        scheme = url.partition(":")[0]
        if not scheme.startswith("postgresql"):
            # Not the URL itself: it may hold a password.
            raise SettingInvalid(
                f"SELDON_DATABASE_URL begins with {scheme!r}, expected postgresql+psycopg://…: "
                "pods cannot share a SQLite file; unset it to use SQLite on the control "
                "plane's volume"
            )
        return url

    def passed(self, names: tuple[str, ...]) -> dict[str, str]:
        """Those of the gateway's variables that are given, checked as the gateway does."""
        passed = {name: self.text(name) for name in names if self.has(name)}
        GatewaySettings.from_env(passed)
        return passed

    def volume(self) -> DataVolume:
        mode = self.one_of("K8S_STORAGE_ACCESS_MODE", ACCESS_MODES)
        if not self.has("DATA_VOLUME"):
            return DataVolume(None, None, mode)
        example = '{"hostPath": {"path": "/seldon-data"}}'
        given = self._json("DATA_VOLUME", example)
        expected = (
            f'expected {example}, {{"nfs": {{"server": "…", "path": "/…"}}}} '
            'or {"persistentVolumeClaim": {"claimName": "…"}}'
        )
        if "glusterfs" in given:
            raise SettingInvalid(
                "DATA_VOLUME is glusterfs, which Kubernetes removed in 1.26, " + expected
            )
        wanted = {
            "hostPath": {"path"},
            "nfs": {"server", "path"},
            "persistentVolumeClaim": {"claimName"},
        }
        kind = next(iter(given), "")
        source = given.get(kind)
        if (
            len(given) != 1
            or kind not in wanted
            or not isinstance(source, dict)
            or source.keys() != wanted[kind]
            or not all(isinstance(value, str) and value for value in source.values())
            or not source.get("path", "/").startswith("/")
            or ".." in source.get("path", "").split("/")
            or not _HOST.fullmatch(source.get("server", "host"))
            or not _DNS_NAME.fullmatch(source.get("claimName", "claim"))
        ):
            raise SettingInvalid(f"DATA_VOLUME is {self.text('DATA_VOLUME')!r}, {expected}")
        if kind == "persistentVolumeClaim":
            return DataVolume(None, source["claimName"], mode)
        return DataVolume(given, None, "ReadWriteMany" if kind == "nfs" else mode)

    def model_target(self) -> str:
        folder = self.text("MODEL_TARGET", f"{DATA_FOLDER}/seldon-models/deep_mnist").rstrip("/")
        if not folder.startswith(f"{DATA_FOLDER}/") or ".." in folder.split("/"):
            raise SettingInvalid(
                f"MODEL_TARGET is {folder!r}, expected a folder below {DATA_FOLDER}, the volume"
            )
        return folder

    def load_test(self) -> LoadTest:
        wanted = LoadTest(
            client=self.text("LOADTEST_CLIENT", LoadTest.client),
            test_type=self.text("LOADTEST_TEST_TYPE", LoadTest.test_type),
            workers=self.integer("LOADTEST_WORKERS", 1, 1, _MOST_REPLICAS),
            environment={name: self.text(name) for name in _LOADTEST_PASSED if self.has(name)},
            resources=self._resources("K8S_LOADTEST_RESOURCES", LoadTest.resources),
        )
        if wanted.test_type not in TEST_TYPES:
            raise SettingInvalid(
                f"LOADTEST_TEST_TYPE is {wanted.test_type!r}, expected {' or '.join(TEST_TYPES)}"
            )
        return wanted
