"""Envoy and its control plane."""

from deploy.kubernetes.objects import storage
from deploy.kubernetes.objects.common import (
    LEAVE_S,
    REQUESTED_CORES,
    Object,
    apart,
    container,
    deployment,
    disruption_budget,
    from_secret,
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
from deploy.kubernetes.settings import KubernetesSettings, Resources
from seldon_gateway.tokens import KEY_FILE

ENVOY = "envoy"
CONTROL_PLANE = "control-plane"  # the host in the bootstrap of Envoy's image
GATEWAY_SERVICE = "seldon-server"  # the original's name
OPERATOR = "seldon-cli"

REST_PORT, GRPC_PORT, STATS_PORT, CONTROL_PORT = 8080, 5000, 9902, 8081

SIGNING_KEY_SECRET = "signing-key"  # noqa: S105 - names
DATABASE_SECRET, DATABASE_KEY = "database", "url"

ADMIN_PORT = 9901
# Drains: responses tell callers to reconnect, which leads to another pod; then wait for the last.
_LEAVE = (
    f"exec 3<>/dev/tcp/127.0.0.1/{ADMIN_PORT} && "
    r"printf 'POST /healthcheck/fail HTTP/1.1\r\nHost: envoy\r\nContent-Length: 0\r\n"
    r"Connection: close\r\n\r\n' >&3 && cat <&3; "
    f"sleep {LEAVE_S}"
)


def gateway(settings: KubernetesSettings) -> list[Object]:
    """The objects of Envoy and of its control plane."""
    return [*_envoy(settings), *_control_plane(settings)]


def _envoy(settings: KubernetesSettings) -> list[Object]:
    pods = selector(settings, ENVOY)
    sizing = settings.envoy
    envoy = container(
        ENVOY,
        settings.image(ENVOY),
        sizing.resources,
        ports={"rest": REST_PORT, "grpc": GRPC_PORT, "stats": STATS_PORT},
        environment={
            "SELDON_ENVOY_THREADS": REQUESTED_CORES,
            "SELDON_ENVOY_HEAP": str(settings.envoy_heap_mib),
            **settings.envoy_environment,
        },
        # Not by HTTP: without its control plane it has no routes, which a restart would not fix.
        startupProbe={"tcpSocket": {"port": "rest"}, "periodSeconds": 1, "failureThreshold": 60},
        livenessProbe={"tcpSocket": {"port": "rest"}, "periodSeconds": 10, "failureThreshold": 3},
        readinessProbe=http_probe(
            "/health/ready", "rest", periodSeconds=3, timeoutSeconds=2, failureThreshold=2
        ),
        lifecycle={"preStop": {"exec": {"command": ["bash", "-c", _LEAVE]}}},
    )
    template = pod(
        settings,
        labels(settings, ENVOY),
        [envoy],
        annotations={"prometheus.io/port": str(STATS_PORT)},
        terminationGracePeriodSeconds=LEAVE_S + 15,
        **apart(pods),
    )
    nodes = settings.service_type == "NodePort"
    rest, grpc = (port("rest", 80, "http"), port("grpc", GRPC_PORT, "kubernetes.io/h2c"))
    for one, number in zip((rest, grpc), settings.node_ports, strict=True):
        if nodes and number:
            one["nodePort"] = number
    objects = [
        service(settings, GATEWAY_SERVICE, ENVOY, pods, [rest, grpc], type=settings.service_type),
        deployment(settings, ENVOY, ENVOY, template, replicas=sizing.replicas, pods=pods),
        network_policy(
            settings,
            ENVOY,
            ENVOY,
            pods,
            [ingress(["rest", "grpc"]), ingress(["stats"], *prometheus_pods(settings))],
        ),
    ]
    if sizing.replicas > 1:
        objects.append(disruption_budget(settings, ENVOY, ENVOY, pods))
    return objects


def _control_plane(settings: KubernetesSettings) -> list[Object]:
    pods = selector(settings, CONTROL_PLANE)
    shared = settings.database_url is not None
    state, mounts = _state(settings)
    database = {"SELDON_DATABASE_URL": from_secret(DATABASE_SECRET, DATABASE_KEY)} if shared else {}
    control_plane = container(
        CONTROL_PLANE,
        settings.image(CONTROL_PLANE),
        settings.control_plane.resources,
        ports={"http": CONTROL_PORT},
        environment={**settings.gateway_environment, **database},
        mounts=mounts,
        startupProbe=http_probe("/health/live", "http", periodSeconds=1, failureThreshold=60),
        livenessProbe=http_probe(
            "/health/live", "http", periodSeconds=10, timeoutSeconds=5, failureThreshold=3
        ),
        readinessProbe=http_probe(
            "/health/ready", "http", periodSeconds=5, timeoutSeconds=3, failureThreshold=2
        ),
        # With several replicas: keep serving tokens until endpoints are updated.
        **({"lifecycle": {"preStop": {"sleep": {"seconds": 5}}}} if shared else {}),
    )
    # Runs the operator's commands. A container of the same pod, since the volume of the registry
    # may be usable by one pod only.
    operator = container(
        OPERATOR,
        settings.image("loadtest"),
        Resources("10m", "64Mi", "256Mi"),
        environment={**settings.gateway_environment, **database},
        mounts=mounts,
        command=["sh", "-c", "trap exit TERM; sleep infinity & wait"],
    )
    host_path = "hostPath" in (settings.volume.source or {})
    template = pod(
        settings,
        {
            **labels(settings, CONTROL_PLANE),
            **(storage.one_node_labels(settings) if host_path and not shared else {}),
        },
        [control_plane, operator],
        volumes=state,
        terminationGracePeriodSeconds=45,
        **(apart(pods) if shared else storage.one_node(settings) if host_path else {}),
    )
    objects = [
        *([] if shared else storage.own_volume(settings, CONTROL_PLANE, "1Gi", CONTROL_PLANE)),
        service(
            settings,
            CONTROL_PLANE,
            CONTROL_PLANE,
            pods,
            [port("http", CONTROL_PORT, "http")],
            # xDS state per Envoy is in memory, so an Envoy stays with one control plane.
            sessionAffinity="ClientIP",
        ),
        deployment(
            settings,
            CONTROL_PLANE,
            CONTROL_PLANE,
            template,
            replicas=settings.control_plane.replicas,
            pods=pods,
            one_at_a_time=not shared,
        ),
        network_policy(
            settings,
            CONTROL_PLANE,
            CONTROL_PLANE,
            pods,
            # It serves every client's keys.
            [ingress(["http"], pods_of(settings, ENVOY))],
        ),
    ]
    if settings.control_plane.replicas > 1:
        objects.append(disruption_budget(settings, CONTROL_PLANE, CONTROL_PLANE, pods))
    return objects


def _state(settings: KubernetesSettings) -> tuple[list[Object], list[Object]]:
    """What /data is: a volume with database and signing key, or the signing key that all share."""
    if settings.database_url is None:
        volume, mount = storage.claimed(CONTROL_PLANE, "/data")
        return [volume], [mount]
    return (
        [
            {"name": "home", "emptyDir": {}},
            {
                "name": "signing-key",
                "secret": {"secretName": SIGNING_KEY_SECRET, "defaultMode": 0o440},
            },
        ],
        [
            {"name": "home", "mountPath": "/data"},
            {
                "name": "signing-key",
                "mountPath": f"/data/{KEY_FILE}",
                "subPath": KEY_FILE,
                "readOnly": True,
            },
        ],
    )
