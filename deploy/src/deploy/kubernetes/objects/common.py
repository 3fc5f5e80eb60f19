"""Builders of objects: labels, and pods that Pod Security level `restricted` admits."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from deploy.kubernetes.settings import PROJECT, KubernetesSettings, Resources

Object: TypeAlias = dict[str, Any]

USER = 10001  # as in the Dockerfiles
ONE_NODE = f"{PROJECT}/shares-a-node"
# Label of objects that separate commands manage: a deploy never removes them.
ON_ITS_OWN = f"{PROJECT}/on-its-own"
HOSTNAME = "kubernetes.io/hostname"

# Until a stopping pod is in no list of endpoints: DNS records live 5 s, Envoy resolves again after
# 5 s, and updates of endpoints take time too.
LEAVE_S = 15


def labels(settings: KubernetesSettings, name: str, part: str | None = None) -> dict[str, str]:
    """Those that every object carries.

    Args:
        settings: Whose.
        name: Of the program.
        part: Tells apart what has one program.
    """
    return {
        **selector(settings, name, part),
        "app.kubernetes.io/part-of": PROJECT,
        "app.kubernetes.io/managed-by": PROJECT,
    }


def selector(settings: KubernetesSettings, name: str, part: str | None = None) -> dict[str, str]:
    """The labels that tell these pods from all others, and never change."""
    return {
        "app.kubernetes.io/name": name,
        "app.kubernetes.io/instance": settings.instance,
        **({"app.kubernetes.io/component": part} if part else {}),
    }


def an_object(
    settings: KubernetesSettings,
    api_version: str,
    kind: str,
    name: str,
    program: str,
    **content: Any,
) -> Object:
    """An object in the stack's namespace.

    Args:
        settings: Whose.
        api_version: Of the API.
        kind: Likewise.
        name: The object's.
        program: For its labels; objects of one are written into one file.
        content: `spec` and the like.
    """
    metadata = {
        "name": name,
        "namespace": settings.namespace,
        "labels": labels(settings, program),
    }
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, **content}


def variables(values: Mapping[str, str | Object]) -> list[Object]:
    """A container's environment: texts, and where others come from."""
    return [
        {"name": name, "value": value}
        if isinstance(value, str)
        else {"name": name, "valueFrom": value}
        for name, value in values.items()
    ]


def from_secret(name: str, key: str) -> Object:
    """A variable's value in a Secret."""
    return {"secretKeyRef": {"name": name, "key": key}}


# Cores requested by the pod instead of the node's, rounded up.
REQUESTED_CORES: Object = {"resourceFieldRef": {"resource": "requests.cpu", "divisor": "1"}}


def container(
    name: str,
    image: str,
    resources: Resources,
    *,
    ports: Mapping[str, int] | None = None,
    environment: Mapping[str, str | Object] | None = None,
    mounts: Sequence[Object] = (),
    **content: Any,
) -> Object:
    """One container: no privileges, a root that cannot be written, a /tmp of its own.

    Args:
        name: Its own.
        image: With its tag.
        resources: What it gets.
        ports: By name.
        environment: See variables.
        mounts: Besides /tmp.
        content: args, probes and the like.
    """
    limits = {"memory": resources.memory_limit}
    if resources.cpu_limit is not None:
        limits["cpu"] = resources.cpu_limit
    made: Object = {
        "name": name,
        "image": image,
        "imagePullPolicy": "IfNotPresent",  # a tag says what it is and never changes
        **{word: content.pop(word) for word in ("command", "args") if word in content},
    }
    if ports:
        made["ports"] = [{"name": key, "containerPort": port} for key, port in ports.items()]
    if environment:
        made["env"] = variables(environment)
    return {
        **made,
        "resources": {
            "requests": {"cpu": resources.cpu, "memory": resources.memory},
            "limits": limits,
        },
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}, *mounts],  # noqa: S108
        **content,
    }


def pod(
    settings: KubernetesSettings,
    pod_labels: Mapping[str, str],
    containers: Sequence[Object],
    *,
    user: int = USER,
    volumes: Iterable[Object] = (),
    annotations: Mapping[str, str] | None = None,
    **content: Any,
) -> Object:
    """A template of pods."""
    metadata: Object = {"labels": dict(pod_labels)}
    if annotations:
        metadata["annotations"] = dict(annotations)
    spec: Object = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,  # variables named after Services, which ours might match
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": user,
            "runAsGroup": user,
            "fsGroup": user,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": list(containers),
        # In memory: servers write their metrics there on every request.
        "volumes": [
            {"name": "tmp", "emptyDir": {"medium": "Memory", "sizeLimit": "128Mi"}},
            *volumes,
        ],
        **content,
    }
    if settings.pull_secret:
        spec["imagePullSecrets"] = [{"name": settings.pull_secret}]
    return {"metadata": metadata, "spec": spec}


