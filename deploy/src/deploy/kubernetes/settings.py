"""Settings of the stack on Kubernetes, read once from the environment."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import Any

from kubernetes.utils.quantity import parse_quantity

import env_settings as env
from deploy.errors import SettingInvalid
from deploy.images import Build
from deploy.microservices import Api
from deploy.stack import server_environment
from loadtest.settings import TEST_TYPES, LoadTestSettings
from loadtest.settings import workers as load_generators
from seldon_gateway.settings import GatewaySettings

PROJECT = "prediction-services"
DATA_FOLDER = "/seldon-data"  # the original's, where every pod has the shared volume

SERVICE_TYPES = ("ClusterIP", "NodePort", "LoadBalancer")
ACCESS_MODES = ("ReadWriteOnce", "ReadWriteMany")
OVERLAYS = ("monitoring", "loadtest")

# Variables that are set here; a load test's pods have the others unchanged.
_LOADTEST_SET = {
    "LOADTEST_WORKERS", "LOADTEST_OUTPUT", "LOADTEST_HOST", "LOADTEST_METRICS_BIND",
    "LOADTEST_MODEL_FOLDER", "LOADTEST_SERVER_METRICS", "LOADTEST_WEB_PORT",
}  # fmt: skip
_LOADTEST_PASSED = [
    one.name
    for one in env.settings_of(LoadTestSettings)
    if one.name and one.name not in _LOADTEST_SET
]

# Passed on to the control plane and to Envoy.
_CONTROL_PLANE_PASSED = ("SELDON_TIMEOUT", "SELDON_TOKEN_TTL", "SELDON_CORS_ORIGINS")
_ENVOY_PASSED = ("SELDON_POLL", "SELDON_JWKS_CACHE")

_MOST_REPLICAS = 64
_LEAST_HEAP_MIB = 128
_DNS_LABEL = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
_DNS_NAME = r"[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?"
_QUANTITY = r"(0|[1-9][0-9]*)(\.[0-9]{1,3})?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?"
_HOST = r"[A-Za-z0-9]([A-Za-z0-9.:-]{0,251}[A-Za-z0-9])?"


def _json(text: str) -> dict[str, Any]:
    # The original's manifests had it as a member, without braces around it.
    document = json.loads(f"{{{text}}}" if text.startswith('"') else text)
    if not isinstance(document, dict):
        raise ValueError
    return document


def _resources(text: str) -> dict[str, dict[str, str]]:
    given = _json(text)
    for name, quantities in given.items():
        if (
            name not in ("requests", "limits")
            or not isinstance(quantities, dict)
            or not quantities.keys() <= {"cpu", "memory"}
            or not all(re.fullmatch(_QUANTITY, str(value)) for value in quantities.values())
        ):
            raise ValueError
    return given


def _volume(text: str) -> dict[str, Any]:
    given = _json(text)
    if "glusterfs" in given:
        raise SettingInvalid(
            "DATA_VOLUME is glusterfs, which Kubernetes removed in 1.26, expected hostPath, nfs or "
            "persistentVolumeClaim"
        )
    ((kind, source),) = given.items()  # one, else ValueError
    members = {
        "hostPath": {"path"},
        "nfs": {"server", "path"},
        "persistentVolumeClaim": {"claimName"},
    }.get(kind)
    if (
        not isinstance(source, dict)
        or source.keys() != members
        or not all(isinstance(value, str) and value for value in source.values())
        or not source.get("path", "/").startswith("/")
        or ".." in source.get("path", "").split("/")
        or not re.fullmatch(_HOST, source.get("server", "host"))
        or not re.fullmatch(_DNS_NAME, source.get("claimName", "claim"))
    ):
        raise ValueError
    return given


def _overlays(text: str) -> tuple[str, ...]:
    names = set(re.split(r"[\s,]+", text)) - {""}
    if not names <= set(OVERLAYS):
        raise ValueError
    return tuple(overlay for overlay in OVERLAYS if overlay in names)


def _node_port(text: str) -> int:
    port: int = env.number(text, int)
    if port and not 30_000 <= port <= 32_767:
        raise ValueError
    return port


def _storage_size(text: str) -> str:
    if not re.fullmatch(_QUANTITY, text) or not float(re.sub(r"[A-Za-z]+$", "", text)):
        raise ValueError
    return text


def _model_target(text: str) -> str:
    folder = text.rstrip("/")
    if not folder.startswith(f"{DATA_FOLDER}/") or ".." in folder.split("/"):
        raise ValueError
    return folder


def _dns_label(name: str, default: str | None, meaning: str) -> Any:
    expected = "at most 63 lower-case letters, digits and inner dashes"
    return env.matching(name, default, _DNS_LABEL, meaning, expected=expected)


def _pods(name: str, default: Any, meaning: str, words: str = "") -> Any:
    return env.integer(name, default, 1, _MOST_REPLICAS, meaning, words=words)


def _resources_of(name: str, default: Any, meaning: str, words: str) -> Any:
    example = '{"requests": {"cpu": "1", "memory": "512Mi"}, "limits": {…}}'
    expected = f"JSON such as {example} with quantities"
    return env.parsed(name, default, _resources, meaning, expected=expected, words=words)


def _node_port_of(name: str, default: int, meaning: str) -> Any:
    expected = "an integer from 30000 to 32767, or 0 to let the cluster choose"
    return env.parsed(name, default, _node_port, meaning, expected=expected)


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

    def with_given(self, given: Mapping[str, Mapping[str, Any]]) -> "Resources":
        """These, where `given` does not say otherwise."""
        requests, limits = given.get("requests", {}), given.get("limits", {})
        memory = str(requests.get("memory", limits.get("memory", self.memory)))
        return Resources(
            cpu=str(requests.get("cpu", limits.get("cpu", self.cpu))),
            memory=memory,
            memory_limit=str(
                limits.get("memory", memory if "memory" in requests else self.memory_limit)
            ),
            cpu_limit=str(limits["cpu"]) if "cpu" in limits else None,
        )


@dataclass(frozen=True)
class Sizing:
    """Pods of one service; more than `replicas` only under load."""

    replicas: int = _pods(
        "K8S_…_REPLICAS", env.REQUIRED, "number of pods", "1; control plane with a database: 2"
    )
    resources: Resources = _resources_of(
        "K8S_…_RESOURCES",
        env.REQUIRED,
        "of each pod; Envoy's heap is four fifths of its memory limit",
        "1 core; control plane: 100m",
    )
    max_replicas: int = _pods(
        "K8S_…_MAX_REPLICAS",
        0,
        "most pods of the HorizontalPodAutoscaler, of REST and gRPC alone",
        "no autoscaling",
    )

    @classmethod
    def from_env(
        cls, environ: Mapping[str, str], service: str, default: Resources, replicas: int = 1
    ) -> "Sizing":
        """Read K8S_<service>_*.

        Raises:
            SettingInvalid: Names the variable, its value and what was expected.
        """
        given = env.read(cls, environ, SettingInvalid, service)
        given["resources"] = default.with_given(given.get("resources", {}))
        sizing = cls(**{"replicas": replicas, **given})
        if 0 < sizing.max_replicas < sizing.replicas:
            raise SettingInvalid(
                f"K8S_{service}_MAX_REPLICAS is '{sizing.max_replicas}', expected an integer "
                f"from {sizing.replicas} to {_MOST_REPLICAS}"
            )
        return sizing


@dataclass(frozen=True)
class DataVolume:
    """The volume with the models.

    Attributes:
        source: As a PersistentVolume has it: {"hostPath": …} or {"nfs": …}; None takes what the
            storage class provides.
        claim: One that exists already; None makes it.
    """

    source: Mapping[str, Any] | None = env.parsed(
        "DATA_VOLUME",
        None,
        _volume,
        "the volume of models",
        expected='JSON such as {"hostPath": {"path": "/seldon-data"}}, {"nfs": {"server": "…", '
        '"path": "/…"}} or {"persistentVolumeClaim": {"claimName": "…"}}',
        words="a claim of the storage class",
    )
    access_mode: str = env.choice(
        "K8S_STORAGE_ACCESS_MODE",
        ACCESS_MODES[0],
        ACCESS_MODES,
        "ReadWriteOnce: all pods that mount the models run on one node",
        words="ReadWriteOnce; nfs: ReadWriteMany",
    )
    claim: str | None = None

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> "DataVolume":
        """Read DATA_VOLUME and K8S_STORAGE_ACCESS_MODE.

        Raises:
            SettingInvalid: Names the variable, its value and what was expected.
        """
        volume = cls(**env.read(cls, environ, SettingInvalid))
        source = volume.source or {}
        if "persistentVolumeClaim" in source:
            claim = source["persistentVolumeClaim"]["claimName"]
            return replace(volume, source=None, claim=claim)
        return replace(volume, access_mode="ReadWriteMany") if "nfs" in source else volume


@dataclass(frozen=True)
class LoadTest:
    """One load test.

    Attributes:
        environment: LOADTEST_* as they are.
    """

    client: str = env.text("LOADTEST_CLIENT", "deep_mnist_client", "client whose keys are used")
    test_type: str = env.choice(
        "LOADTEST_TEST_TYPE", "js-predict", tuple(TEST_TYPES), "protocol to test"
    )
    workers: int = load_generators(1, "load generators")
    resources: Resources = _resources_of(
        "K8S_LOADTEST_RESOURCES",
        Resources("1", "512Mi", "2Gi"),
        "of each load generator, whose own delays are measured too if it has too little",
        "1 core",
    )
    environment: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> "LoadTest":
        """Read LOADTEST_*.

        Raises:
            SettingInvalid: Names the variable, its value and what was expected.
        """
        given = env.read(cls, environ, SettingInvalid)
        given["resources"] = cls.resources.with_given(given.get("resources", {}))
        return cls(**given, environment=_passed(_LOADTEST_PASSED, environ))


def _passed(names: Iterable[str], environ: Mapping[str, str]) -> dict[str, str]:
    return {name: environ[name] for name in names if environ.get(name)}


@dataclass(frozen=True, kw_only=True)
class KubernetesSettings:
    """The whole stack in one namespace.

    Attributes:
        database_url: Its password: objects name a Secret, never this.
        gateway_environment: SELDON_* passed on to the control plane.
        envoy_environment: SELDON_* passed on to Envoy.
        server_environment: MODEL_ENGINE, REST_* and GRPC_* passed on to the servers.
        poll_s: Seconds between Envoy's polls, plus a random delay of up to the same again.
    """

    namespace: str = _dns_label("K8S_NAMESPACE", PROJECT, "one stack per namespace")
    create_namespace: bool = env.flag(
        "K8S_CREATE_NAMESPACE", True, "whether the namespace is part of the stack"
    )
    instance: str = _dns_label("SELDON_INSTANCE", PROJECT, "label `app.kubernetes.io/instance`")
    registry: str = env.text("K8S_REGISTRY", "localhost", "registry of the images")
    tag: str = env.text("K8S_TAG", env.REQUIRED, "tag of the images", words="this version")
    pull_secret: str | None = _dns_label("K8S_PULL_SECRET", None, "pull secret of the images")
    overlays: tuple[str, ...] = env.parsed(
        "K8S_OVERLAYS",
        (),
        _overlays,
        "`OVERLAYS=` takes precedence",
        expected=f"{' and '.join(OVERLAYS)}, or one of them",
        words="none",
    )
    in_flight: int = env.integer(
        "K8S_IN_FLIGHT",
        0,
        0,
        10_000,
        "in-flight requests per pod at which the autoscaler adds pods; needs a metrics adapter. 0: "
        "CPU alone decides",
    )
    service_type: str = env.choice(
        "SELDON_SERVER_SERVICE_TYPE",
        SERVICE_TYPES[0],
        SERVICE_TYPES,
        "Service type of the gateway",
    )
    rest_node_port: int = _node_port_of("SELDON_SERVER_NODEPORT", 30015, "REST, of type NodePort")
    grpc_node_port: int = _node_port_of(
        "SELDON_SERVER_RPC_NODEPORT", 30017, "gRPC, of type NodePort"
    )
    pages_service_type: str = env.choice(
        "SELDON_SERVICE_TYPE", SERVICE_TYPES[0], SERVICE_TYPES, "Service type of Grafana"
    )
    database_url: str | None = env.text(
        "SELDON_DATABASE_URL",
        None,
        "`postgresql+psycopg://…`; its value is not written to the manifests",
        words="SQLite on the control plane's volume",
        secret=True,
    )
    storage_class: str | None = env.matching(
        "K8S_STORAGE_CLASS",
        None,
        _DNS_NAME,
        "storage class of every claim",
        expected="a storage class's name",
        words="the cluster's",
    )
    storage_size: str = env.parsed(
        "K8S_STORAGE_SIZE",
        "10Gi",
        _storage_size,
        "size of the volume of models",
        expected="a quantity such as 10Gi",
    )
    model_source: str | None = env.text(
        "MODEL_SOURCE",
        None,
        "what the Job downloads: [model-download](../model-download/README.md)",
    )
    model_sha256: str | None = env.matching(
        "MODEL_SHA256", None, "[0-9a-f]{64}", "its checksum", expected="64 hexadecimal digits"
    )
    model_target: str = env.parsed(
        "MODEL_TARGET",
        f"{DATA_FOLDER}/seldon-models/deep_mnist",
        _model_target,
        "folder on the volume, above the version",
        expected=f"a folder below {DATA_FOLDER}, the volume",
    )
    model_version: str = env.matching(
        "MODEL_VERSION",
        "1",
        "[1-9][0-9]{0,8}",
        "its subfolder, the model folder",
        expected="an integer from 1",
    )
    pod_monitors: bool = env.flag("K8S_POD_MONITORS", False, "whether to create PodMonitors")
    envoy: Sizing
    control_plane: Sizing
    rest: Sizing
    grpc: Sizing
    gateway_environment: Mapping[str, str]
    envoy_environment: Mapping[str, str]
    server_environment: Mapping[Api, Mapping[str, str]]
    poll_s: float
    volume: DataVolume
    load_test: LoadTest

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> "KubernetesSettings":
        """Read every variable; an empty one counts as absent.

        Raises:
            SettingInvalid: Names the variable, its value and what was expected.
        """
        given = env.read(cls, environ, SettingInvalid)
        given.setdefault("tag", version("prediction-services-deploy"))
        gateway = _passed(_CONTROL_PLANE_PASSED, environ)
        envoy = _passed(_ENVOY_PASSED, environ)
        server = Resources("1", "512Mi", "1Gi")
        return cls(
            **given,
            envoy=Sizing.from_env(environ, "ENVOY", Resources("1", "256Mi", "1280Mi")),
            control_plane=Sizing.from_env(
                environ,
                "CONTROL_PLANE",
                Resources("100m", "192Mi", "384Mi"),
                2 if "database_url" in given else 1,
            ),
            rest=Sizing.from_env(environ, "REST", server),
            grpc=Sizing.from_env(environ, "GRPC", server),
            gateway_environment=gateway,
            envoy_environment=envoy,
            server_environment={api: server_environment(api, environ) for api in Api},
            # Checked as the gateway does.
            poll_s=GatewaySettings.from_env({**gateway, **envoy}).poll_s,
            volume=DataVolume.from_env(environ),
            load_test=LoadTest.from_env(environ),
        )._checked()

    def _checked(self) -> "KubernetesSettings":
        try:
            Build(registry=self.registry, tag=self.tag, version="", revision="")
        except SettingInvalid as error:
            raise SettingInvalid(f"K8S_{error}") from None
        scheme = (self.database_url or "postgresql").partition(":")[0]
        if not scheme.startswith("postgresql"):
            # Not the URL itself: it may hold a password.
            raise SettingInvalid(
                f"SELDON_DATABASE_URL begins with {scheme!r}, expected postgresql+psycopg://…: "
                "pods cannot share a SQLite file; unset it to use SQLite on the control "
                "plane's volume"
            )
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
    def node_ports(self) -> tuple[int, int]:
        """REST and gRPC; 0 lets the cluster choose."""
        return self.rest_node_port, self.grpc_node_port

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
