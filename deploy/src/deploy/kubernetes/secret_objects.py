"""The Secrets that a deploy creates; their values are stored in the cluster alone."""

import base64
import secrets
from collections.abc import Callable, Mapping

from deploy.kubernetes.api import Api, Reference
from deploy.kubernetes.cluster import Place
from deploy.kubernetes.objects.common import Object, an_object
from deploy.kubernetes.objects.gateway import DATABASE_SECRET, SIGNING_KEY_SECRET
from deploy.kubernetes.objects.monitoring import GRAFANA_SECRET
from deploy.kubernetes.settings import KubernetesSettings
from deploy.kubernetes.stack import NeededSecret, needed_secrets
from seldon_gateway.tokens import new_key_pem


def secret_objects(settings: KubernetesSettings, api: Api) -> list[Object]:
    """Those that the stack needs and that are ours: as they are in the cluster, else made now.

    A Secret of that name that is not managed by the stack is used unchanged.

    Raises:
        ClusterError: They cannot be read.
    """
    place = Place(settings.namespace, settings.instance)
    makers: Mapping[str, Callable[[], str]] = {
        GRAFANA_SECRET: lambda: secrets.token_urlsafe(18),
        SIGNING_KEY_SECRET: new_key_pem,
    }
    objects = []
    for needed in needed_secrets(settings):
        found = api.read(Reference("v1", "Secret", needed.name, settings.namespace))
        if found is not None and not place.owns(found):
            continue
        if needed.name == DATABASE_SECRET:
            # Always updated: SELDON_DATABASE_URL may have changed.
            values = _encoded(needed, settings.database_url or "")
        elif found is not None:
            values = found.get("data") or {}
        elif needed.name in makers:
            values = _encoded(needed, makers[needed.name]())
        else:
            continue
        objects.append(
            an_object(
                settings, "v1", "Secret", needed.name, needed.name, type="Opaque", data=values
            )
        )
    return objects


def _encoded(needed: NeededSecret, value: str) -> dict[str, str]:
    (key,) = needed.keys
    return {key: base64.b64encode(value.encode()).decode()}
