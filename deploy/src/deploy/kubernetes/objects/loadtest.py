"""One load test: a master that reports, and load generators, on nodes of their own."""

from deploy.kubernetes.objects import storage
from deploy.kubernetes.objects.common import (
    Object,
    an_object,
    apart,
    container,
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
from deploy.kubernetes.objects.gateway import GATEWAY_SERVICE, GRPC_PORT
from deploy.kubernetes.settings import KubernetesSettings, Resources
from monitoring.metrics import LOADTEST_PORT

LOADTEST, WORKER = "loadtest", "loadtest-worker"
CREDENTIALS_SECRET = "loadtest-credentials"  # noqa: S105 - a name
RESULTS = "loadtest-results"

_MASTER_PORT = 5557
_KEPT_S = 86_400  # a job that has ended, with its pods' logs

# Nodes with the label role=locust, whether a taint keeps others away or they are cordoned.
_ON_ITS_NODES: Object = {
    "nodeSelector": {"role": "locust"},
    "tolerations": [
        {"key": "role", "operator": "Equal", "value": "locust", "effect": "NoSchedule"},
        {"key": "node.kubernetes.io/unschedulable", "operator": "Exists", "effect": "NoSchedule"},
    ],
}


def load_test(settings: KubernetesSettings) -> list[Object]:
    """The jobs of one run, and the volume that its results stay on."""
    wanted = settings.load_test
    master, workers = selector(settings, LOADTEST), selector(settings, WORKER)
    command = [
        "launch-locust-load-test",
        *("--seldon-client", wanted.client),
        *("--test-type", wanted.test_type),
        *("--locust-slaves", str(wanted.workers)),
        *("--host", f"http://{GATEWAY_SERVICE}"),
        *("--seldon-grpc-endpoint", f"{GATEWAY_SERVICE}:{GRPC_PORT}"),
    ]
    results, results_mount = storage.claimed(RESULTS, "/results")
    master_pod = pod(
        settings,
        labels(settings, LOADTEST),
        [
            container(
                LOADTEST,
                settings.image(LOADTEST),
                Resources("500m", "512Mi", "2Gi"),
                ports={"master": _MASTER_PORT, "metrics": LOADTEST_PORT},
                command=[
                    *command,
                    *("--bind", f"0.0.0.0:{_MASTER_PORT}"),
                    *("--metrics-bind", f"0.0.0.0:{LOADTEST_PORT}"),
                ],
                environment=dict(wanted.environment),
                envFrom=[{"secretRef": {"name": CREDENTIALS_SECRET}}],
                mounts=[results_mount],
            )
        ],
        volumes=[results],
        annotations={"prometheus.io/port": str(LOADTEST_PORT)},
        restartPolicy="Never",
        **_ON_ITS_NODES,
    )
    worker_pod = pod(
        settings,
        labels(settings, WORKER),
        [
            container(
                WORKER,
                settings.image(LOADTEST),
                Resources("1", "512Mi", "2Gi"),
                command=[*command, "--worker-of", f"{LOADTEST}:{_MASTER_PORT}"],
                environment=dict(wanted.environment),
                envFrom=[{"secretRef": {"name": CREDENTIALS_SECRET}}],
            )
        ],
        # A load generator may be there before its master is.
        restartPolicy="OnFailure",
        **_ON_ITS_NODES,
        **apart(workers),
    )
    return [
        *storage.own_volume(settings, RESULTS, "1Gi", LOADTEST),
        # Load generators may ask for its address before it is ready.
        service(
            settings,
            LOADTEST,
            LOADTEST,
            master,
            [port("master", _MASTER_PORT, "tcp")],
            clusterIP="None",
            publishNotReadyAddresses=True,
        ),
        network_policy(
            settings,
            LOADTEST,
            LOADTEST,
            master,
            [
                ingress(["master"], pods_of(settings, WORKER)),
                ingress(["metrics"], *prometheus_pods(settings)),
            ],
        ),
        _job(settings, LOADTEST, master_pod, 1, retries=0),
        _job(settings, WORKER, worker_pod, wanted.workers, retries=6),
    ]


def _job(
    settings: KubernetesSettings, name: str, template: Object, pods: int, *, retries: int
) -> Object:
    spec = {
        "parallelism": pods,
        "completions": pods,
        "backoffLimit": retries,
        "ttlSecondsAfterFinished": _KEPT_S,
        "template": template,
    }
    return an_object(settings, "batch/v1", "Job", name, LOADTEST, spec=spec)
