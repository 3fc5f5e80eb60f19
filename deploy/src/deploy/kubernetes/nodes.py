"""Labels and cordons nodes for load generators."""

from deploy.console import say
from deploy.errors import ClusterForbidden, ClusterRefused
from deploy.kubernetes.api import Api, Object, Reference
from deploy.kubernetes.objects.loadtest import ROLE


def label(api: Api, name: str) -> None:
    """Make the node one for load generators.

    Raises:
        ClusterError: There is no such node, or it is not ours to change.
    """
    before = _node(api, name)["metadata"].get("labels") or {}
    if before.items() >= ROLE.items():
        say(f"Node {name}: already labelled {_shown()}")
        return
    api.change(_reference(name), {"metadata": {"labels": ROLE}})
    say(
        f"Node {name}: labelled {_shown()}; "
        f"make cordon-loadtest-node NODE={name} keeps other pods off"
    )


def cordon(api: Api, name: str, *, closed: bool) -> None:
    """Cordon a node for all pods except load generators, which tolerate that; or uncordon it.

    Raises:
        ClusterError: There is no such node, or it is not ours to change.
    """
    state = "cordoned" if closed else "uncordoned"
    if bool(_node(api, name)["spec"].get("unschedulable")) is closed:
        say(f"Node {name}: already {state}")
        return
    api.change(_reference(name), {"spec": {"unschedulable": closed or None}})
    say(f"Node {name}: {state}")


def require_labelled(api: Api) -> None:
    """Fail where no load generator could run.

    Raises:
        ClusterRefused: No node has the label.
    """
    try:
        if api.list("v1", "Node", None, labels=_shown()):
            return
        names = _names(api.list("v1", "Node", None))
    except ClusterForbidden:
        return  # tenants may not list nodes; unschedulable pods report it
    raise ClusterRefused(
        f"no node has the label {_shown()}, expected one for the load generators; run make "
        f"label-loadtest-node NODE=… with one of {names}"
    )


def _node(api: Api, name: str) -> Object:
    found = api.read(_reference(name))
    if found is None:
        names = _names(api.list("v1", "Node", None))
        raise ClusterRefused(f"Node {name} does not exist; choose one of {names}")
    return found


def _reference(name: str) -> Reference:
    return Reference("v1", "Node", name)


def _names(nodes: list[Object]) -> str:
    return ", ".join(node["metadata"]["name"] for node in nodes) or "the cluster's, which has none"


def _shown() -> str:
    return ",".join(f"{name}={value}" for name, value in ROLE.items())