def deployment(
    settings: KubernetesSettings,
    name: str,
    program: str,
    template: Object,
    *,
    replicas: int | None,
    pods: Mapping[str, str],
    one_at_a_time: bool = False,
) -> Object:
    """A Deployment.

    Args:
        settings: Whose.
        name: The object's.
        program: For its labels.
        template: See pod.
        replicas: None leaves them to a HorizontalPodAutoscaler.
        pods: The selector of its pods.
        one_at_a_time: The old pod ends before the new one starts; else the other way round.
    """
    strategy: Object = {"type": "Recreate"}
    if not one_at_a_time:
        strategy = {
            "type": "RollingUpdate",
            "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0},
        }
    spec: Object = {
        **({} if replicas is None else {"replicas": replicas}),
        "selector": {"matchLabels": dict(pods)},
        "strategy": strategy,
        "revisionHistoryLimit": 3,
        "template": template,
    }
    return an_object(settings, "apps/v1", "Deployment", name, program, spec=spec)


def service(
    settings: KubernetesSettings,
    name: str,
    program: str,
    pods: Mapping[str, str],
    ports: Sequence[Object],
    **content: Any,
) -> Object:
    """A Service of `pods`; headless with clusterIP="None"."""
    spec = {"selector": dict(pods), "ports": list(ports), **content}
    return an_object(settings, "v1", "Service", name, program, spec=spec)


def port(name: str, number: int, protocol: str, target: str | None = None) -> Object:
    """One port of a Service, on the container's port of the same name unless `target` is given."""
    return {
        "name": name,
        "port": number,
        "targetPort": target or name,
        "protocol": "TCP",
        "appProtocol": protocol,
    }


def config_map(
    settings: KubernetesSettings, name: str, program: str, data: Mapping[str, str]
) -> Object:
    """Files for a pod."""
    return an_object(settings, "v1", "ConfigMap", name, program, data=dict(data))


def disruption_budget(
    settings: KubernetesSettings, name: str, program: str, pods: Mapping[str, str]
) -> Object:
    """Allows draining nodes one pod at a time; unhealthy pods never block it."""
    spec = {
        "maxUnavailable": 1,
        "unhealthyPodEvictionPolicy": "AlwaysAllow",
        "selector": {"matchLabels": dict(pods)},
    }
    return an_object(settings, "policy/v1", "PodDisruptionBudget", name, program, spec=spec)


def network_policy(
    settings: KubernetesSettings,
    name: str,
    program: str,
    pods: Mapping[str, str],
    allowed: Sequence[Object],
) -> Object:
    """Who reaches `pods`; see ingress."""
    spec: Object = {"podSelector": {"matchLabels": dict(pods)}, "policyTypes": ["Ingress"]}
    if allowed:  # the API drops an empty list, which would look like a change each time
        spec["ingress"] = list(allowed)
    return an_object(settings, "networking.k8s.io/v1", "NetworkPolicy", name, program, spec=spec)


def ingress(ports: Sequence[str], *callers: Object) -> Object:
    """Named ports, for `callers` only; for everybody without any."""
    rule: Object = {"ports": [{"protocol": "TCP", "port": name} for name in ports]}
    if callers:
        rule["from"] = list(callers)
    return rule


def pods_of(settings: KubernetesSettings, program: str) -> Object:
    """A program's pods as callers."""
    return {"podSelector": {"matchLabels": selector(settings, program)}}


def prometheus_pods(settings: KubernetesSettings) -> list[Object]:
    """Who may read metrics: this stack's Prometheus; with PodMonitors one of any namespace."""
    callers = [pods_of(settings, "prometheus")]
    if settings.pod_monitors:
        callers.append(
            {
                "namespaceSelector": {},
                "podSelector": {"matchLabels": {"app.kubernetes.io/name": "prometheus"}},
            }
        )
    return callers


def apart(pods: Mapping[str, str]) -> Object:
    """Spreads pods over nodes if possible."""
    return {
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": HOSTNAME,
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": dict(pods)},
                "matchLabelKeys": ["pod-template-hash"],
            }
        ]
    }


def together(settings: KubernetesSettings) -> Object:
    """Every pod with the label ONE_NODE on one node: it has their volume."""
    term = {
        "topologyKey": HOSTNAME,
        "labelSelector": {"matchLabels": {ONE_NODE: settings.instance}},
    }
    return {"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}}


def http_probe(path: str, port_name: str, **times: int) -> Object:
    """An HTTP probe; `times` as the API spells them."""
    return {"httpGet": {"path": path, "port": port_name}, **times}


def digest(content: Any) -> str:
    """Eight digits that change with the content."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]
