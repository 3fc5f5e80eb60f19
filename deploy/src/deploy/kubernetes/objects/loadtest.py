"""One load test: a master that reports, and load generators, on nodes of their own."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from deploy.kubernetes.objects import storage
from deploy.kubernetes.objects.common import (
    ON_ITS_OWN,
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
from deploy.kubernetes.settings import PROJECT, KubernetesSettings, Resources
from monitoring.metrics import LOADTEST_PORT

LOADTEST, WORKER = "loadtest", "loadtest-worker"
CREDENTIALS_SECRET = "loadtest-credentials"  # noqa: S105 - a name
RESULTS = "loadtest-results"
OWNER = f"{PROJECT}/started-by"

_MASTER_PORT = 5557
_KEPT_S = 86_400  # a job that has ended, with its pods' logs

ROLE = {"role": "locust"}
# Nodes with that label, whether a taint keeps others away or they are cordoned.
_ON_ITS_NODES: Object = {
    "nodeSelector": ROLE,
    "tolerations": [
        {"key": "role", "operator": "Equal", "value": "locust", "effect": "NoSchedule"},
        {"key": "node.kubernetes.io/unschedulable", "operator": "Exists", "effect": "NoSchedule"},
    ],
}

# The pod holds the results until they are fetched, and is ready when they are complete.
HELD, HELD_S = "/results", 3600
RUNS, PRINTED, STATUS = "runs", "printed", "status"
_HOLD = (
    f'"$@" > {HELD}/{PRINTED} & run=$!; trap "kill $run; exit 143" TERM; wait $run; '
    f"echo $? > {HELD}/{STATUS}; trap exit TERM; sleep {HELD_S} & wait"
)


@dataclass(frozen=True)
class _Results:
    """Where a master leaves them, and what keeps its pod until they are fetched."""

    volume: Object
    mount: Object
    wrapper: tuple[str, ...] = ()
    content: Mapping[str, Any] = field(default_factory=dict)


def load_test(settings: KubernetesSettings) -> list[Object]:
    """The jobs of one run, and the volume that its results stay on."""
    wanted = settings.load_test
    words = [
        *("--seldon-client", wanted.client),
        *("--test-type", wanted.test_type),
        *("--locust-slaves", str(wanted.workers)),
        *gateway_words(),
    ]
    return [
        *storage.own_volume(settings, RESULTS, "1Gi", LOADTEST),
        *_run(settings, words, _Results(*storage.claimed(RESULTS, HELD))),
    ]


def fetched_load_test(
    settings: KubernetesSettings, words: Sequence[str], keys: Mapping[str, str], owner: str
) -> list[Object]:
    """The same with results that are fetched, and the keys that it shows.

    Args:
        settings: Whose; of its load test, workers and environment count.
        words: The command's own, after its name.
        keys: A client's, by the names of the variables that a load test reads.
        owner: Who started it.
    """
    results = _Results(
        volume={"name": "results", "emptyDir": {"sizeLimit": "1Gi"}},
        mount={"name": "results", "mountPath": HELD},
        wrapper=("sh", "-c", _HOLD, "sh"),
        content={
            "readinessProbe": {
                "exec": {"command": ["test", "-s", f"{HELD}/{STATUS}"]},
                "periodSeconds": 1,
            }
        },
    )
    encoded = {name: base64.b64encode(value.encode()).decode() for name, value in keys.items()}
    secret = an_object(
        settings, "v1", "Secret", CREDENTIALS_SECRET, LOADTEST, type="Opaque", data=encoded
    )
    objects = [secret, *_run(settings, [*words, "--output", f"{HELD}/{RUNS}"], results)]
    for made in objects:
        made["metadata"]["labels"][ON_ITS_OWN] = LOADTEST
        made["metadata"]["annotations"] = {OWNER: owner}
    return objects


def gateway_words() -> tuple[str, ...]:
    """Where the gateway is, for the pods of its namespace."""
    return (
        *("--host", f"http://{GATEWAY_SERVICE}"),
        *("--seldon-grpc-endpoint", f"{GATEWAY_SERVICE}:{GRPC_PORT}"),
    )


def _run(settings: KubernetesSettings, words: Sequence[str], results: _Results) -> list[Object]:
    wanted = settings.load_test
    master, workers = selector(settings, LOADTEST), selector(settings, WORKER)
    command = ["launch-locust-load-test", *words]
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
                    *results.wrapper,
                    *command,
                    *("--bind", f"0.0.0.0:{_MASTER_PORT}"),
                    *("--metrics-bind", f"0.0.0.0:{LOADTEST_PORT}"),
                ],
                environment=dict(wanted.environment),
                envFrom=[{"secretRef": {"name": CREDENTIALS_SECRET}}],
                mounts=[results.mount],
                **results.content,
            )
        ],
        volumes=[results.volume],
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
                wanted.resources,
                command=[*command, "--worker-of", f"{LOADTEST}:{_MASTER_PORT}"],
                environment=dict(wanted.environment),
                envFrom=[{"secretRef": {"name": CREDENTIALS_SECRET}}],
            )
        ],
        # A load generator may start before its master.
        restartPolicy="OnFailure",
        **_ON_ITS_NODES,
        **apart(workers),
    )
    return [
        # Load generators may resolve its address before it is ready.
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
