"""Turns the registry into xDS resources, once per change, and orders their delivery.

Make before break: routes are held back until Envoy has acknowledged the clusters they need, and
clusters are kept until Envoy has acknowledged routes that no longer need them. So no request fails
while variations change.
"""

import hashlib
import logging
import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import orjson

from seldon_gateway import envoy_routes
from seldon_gateway.envoy_routes import GRPC_ROUTES, REST_ROUTES, ClientRoutes, Json
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
    """One discovery response.

    Attributes:
        version: A digest of the content: the same resources have the same version after a restart.
        body: The discovery response, as JSON.
        clusters: The clusters it defines or refers to.
    """

    version: str
    body: bytes
    clusters: frozenset[str]


@dataclass
class _Envoy:
    """xDS state of one Envoy: what it has acknowledged and what it was sent."""

    clusters: frozenset[str] = frozenset()
    routes: dict[str, frozenset[str]] = field(default_factory=dict)
    offered: dict[str, Resources] = field(default_factory=dict)
    # The clusters that it should have, and the sets of names they were built from.
    wanted: Resources | None = None
    wanted_by: tuple[frozenset[str], ...] = ()


class Snapshots:
    """The newest resources, and the xDS state of each Envoy."""

    kinds = frozenset(_TYPES)

    def __init__(
        self, registry: Registry, timeout_s: float, cors_origins: tuple[str, ...] = ()
    ) -> None:
        """Serve `registry`; `timeout_s` is the timeout of predictions."""
        self._registry = registry
        self._timeout_s = timeout_s
        self._cors_origins = cors_origins
        self._lock = threading.Lock()
        self._revision: int | None = None
        self._clients: dict[str, ClientRoutes] = {}
        self._routes: dict[str, Resources] = {}
        self._clusters: frozenset[str] = frozenset()
        # Includes earlier ones: an Envoy may still have routes to them.
        self._every_cluster: dict[str, Json] = {}
        self._newest_clusters: Resources | None = None
        self._envoys: dict[str, _Envoy] = {}

    def discovery_response(self, node: str, kind: str, version: str) -> Resources | None:
        """The response to a discovery request.

        Args:
            node: Node id of the Envoy.
            kind: REST_ROUTES, GRPC_ROUTES or CLUSTERS.
            version: The version that it acknowledged last, "" at first.

        Returns:
            None if it is up to date.

        Raises:
            RegistryUnavailable: The registry cannot be read; Envoy keeps what it has.
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

    def settled(self) -> dict[str, str]:
        """The version of each kind that an up-to-date Envoy has.

        Raises:
            RegistryUnavailable: The registry cannot be read.
        """
        with self._lock:
            self._refresh()
            newest = {CLUSTERS: self._clusters_named(self._clusters), **self._routes}
            return {kind: resources.version for kind, resources in newest.items()}

    def _refresh(self) -> None:
        changes = self._registry.changes_since(self._revision)
        if changes is None:
            return
        if changes.everything:
            self._clients = {}
        for name in changes.gone:
            self._clients.pop(name, None)
        for client in changes.served:
            self._clients[client.name] = envoy_routes.client_routes(client, self._timeout_s)
            self._every_cluster |= envoy_routes.clusters(client)
        clients = [self._clients[name] for name in sorted(self._clients)]
        for name in (REST_ROUTES, GRPC_ROUTES):
            before = self._routes.get(name)
            clusters = _union({client.clusters[name] for client in clients})
            if before is not None and before.clusters == clusters:
                clusters = before.clusters  # the same object, by which results are cached
            content = envoy_routes.route_configuration(name, clients, self._cors_origins)
            self._routes[name] = _resources(name, content, clusters)
        self._clusters = _union({routes.clusters for routes in self._routes.values()})
        self._forget_clusters()
        self._revision = changes.revision
        log.info("revision %d: %d active clients", changes.revision, len(clients))

    def _forget_clusters(self) -> None:
        """Drop the definitions of clusters that no Envoy needs any more."""
        used = {self._clusters}
        for envoy in self._envoys.values():
            used.update(envoy.routes.values())
            used.update(offer.clusters for offer in envoy.offered.values())
        kept = _union(used)
        if len(kept) < len(self._every_cluster):
            self._every_cluster = {name: self._every_cluster[name] for name in kept}

    def _note_accepted(self, envoy: _Envoy, kind: str, version: str) -> None:
        # The current version counts without an offer: before a restart it may have been sent.
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
        # Clusters sent since may already have replaced the acknowledged ones.
        offered = envoy.offered.get(CLUSTERS)
        sure = (envoy.clusters, *((offered.clusters,) if offered else ()))
        # A new Envoy accepts no requests before its first routes.
        return routes if all(routes.clusters <= clusters for clusters in sure) else None

    def _clusters_for(self, envoy: _Envoy) -> Resources:
        # Routes that were sent may be in use before they are acknowledged.
        offered = (offer.clusters for kind, offer in envoy.offered.items() if kind != CLUSTERS)
        named = (self._clusters, *envoy.routes.values(), *offered)
        # Polled several times a second, so the last result is reused while it is built from the
        # very same sets.
        if envoy.wanted is None or not _identical(named, envoy.wanted_by):
            envoy.wanted = self._clusters_named(_union(set(named)))
            envoy.wanted_by = named
        return envoy.wanted

    def _clusters_named(self, names: frozenset[str]) -> Resources:
        if self._newest_clusters is None or self._newest_clusters.clusters != names:
            clusters = [self._every_cluster[name] for name in sorted(names)]
            content = orjson.dumps(clusters, option=orjson.OPT_SORT_KEYS)[1:-1]
            self._newest_clusters = _resources(CLUSTERS, content, names)
        return self._newest_clusters


def _resources(kind: str, content: bytes, clusters: frozenset[str]) -> Resources:
    """A discovery response with the resources in `content`, JSON separated by commas."""
    version = hashlib.sha256(content).hexdigest()[:16]
    head = f'{{"version_info":"{version}","type_url":"{_TYPES[kind]}","resources":['
    return Resources(version, b"".join((head.encode(), content, b"]}")), clusters)


def _union(sets: Collection[frozenset[str]]) -> frozenset[str]:
    if len(sets) == 1:
        return next(iter(sets))
    return frozenset().union(*sets)


def _identical(some: Sequence[object], others: Sequence[object]) -> bool:
    return len(some) == len(others) and all(a is b for a, b in zip(some, others, strict=True))
