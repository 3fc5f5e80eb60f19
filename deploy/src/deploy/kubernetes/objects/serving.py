"""Model servers, and the job that puts a model on their volume."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from deploy.kubernetes.objects import storage
from deploy.kubernetes.objects.common import (
    LEAVE_S,
    ON_ITS_OWN,
    REQUESTED_CORES,
    Object,
    an_object,
    apart,
    container,
    deployment,
    digest,
    disruption_budget,
    http_probe,
    ingress,
    labels,
    network_policy,
    pod,
    pods_of,
    port,
    prometheus_pods,
    selector,
    service,
)
from deploy.kubernetes.objects.gateway import ENVOY
from deploy.kubernetes.settings import KubernetesSettings, Resources, Sizing
from deploy.microservices import Api
from deploy.stack import PREFIX, grace_s
from monitoring.metrics import IN_FLIGHT

REST_PORT, GRPC_PORT, GRPC_METRICS_PORT = 8500, 8600, 8601
DEFAULT = "tensorflow-deep-mnist"  # as on one machine
PORTS = {Api.REST: REST_PORT, Api.RPC: GRPC_PORT}
PROGRAMS = {Api.REST: "serving-rest", Api.RPC: "serving-grpc"}

DOWNLOAD = "model-download"
DOWNLOAD_SECRET = "model-download"  # noqa: S105 - a name

_CPU_PERCENT = 70


@dataclass(frozen=True)
class Microservice:
    """A model behind one protocol.

    Attributes:
        name: With the protocol it names the objects; also its variation's label, and what answers
            call the model.
        api: What it speaks.
        sizing: How many pods, and what each gets.
        folder: The model's, on the shared volume; None if the image has the model.
        image: None takes this project's.
        environment: The server's settings besides.
    """

    name: str
    api: Api
    sizing: Sizing
    folder: str | None = None
    image: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def object_name(self) -> str:
        """Of its Deployment and its Service, so also its host name."""
        return object_name(self.name, self.api)

    @property
    def port(self) -> int:
        """Where it predicts."""
        return PORTS[self.api]


def object_name(name: str, api: Api) -> str:
    """The name of a microservice's objects."""
    return f"{name}-{api.protocol}"


def own_labels(name: str, api: Api) -> dict[str, str]:
    """What tells a microservice's objects from all others of the stack."""
    return {
        "app.kubernetes.io/name": PROGRAMS[api],
        "app.kubernetes.io/component": name,
        ON_ITS_OWN: "microservice",
    }


def default_microservices(settings: KubernetesSettings) -> list[Microservice]:
    """Deep MNIST over both protocols, as start-microservice would start it."""
    return [
        Microservice(
            DEFAULT,
            api,
            sizing_of(settings, api),
            settings.model_folder,
            environment=settings.server_environment[api],
        )
        for api in Api
    ]


def sizing_of(settings: KubernetesSettings, api: Api) -> Sizing:
    """Of every microservice that speaks it."""
    return settings.rest if api is Api.REST else settings.grpc


def microservice(settings: KubernetesSettings, wanted: Microservice) -> list[Object]:
    """Its Deployment, its headless Service and what goes with them."""
    program, name, sizing = PROGRAMS[wanted.api], wanted.object_name, wanted.sizing
    pods = selector(settings, program, wanted.name)
    metrics = "http" if wanted.api is Api.REST else "metrics"
    metrics_port = REST_PORT if wanted.api is Api.REST else GRPC_METRICS_PORT
    template = pod(
        settings,
        {
            **labels(settings, program, wanted.name),
            **(storage.one_node_labels(settings) if wanted.folder else {}),
        },
        [_server(settings, wanted)],
        volumes=[storage.data_mount(settings, read_only=True)[0]] if wanted.folder else [],
        **_wait_for_download(settings, wanted),
        annotations={"prometheus.io/port": str(metrics_port)},
        # It leaves the endpoints, then completes requests in flight.
        terminationGracePeriodSeconds=LEAVE_S + grace_s(wanted.api, wanted.environment) + 10,
        **(
            storage.one_node(settings)
            if wanted.folder and storage.on_one_node(settings)
            else apart(pods)
        ),
    )
    ports = (
        [port("http", REST_PORT, "http")]
        if wanted.api is Api.REST
        else [port("grpc", GRPC_PORT, "kubernetes.io/h2c")]
    )
    calls = ingress([ports[0]["name"]], pods_of(settings, ENVOY))
    objects = [
        # Headless: the name resolves to every pod, and Envoy balances requests. A cluster IP would
        # keep a connection with all its calls on one pod.
        service(settings, name, program, pods, ports, clusterIP="None"),
        deployment(
            settings,
            name,
            program,
            template,
            replicas=None if sizing.max_replicas else sizing.replicas,
            pods=pods,
        ),
        network_policy(
            settings,
            name,
            program,
            pods,
            [calls, ingress([metrics], *prometheus_pods(settings))],
        ),
    ]
    if max(sizing.replicas, sizing.max_replicas) > 1:
        objects.append(disruption_budget(settings, name, program, pods))
    if sizing.max_replicas:
        objects.append(_autoscaler(settings, name, program, sizing))
    for made in objects:
        made["metadata"]["labels"] = {
            **labels(settings, program, wanted.name),
            **own_labels(wanted.name, wanted.api),
        }
    return objects


