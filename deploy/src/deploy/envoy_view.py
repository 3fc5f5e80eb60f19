"""Whether Envoy serves what the registry says."""

from collections.abc import Mapping
from typing import Any

import requests

from deploy.probes import loopback_session
from seldon_gateway.envoy_routes import GRPC_ROUTES, REST_ROUTES
from seldon_gateway.registry import Registry
from seldon_gateway.settings import GatewaySettings
from seldon_gateway.snapshots import CLUSTERS, Snapshots

# Envoy's names for the versions that it has accepted.
_STATISTICS = {
    CLUSTERS: "cluster_manager.cds.version_text",
    REST_ROUTES: f"http.{REST_ROUTES}.rds.{REST_ROUTES}.version_text",
    GRPC_ROUTES: f"http.{GRPC_ROUTES}.rds.{GRPC_ROUTES}.version_text",
}
STATISTICS_PATH = "/stats?type=TextReadouts&format=json"

_TIMEOUT_S = 2.0


def is_up_to_date(settings: GatewaySettings, registry: Registry) -> bool:
    """Whether every request is routed by the registry's newest revision, and by nothing older.

    Versions are digests of their content, so what a fresh Envoy would be given is what this one
    has when it is up to date; clusters that no route needs any more are gone by then.
    """
    return has_all(
        _accepted_versions(settings.admin_port), newest_versions(registry, settings.timeout_s)
    )


def has_all(accepted: Mapping[str, str], newest: Mapping[str, str]) -> bool:
    """Whether an Envoy that has accepted these versions has the newest of each kind."""
    return all(accepted.get(name) == version for name, version in newest.items())


def newest_versions(registry: Registry, timeout_s: float) -> dict[str, str]:
    """What a fresh Envoy would be given, by the names of Envoy's statistics."""
    snapshots = Snapshots(registry, timeout_s)
    versions: dict[str, str] = {}
    for kind in (CLUSTERS, REST_ROUTES, GRPC_ROUTES):
        offered = snapshots.answer("", kind, "")
        if offered is None:
            continue
        versions[_STATISTICS[kind]] = offered.version
        snapshots.answer("", kind, offered.version)  # accepted: routes wait for their clusters
    return versions


def _accepted_versions(admin_port: int) -> dict[str, str]:
    with loopback_session() as session:
        try:
            answer = session.get(
                f"http://127.0.0.1:{admin_port}{STATISTICS_PATH}", timeout=_TIMEOUT_S
            )
            return versions_in(answer.json())
        except (requests.RequestException, ValueError, KeyError):
            return {}


def versions_in(document: Any) -> dict[str, str]:
    """The texts among what Envoy's administration answers to /stats?format=json."""
    return {
        stat["name"]: stat["value"]
        for stat in document["stats"]
        if "name" in stat and "value" in stat
    }
