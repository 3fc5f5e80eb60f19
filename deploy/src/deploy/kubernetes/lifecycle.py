"""Deploys and removes a stack in a cluster."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from deploy.console import say, step, wait_until
from deploy.errors import ClusterForbidden
from deploy.kubernetes import addresses
from deploy.kubernetes.api import Api, Object, Reference, connect
from deploy.kubernetes.cluster import Change, Cluster, Place
from deploy.kubernetes.waiting import replace_failing, wait_ready

_BALANCER_S = 90.0


@dataclass(frozen=True)
class DeployOptions:
    """Options of a deploy.

    Attributes:
        gateway: The Service whose addresses are printed.
        context: Context of the kubeconfig file; None for the current one.
        timeout_s: For all workloads to become ready, and for removals.
        dry_run: Print the changes without making them.
        force: Take over fields that other managers own.
    """

    gateway: str
    context: str | None = None
    timeout_s: float = 300.0
    dry_run: bool = False
    force: bool = False


def deploy_objects(
    objects: Sequence[Object], place: Place, options: DeployOptions, environ: Mapping[str, str]
) -> None:
    """Apply the objects, wait until they are ready, remove ours that are not in the list.

    After an interruption the next run completes the work.

    Raises:
        ClusterError: One sentence each.
    """
    with _reached(environ, options.context) as api:
        cluster = Cluster(api, place)
        for outcome in cluster.apply(objects, dry_run=options.dry_run, force=options.force):
            say(f"{outcome} (dry run)" if options.dry_run else str(outcome))
        if options.dry_run:
            for item in cluster.stale(objects):
                say(f"{Reference.of(item)}: {Change.REMOVED} (dry run)")
            say("dry run: nothing was changed")
            return
        for outcome in replace_failing(api, objects):
            say(str(outcome))
        wait_ready(api, objects, options.timeout_s)
        # Last, since stale objects may serve until now.
        for outcome in cluster.prune(objects, options.timeout_s):
            say(str(outcome))
        say("")
        for line in _addresses(api, place, options.gateway):
            say(line)


def undeploy_objects(
    place: Place,
    environ: Mapping[str, str],
    *,
    context: str | None = None,
    purge: bool = False,
    timeout_s: float = 180.0,
) -> None:
    """Remove our objects in the namespace; `purge` removes data and the namespace too.

    Raises:
        ClusterError: One sentence each.
    """
    with _reached(environ, context) as api:
        cluster = Cluster(api, place)
        outcomes = cluster.delete(purge=purge, timeout_s=timeout_s)
    for outcome in outcomes:
        say(str(outcome))
    if cluster.unseen:
        say(f"no permission to list {', '.join(cluster.unseen)}: those of the stack are kept")
    if not outcomes:
        say(f"nothing to remove: namespace {place.namespace} has no objects of {place.instance}")


def _reached(environ: Mapping[str, str], context: str | None) -> Api:
    with step("connecting to the cluster"):
        return connect(environ, context)


def _addresses(api: Api, place: Place, gateway: str) -> list[str]:
    which = Reference("v1", "Service", gateway, place.namespace)
    service = api.read(which)
    if service is None:
        return []
    if service["spec"]["type"] == "LoadBalancer" and not addresses.balancer(service):
        with step(f"waiting for the address of {which}'s load balancer"):
            wait_until(
                lambda: addresses.balancer(api.read(which) or {}) is not None, _BALANCER_S, 1.0
            )
        service = api.read(which) or service
    return addresses.lines(service, _node(api) if service["spec"]["type"] == "NodePort" else None)


def _node(api: Api) -> str | None:
    try:
        return addresses.node_address(api.list("v1", "Node", None))
    except ClusterForbidden:
        return None  # tenants may rarely list nodes
