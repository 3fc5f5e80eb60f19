"""Whether Envoy serves what the registry says."""

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
_TIMEOUT_S = 2.0


def is_up_to_date(settings: GatewaySettings, registry: Registry) -> bool:
    """Whether every request is routed by the registry's newest revision, and by nothing older.

    Versions are digests of their content, so what a fresh Envoy would be given is what this one
    has when it is up to date; clusters that no route needs any more are gone by then.
    """
    accepted = _accepted_versions(settings.admin_port)
    return all(
        accepted.get(_STATISTICS[kind]) == version
        for kind, version in _newest_versions(registry, settings.timeout_s).items()
    )


def _newest_versions(registry: Registry, timeout_s: float) -> dict[str, str]:
    snapshots = Snapshots(registry, timeout_s)
    versions: dict[str, str] = {}
    for kind in (CLUSTERS, REST_ROUTES, GRPC_ROUTES):
        offered = snapshots.answer("", kind, "")
        if offered is None:
            continue
        versions[kind] = offered.version
        snapshots.answer("", kind, offered.version)  # accepted: routes wait for their clusters
    return versions


def _accepted_versions(admin_port: int) -> dict[str, str]:
    url = f"http://127.0.0.1:{admin_port}/stats"
    with loopback_session() as session:
        try:
            answer = session.get(
                url, params={"type": "TextReadouts", "format": "json"}, timeout=_TIMEOUT_S
            )
            stats = answer.json()["stats"]
        except (requests.RequestException, ValueError, KeyError):
            return {}
    return {stat["name"]: stat["value"] for stat in stats if "name" in stat and "value" in stat}
