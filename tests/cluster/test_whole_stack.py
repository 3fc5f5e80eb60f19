"""The rendered stack in an API server."""

import base64
from pathlib import Path

import pytest

from deploy.kubernetes import manifests
from deploy.kubernetes.api import Api, Object
from deploy.kubernetes.cluster import Change, Cluster, Place
from deploy.kubernetes.objects.policies import namespace
from deploy.kubernetes.secret_objects import secret_objects
from deploy.kubernetes.settings import KubernetesSettings
from deploy.kubernetes.stack import in_order, stack

# Every kind that the stack has is more than the small server knows.
pytestmark = [pytest.mark.cluster, pytest.mark.parametrize("cluster", ["real"], indirect=True)]

ROOT = Path(__file__).parents[2]
FILES = manifests.monitoring_files(ROOT)
OPTIONS = {
    "default": {},
    "monitoring": {"K8S_OVERLAYS": "monitoring"},
    "database": {"SELDON_DATABASE_URL": "postgresql://seldon:secret@database/seldon"},
    "node ports": {"SELDON_SERVER_SERVICE_TYPE": "NodePort"},
    "a folder of the node": {"DATA_VOLUME": '{"hostPath": {"path": "/seldon-data"}}'},
}


def settings_of(place: Place, options: dict[str, str]) -> KubernetesSettings:
    return KubernetesSettings.from_env(
        {"K8S_NAMESPACE": place.namespace, "SELDON_INSTANCE": place.instance, **options}
    )


@pytest.mark.parametrize("name", OPTIONS)
def test_the_stack_is_taken_and_a_second_apply_changes_nothing(
    api: Api, place: Place, name: str
) -> None:
    settings = settings_of(place, OPTIONS[name])
    cluster = Cluster(api, place)

    def rendered() -> list[Object]:
        return in_order([*stack(settings, FILES), *secret_objects(settings, api)])

    def apply() -> list[Change]:
        return [outcome.change for outcome in cluster.apply(rendered())]

    first = apply()
    assert Change.SKIPPED not in first
    assert first.count(Change.CREATED) >= len(first) - 1  # the namespace may be there
    assert set(apply()) == {Change.UNCHANGED}
    volumes = sum(item["kind"].startswith("PersistentVolume") for item in rendered())
    kept = [one for one in cluster.delete(purge=False, timeout_s=60) if one.change is Change.KEPT]
    assert len(kept) == volumes
    cluster.delete(purge=True, timeout_s=60)
    assert cluster.stale([]) == []


def test_a_secret_is_made_once(api: Api, place: Place) -> None:
    settings = settings_of(place, {"K8S_OVERLAYS": "monitoring"})
    (made,) = secret_objects(settings, api)
    assert len(base64.b64decode(made["data"]["password"])) >= 20
    for _ in Cluster(api, place).apply([*namespace(settings), made]):
        pass
    assert secret_objects(settings, api) == [made]