def _server(settings: KubernetesSettings, wanted: Microservice) -> Object:
    own = PREFIX[wanted.api]
    environment: dict[str, str | Object] = {
        "MODEL_NAME": wanted.name,
        f"{own}_WORKERS": REQUESTED_CORES,
        f"{own}_GRACE_S": str(grace_s(wanted.api, wanted.environment)),
    }
    if wanted.folder:
        environment["MODEL_FOLDER"] = wanted.folder
    if wanted.api is Api.REST:
        ports = {"http": REST_PORT}
        ready: Object = {"httpGet": {"path": "/health/ready", "port": "http"}}
        side = "http"
    else:
        ports = {"grpc": GRPC_PORT, "metrics": GRPC_METRICS_PORT}
        ready = {"grpc": {"port": GRPC_PORT}}
        side = "metrics"
    return container(
        PROGRAMS[wanted.api],
        wanted.image or settings.image(PROGRAMS[wanted.api]),
        wanted.sizing.resources,
        ports=ports,
        environment={**environment, **wanted.environment},
        mounts=[storage.data_mount(settings, read_only=True)[1]] if wanted.folder else [],
        # Until the model has scored its first instance, which takes long with TensorFlow.
        startupProbe={**ready, "periodSeconds": 1, "timeoutSeconds": 3, "failureThreshold": 180},
        readinessProbe={**ready, "periodSeconds": 3, "timeoutSeconds": 3, "failureThreshold": 2},
        # Tolerant, so that a full queue does not count as a dead server.
        livenessProbe=http_probe(
            "/health/live", side, periodSeconds=10, timeoutSeconds=5, failureThreshold=6
        ),
        lifecycle={"preStop": {"sleep": {"seconds": LEAVE_S}}},
    )


def _wait_for_download(settings: KubernetesSettings, wanted: Microservice) -> Object:
    """An init container that waits for the model, since a failing server would be in back-off.

    The download publishes the folder complete; the server decides whether it is a model folder.
    """
    if settings.model_source is None or wanted.folder != settings.model_folder:
        return {}
    waiting = container(
        "wait-for-model",
        settings.image(PROGRAMS[wanted.api]),
        Resources("10m", "16Mi", "32Mi"),
        command=["sh", "-c", 'until [ -d "$MODEL_FOLDER" ]; do sleep 1; done'],
        environment={"MODEL_FOLDER": wanted.folder},
        mounts=[storage.data_mount(settings, read_only=True)[1]],
    )
    return {"initContainers": [waiting]}


def _autoscaler(settings: KubernetesSettings, name: str, program: str, sizing: Sizing) -> Object:
    metrics: list[Object] = [
        {
            "type": "Resource",
            "resource": {
                "name": "cpu",
                "target": {"type": "Utilization", "averageUtilization": _CPU_PERCENT},
            },
        }
    ]
    if settings.in_flight:
        metrics.append(
            {
                "type": "Pods",
                "pods": {
                    "metric": {"name": IN_FLIGHT},
                    "target": {"type": "AverageValue", "averageValue": str(settings.in_flight)},
                },
            }
        )
    spec = {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
        "minReplicas": sizing.replicas,
        "maxReplicas": sizing.max_replicas,
        "metrics": metrics,
        # Starting a server is expensive: scale up fast, down slowly.
        "behavior": {
            "scaleDown": {
                "stabilizationWindowSeconds": 300,
                "policies": [{"type": "Pods", "value": 1, "periodSeconds": 60}],
            }
        },
    }
    return an_object(
        settings, "autoscaling/v2", "HorizontalPodAutoscaler", name, program, spec=spec
    )


def model_download(settings: KubernetesSettings) -> list[Object]:
    """The job that puts the model on the shared volume, if it is said where the model is."""
    if settings.model_source is None:
        return []
    volume, mount = storage.data_mount(settings, read_only=False)
    environment: dict[str, str | Object] = {
        "MODEL_SOURCE": settings.model_source,
        "MODEL_TARGET": settings.model_target,
        "MODEL_VERSION": settings.model_version,
    }
    if settings.model_sha256:
        environment["MODEL_SHA256"] = settings.model_sha256
    download = container(
        DOWNLOAD,
        settings.image(DOWNLOAD),
        Resources("100m", "128Mi", "512Mi"),
        command=["download-model"],
        environment=environment,
        # Credentials of the store, where it wants some.
        envFrom=[{"secretRef": {"name": DOWNLOAD_SECRET, "optional": True}}],
        mounts=[mount],
    )
    template = pod(
        settings,
        {**labels(settings, DOWNLOAD), **storage.one_node_labels(settings)},
        [download],
        volumes=[volume],
        restartPolicy="OnFailure",
        **storage.one_node(settings),
    )
    # Jobs are immutable, so another model is another Job.
    name = f"{DOWNLOAD}-{digest(template)}"
    spec = {"backoffLimit": 6, "activeDeadlineSeconds": 3600, "template": template}
    return [an_object(settings, "batch/v1", "Job", name, DOWNLOAD, spec=spec)]
