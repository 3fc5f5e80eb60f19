from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from deploy.kubernetes import manifests
from deploy.kubernetes.settings import KubernetesSettings
from deploy.kubernetes.stack import stack

ROOT = Path(__file__).parents[3]

STORAGES = {
    "storage class": {"K8S_STORAGE_CLASS": "fast", "K8S_STORAGE_ACCESS_MODE": "ReadWriteMany"},
    "cluster's default": {},
    "hostPath": {"DATA_VOLUME": '{"hostPath": {"path": "/seldon-data"}}'},
    "nfs": {"DATA_VOLUME": '{"nfs": {"server": "10.0.0.7", "path": "/exports/models"}}'},
    "claim": {"DATA_VOLUME": '{"persistentVolumeClaim": {"claimName": "models"}}'},
}
OVERLAYS = ("", "monitoring", "loadtest", "monitoring loadtest")
SERVICE_TYPES = ("ClusterIP", "NodePort", "LoadBalancer")
SIZES: dict[str, dict[str, str]] = {
    "small": {},
    "large": {
        "SELDON_DATABASE_URL": "postgresql+psycopg://seldon:hidden-password@db/seldon",
        "SELDON_TIMEOUT": "2",
        "K8S_ENVOY_REPLICAS": "3",
        "K8S_REST_REPLICAS": "2",
        "K8S_REST_MAX_REPLICAS": "8",
        "K8S_GRPC_REPLICAS": "2",
        "K8S_IN_FLIGHT": "20",
        "K8S_GRPC_RESOURCES": '{"requests": {"cpu": "1500m"}, "limits": {"cpu": "2"}}',
        "K8S_POD_MONITORS": "true",
        "K8S_PULL_SECRET": "registry",
        "MODEL_SOURCE": "s3://models/deep_mnist/1.tar.gz",
        "MODEL_SHA256": "ab" * 32,
        "LOADTEST_WORKERS": "4",
        "LOADTEST_USERS": "200",
    },
}


def environments() -> Iterator[dict[str, str]]:
    for overlays, storage, service_type, size in product(
        OVERLAYS, STORAGES.values(), SERVICE_TYPES, SIZES.values()
    ):
        yield {
            "K8S_OVERLAYS": overlays,
            "SELDON_SERVER_SERVICE_TYPE": service_type,
            **storage,
            **size,
        }


@pytest.fixture(scope="session")
def monitoring_files() -> dict[str, str]:
    return manifests.monitoring_files(ROOT)


@pytest.fixture(scope="session")
def every_stack(monitoring_files: dict[str, str]) -> list[list[dict[str, Any]]]:
    """The objects of every overlay with every storage, service type and size."""
    return [
        stack(KubernetesSettings.from_env(environ), monitoring_files) for environ in environments()
    ]
