"""Turns the registry into Envoy's resources, once for each change, and paces their hand-over.

A route must not come before the cluster that it sends to, nor a cluster go before the last route
to it: routes are held back until Envoy has asked with the version of the clusters they need, and
clusters stay until Envoy has asked with routes that no longer need them. Nothing is refused on
the way from one set of variations to the next.
"""

import hashlib
import json
import logging
import threading
from dataclasses import dataclass, field
from typing import Any

from seldon_gateway import envoy_routes
from seldon_gateway.envoy_routes import GRPC_ROUTES, REST_ROUTES, Json
from seldon_gateway.registry import Registry

log = logging.getLogger(__name__)

CLUSTERS = "clusters"
_TYPES = {
    REST_ROUTES: "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
    GRPC_ROUTES: "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
    CLUSTERS: "type.googleapis.com/envoy.config.cluster.v3.Cluster",
}


@dataclass(frozen=True)
class Resources:
    """One answer to Envoy.

    Attributes:
        version: A digest of the content: the same resources have the same version after a restart.
        body: The discovery response, as JSON.
        clusters: The clusters it holds or refers to.
    """

    version: str
    body: bytes
    clusters: frozenset[str]


@dataclass
class _Envoy:
    """What one Envoy has accepted: versions it asked with, and the clusters behind them."""

    clusters: frozenset[str] = frozenset()
    routes: dict[str, frozenset[str]] = field(default_factory=dict)
    offered: dict[str, Resources] = field(default_factory=dict)


class Snapshots:
    """The newest resources, and what each Envoy has of them."""

    kinds = frozenset(_TYPES)

    def __init__(self, registry: Registry, timeout_s: float) -> None:
        """Read from `registry`; predictions may take `timeout_s` seconds."""
        self._registry = registry
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._revision = -1
        self._routes: dict[str, Resources] = {}
        self._clusters: dict[str, Json] = {}
        self._every_cluster: dict[str, Json] = {}
        self._newest_clusters: Resources | None = None
        self._envoys: dict[str, _Envoy] = {}

    def answer(self, node: str, kind: str, version: str) -> Resources | None:
        """What to tell an Envoy.

        Args:
            node: Which Envoy asks.
            kind: REST_ROUTES, GRPC_ROUTES or CLUSTERS.
            version: What it has accepted last, "" at first.

        Returns:
            None when it has what it should have by now.

        Raises:
            RegistryUnavailable: The registry cannot be read; Envoy goes on with what it has.
        """
        with self._lock:
            self._refresh()
            envoy = self._envoys.setdefault(node, _Envoy())
            self._note_accepted(envoy, kind, version)
            resources = (
                self._clusters_for(envoy) if kind == CLUSTERS else self._routes_for(envoy, kind)
            )
            if resources is None or resources.version == version:
                return None
            envoy.offered[kind] = resources
            return resources

    def _refresh(self) -> None:
        revision = self._registry.revision()
        if revision == self._revision:
            return
        clients = self._registry.served_clients()
        self._clusters = {
            str(cluster["name"]): cluster for cluster in envoy_routes.clusters(clients)
        }
        self._every_cluster |= self._clusters
        for name in (REST_ROUTES, GRPC_ROUTES):
            configuration = envoy_routes.route_configuration(name, clients, self._timeout_s)
            self._routes[name] = _resources(
                name, [configuration], frozenset(envoy_routes.referenced_clusters(configuration))
            )
        self._revision = revision
        log.info("revision %d: %d active clients", revision, len(clients))

    def _note_accepted(self, envoy: _Envoy, kind: str, version: str) -> None:
        # What is current counts without an offer: the control plane before this one made it.
        current = self._clusters_for(envoy) if kind == CLUSTERS else self._routes[kind]
        for known in (envoy.offered.get(kind), current):
            if known is None or known.version != version:
                continue
            if kind == CLUSTERS:
                envoy.clusters = known.clusters
            else:
                envoy.routes[kind] = known.clusters
            return

    def _routes_for(self, envoy: _Envoy, kind: str) -> Resources | None:
        routes = self._routes[kind]
        offered = envoy.offered.get(CLUSTERS)
        # What it was offered since may have taken clusters away already.
        sure = envoy.clusters & offered.clusters if offered else envoy.clusters
        # An Envoy that has nothing yet waits for its first routes before it takes any request.
        return routes if routes.clusters <= sure else None

    def _clusters_for(self, envoy: _Envoy) -> Resources:
        names = frozenset(self._clusters).union(*envoy.routes.values())
        # Routes that it was offered may be in use before it says so.
        names = names.union(
            *(offer.clusters for kind, offer in envoy.offered.items() if kind != CLUSTERS)
        )
        if self._newest_clusters is None or self._newest_clusters.clusters != names:
            clusters = [self._every_cluster[name] for name in sorted(names)]
            self._newest_clusters = _resources(CLUSTERS, clusters, names)
        return self._newest_clusters


def _resources(kind: str, resources: list[Any], clusters: frozenset[str]) -> Resources:
    content = json.dumps(resources, sort_keys=True)
    version = hashlib.sha256(content.encode()).hexdigest()[:16]
    body = json.dumps(
        {"version_info": version, "type_url": _TYPES[kind], "resources": resources}
    ).encode()
    return Resources(version, body, clusters)
