"""Whether Envoy uses the routes and clusters of the registry's newest revision."""

from collections.abc import Mapping
from typing import Any

import requests

from deploy.probes import loopback_session
from seldon_gateway.envoy_routes import GRPC_ROUTES, REST_ROUTES
from seldon_gateway.registry import Registry
from seldon_gateway.settings import GatewaySettings
from seldon_gateway.snapshots import CLUSTERS, Snapshots

# Envoy's statistics of the versions that it has accepted.
_STATISTICS = {
    CLUSTERS: "cluster_manager.cds.version_text",
    REST_ROUTES: f"http.{REST_ROUTES}.rds.{REST_ROUTES}.version_text",
    GRPC_ROUTES: f"http.{GRPC_ROUTES}.rds.{GRPC_ROUTES}.version_text",
}
STATISTICS_PATH = "/stats?type=TextReadouts&format=json"

_TIMEOUT_S = 2.0


class EnvoyView:
    """Compares Envoy's accepted versions with the registry; made for polling."""

    def __init__(self, settings: GatewaySettings, registry: Registry) -> None:
        """Read nothing yet."""
        self._admin_port = settings.admin_port
        # Kept between polls, so that only changes are read.
        self._snapshots = _snapshots(registry, settings)

    def is_up_to_date(self) -> bool:
        """Whether Envoy routes by the registry's newest revision alone.

        Versions are digests of their content, so every up-to-date Envoy reports the same ones;
        then clusters that no route needs are gone too.
        """
        return has_all(_accepted_versions(self._admin_port), _by_statistic(self._snapshots))


def is_up_to_date(settings: GatewaySettings, registry: Registry) -> bool:
    """Check an Envoy once; see EnvoyView."""
    return EnvoyView(settings, registry).is_up_to_date()


def patience_s(least_s: float, poll_s: float) -> float:
    """Timeout for an Envoy to apply a change: clusters, then routes, then removals.

    Five polls, each up to twice `poll_s` after the last, and time for the responses.
    """
    return max(least_s, 12 * poll_s)


def has_all(accepted: Mapping[str, str], newest: Mapping[str, str]) -> bool:
    """Whether an Envoy that has accepted these versions has the newest of each kind."""
    return all(accepted.get(name) == version for name, version in newest.items())


def newest_versions(registry: Registry, settings: GatewaySettings) -> dict[str, str]:
    """The versions of an up-to-date Envoy, by the names of its statistics."""
    return _by_statistic(_snapshots(registry, settings))


def _snapshots(registry: Registry, settings: GatewaySettings) -> Snapshots:
    """Those of the control plane: the settings are part of what Envoy receives."""
    return Snapshots(registry, settings.timeout_s, settings.cors_origins)


def _by_statistic(snapshots: Snapshots) -> dict[str, str]:
    return {_STATISTICS[kind]: version for kind, version in snapshots.settled().items()}


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
    """The text readouts in Envoy's response to /stats?format=json."""
    return {
        stat["name"]: stat["value"]
        for stat in document["stats"]
        if "name" in stat and "value" in stat
    }
