"""The namespace and its default network policy."""

from deploy.kubernetes.objects.common import Object, labels, network_policy
from deploy.kubernetes.settings import PROJECT, KubernetesSettings

_LEVEL = "restricted"


def namespace(settings: KubernetesSettings) -> list[Object]:
    """The namespace, which refuses pods with privileges, unless somebody else makes it."""
    if not settings.create_namespace:
        return []
    security = {
        f"pod-security.kubernetes.io/{mode}": _LEVEL for mode in ("enforce", "audit", "warn")
    }
    return [
        {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {
                "name": settings.namespace,
                "labels": {**labels(settings, PROJECT), **security},
            },
        }
    ]


def nobody_by_default(settings: KubernetesSettings) -> list[Object]:
    """Deny all ingress that no other policy allows."""
    pods = {"app.kubernetes.io/instance": settings.instance}
    return [network_policy(settings, "default-deny", PROJECT, pods, [])]
