"""The stack as Kubernetes objects, in the order to apply them. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from deploy.kubernetes.objects.common import Object
from deploy.kubernetes.objects.gateway import (
    DATABASE_KEY,
    DATABASE_SECRET,
    SIGNING_KEY_SECRET,
    gateway,
)
from deploy.kubernetes.objects.loadtest import CREDENTIALS_SECRET, load_test
from deploy.kubernetes.objects.monitoring import (
    GRAFANA_KEY,
    GRAFANA_SECRET,
    monitoring,
    pod_monitors,
)
from deploy.kubernetes.objects.policies import namespace, nobody_by_default
from deploy.kubernetes.objects.serving import default_microservices, microservice, model_download
from deploy.kubernetes.objects.storage import data_volume
from deploy.kubernetes.settings import KubernetesSettings
from loadtest.credentials import VARIABLES as CREDENTIALS
from seldon_gateway.tokens import KEY_FILE

# Dependencies first; kinds that are not listed come last.
_ORDER = (
    "Namespace",
    "NetworkPolicy",
    "PersistentVolume",
    "PersistentVolumeClaim",
    "ServiceAccount",
    "Role",
    "RoleBinding",
    "ConfigMap",
    "Service",
    "Job",
    "Deployment",
    "PodDisruptionBudget",
    "HorizontalPodAutoscaler",
)


@dataclass(frozen=True)
class NeededSecret:
    """A Secret that pods read and no manifest holds.

    Attributes:
        name: The object's.
        keys: In its data.
        what: For the operator.
    """

    name: str
    keys: tuple[str, ...]
    what: str


def stack(settings: KubernetesSettings, monitoring_files: Mapping[str, str]) -> list[Object]:
    """Every object of the stack and the overlays that the settings ask for.

    Args:
        settings: What is wanted.
        monitoring_files: See objects.monitoring; needed by that overlay alone.
    """
    objects = [
        *core(settings),
        *model_download(settings),
        *(made for one in default_microservices(settings) for made in microservice(settings, one)),
    ]
    if "monitoring" in settings.overlays:
        objects += monitoring(settings, monitoring_files)
    if "loadtest" in settings.overlays:
        objects += load_test(settings)
    return in_order(objects)


def core(settings: KubernetesSettings) -> list[Object]:
    """The stack without any model."""
    return in_order(
        [
            *namespace(settings),
            *nobody_by_default(settings),
            *data_volume(settings),
            *gateway(settings),
            *pod_monitors(settings),
        ]
    )


def in_order(objects: Iterable[Object]) -> list[Object]:
    """By kind, what others need first; those of one kind by name."""

    def place(made: Object) -> tuple[int, str]:
        kind = made["kind"]
        rank = _ORDER.index(kind) if kind in _ORDER else len(_ORDER)
        return rank, made["metadata"]["name"]

    return sorted(objects, key=place)


def needed_secrets(settings: KubernetesSettings) -> list[NeededSecret]:
    """The Secrets that have to be there."""
    needed = []
    if settings.database_url is not None:
        needed += [
            NeededSecret(DATABASE_SECRET, (DATABASE_KEY,), "SELDON_DATABASE_URL"),
            NeededSecret(SIGNING_KEY_SECRET, (KEY_FILE,), "an EC key on P-256 as PKCS 8 PEM"),
        ]
    if "monitoring" in settings.overlays:
        needed.append(NeededSecret(GRAFANA_SECRET, (GRAFANA_KEY,), "Grafana's user admin"))
    if "loadtest" in settings.overlays:
        needed.append(
            NeededSecret(
                CREDENTIALS_SECRET, CREDENTIALS, f"the keys of {settings.load_test.client}"
            )
        )
    return needed
