"""The addresses of the gateway's Service, by its type."""

from deploy.kubernetes.api import Object


def lines(service: Object, node: str | None) -> list[str]:
    """One line per port, and how to reach a Service from outside the cluster.

    Args:
        service: As the cluster has it.
        node: The address of a node; None if unknown.
    """
    metadata, spec = service["metadata"], service["spec"]
    name, namespace = metadata["name"], metadata["namespace"]
    ports = spec["ports"]
    if spec["type"] == "NodePort":
        return [
            f"{_label(port)}{node or '<address of a node>'}:{port['nodePort']}" for port in ports
        ]
    if spec["type"] == "LoadBalancer":
        if host := balancer(service):
            return [f"{_label(port)}{host}:{port['port']}" for port in ports]
        return [
            f"{'gateway':<10}its load balancer has no address yet: "
            f"kubectl get service -n {namespace} {name}"
        ]
    forwards = " ".join(f"{_local(port['port'])}:{port['port']}" for port in ports)
    return [
        *(f"{_label(port)}{name}.{namespace}.svc:{port['port']} in the cluster" for port in ports),
        f"{'from here':<10}kubectl port-forward -n {namespace} service/{name} {forwards}",
    ]


def balancer(service: Object) -> str | None:
    """The load balancer's host or IP address, once it has one."""
    ingress = service.get("status", {}).get("loadBalancer", {}).get("ingress") or [{}]
    host: str | None = ingress[0].get("hostname") or ingress[0].get("ip")
    return host


def node_address(nodes: list[Object]) -> str | None:
    """The address of any node, an external one if possible."""
    known = {
        one["type"]: one["address"]
        for node in nodes
        for one in node.get("status", {}).get("addresses") or []
    }
    return known.get("ExternalIP") or known.get("InternalIP")


def _local(number: int) -> int:
    """Ports below 1024 are root's."""
    return number if number >= 1024 else 8000 + number


def _label(port: Object) -> str:
    return f"{port.get('name', 'port'):<10}"
