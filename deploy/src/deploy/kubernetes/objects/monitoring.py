"""Prometheus, Alertmanager and Grafana with this project's rules and dashboards; PodMonitors."""

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

import yaml

from deploy.kubernetes.objects import storage
from deploy.kubernetes.objects.common import (
    Object,
    an_object,
    config_map,
    container,
    deployment,
    digest,
    from_secret,
    http_probe,
    ingress,
    labels,
    network_policy,
    pod,
    pods_of,
    port,
    selector,
    service,
)
from deploy.kubernetes.objects.gateway import ENVOY
from deploy.kubernetes.settings import KubernetesSettings, Resources
from monitoring import provisioning
from monitoring.prometheus import ENVOY_STATS

PROMETHEUS, ALERTMANAGER, GRAFANA = "prometheus", "alertmanager", "grafana"

# The newest with long-term support; not of K8S_REGISTRY, where nobody has put them.
IMAGES = {
    PROMETHEUS: "docker.io/prom/prometheus:v3.5.0",
    ALERTMANAGER: "docker.io/prom/alertmanager:v0.28.1",
    GRAFANA: "docker.io/grafana/grafana:12.4.0",
}

GRAFANA_SECRET, GRAFANA_KEY = "grafana-admin-password", "password"

CONFIGURATION, RULES = "prometheus/kubernetes.yaml", "prometheus/rules.yaml"

_NOBODY, _GRAFANA_USER = 65534, 472  # as in the images


def monitoring(settings: KubernetesSettings, files: Mapping[str, str]) -> list[Object]:
    """The three programs.

    Args:
        settings: Whose.
        files: Text by path below this project's folder `monitoring`: CONFIGURATION, RULES and
            dashboards/*.json.
    """
    return [
        *_prometheus(settings, files),
        *_alertmanager(settings),
        *_grafana(settings, files),
    ]


def pod_monitors(settings: KubernetesSettings) -> list[Object]:
    """The same targets for a Prometheus operator, if its kinds are to be used."""
    if not settings.pod_monitors:
        return []
    scraped = {
        "serving-rest": {"port": "http", "path": "/metrics"},
        "serving-grpc": {"port": "metrics", "path": "/metrics"},
        ENVOY: {"port": "stats", "path": ENVOY_STATS},
    }
    return [
        an_object(
            settings,
            "monitoring.coreos.com/v1",
            "PodMonitor",
            program,
            program,
            spec={
                "selector": {"matchLabels": selector(settings, program)},
                "podMetricsEndpoints": [{**endpoint, "interval": "5s"}],
            },
        )
        for program, endpoint in scraped.items()
    ]


def _prometheus(settings: KubernetesSettings, files: Mapping[str, str]) -> list[Object]:
    name, pods = PROMETHEUS, selector(settings, PROMETHEUS)
    configuration = {"prometheus.yml": files[CONFIGURATION], "rules.yaml": files[RULES]}
    account = an_object(settings, "v1", "ServiceAccount", name, name)
    account["automountServiceAccountToken"] = False
    group = "rbac.authorization.k8s.io"
    role = an_object(
        settings,
        f"{group}/v1",
        "Role",
        name,
        name,
        rules=[{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}],
    )
    binding = an_object(
        settings,
        f"{group}/v1",
        "RoleBinding",
        name,
        name,
        roleRef={"apiGroup": group, "kind": "Role", "name": name},
        subjects=[{"kind": "ServiceAccount", "name": name, "namespace": settings.namespace}],
    )
    data, data_mount = storage.claimed(PROMETHEUS, "/prometheus")
    server = container(
        name,
        IMAGES[name],
        Resources("250m", "512Mi", "2Gi"),
        ports={"http": 9090},
        args=[
            "--config.file=/etc/prometheus/prometheus.yml",
            "--storage.tsdb.path=/prometheus",
            "--storage.tsdb.retention.time=15d",
            "--storage.tsdb.retention.size=8GB",
        ],
        mounts=[data_mount, _mount("configuration", "/etc/prometheus")],
        **_probes("/-/ready", "/-/healthy"),
    )
    template = pod(
        settings,
        labels(settings, name),
        [server],
        user=_NOBODY,
        volumes=[data, _from_config_map("configuration", name)],
        annotations={"checksum/configuration": digest(configuration)},
        serviceAccountName=name,
        terminationGracePeriodSeconds=60,
    )
    template["spec"]["automountServiceAccountToken"] = True  # it asks the API which pods there are
    return [
        account,
        role,
        binding,
        *storage.own_volume(settings, name, "10Gi", name),
        config_map(settings, name, name, configuration),
        service(settings, name, name, pods, [port("http", 9090, "http")]),
        deployment(settings, name, name, template, replicas=1, pods=pods, one_at_a_time=True),
        network_policy(settings, name, name, pods, [ingress(["http"], pods_of(settings, GRAFANA))]),
    ]


def _alertmanager(settings: KubernetesSettings) -> list[Object]:
    name, pods = ALERTMANAGER, selector(settings, ALERTMANAGER)
    configuration = {"alertmanager.yml": _yaml(provisioning.alertmanager())}
    server = container(
        name,
        IMAGES[name],
        Resources("20m", "64Mi", "256Mi"),
        ports={"http": 9093},
        args=[
            "--config.file=/etc/alertmanager/alertmanager.yml",
            "--storage.path=/alertmanager",
            "--cluster.listen-address=",
        ],
        mounts=[_mount("data", "/alertmanager"), _mount("configuration", "/etc/alertmanager")],
        **_probes("/-/ready", "/-/healthy"),
    )
    template = pod(
        settings,
        labels(settings, name),
        [server],
        user=_NOBODY,
        volumes=[
            {"name": "data", "emptyDir": {}},
            _from_config_map("configuration", name),
        ],
        annotations={"checksum/configuration": digest(configuration)},
    )
    return [
        config_map(settings, name, name, configuration),
        service(settings, name, name, pods, [port("http", 9093, "http")]),
        deployment(settings, name, name, template, replicas=1, pods=pods),
        network_policy(
            settings, name, name, pods, [ingress(["http"], pods_of(settings, PROMETHEUS))]
        ),
    ]


def _grafana(settings: KubernetesSettings, files: Mapping[str, str]) -> list[Object]:
    name, pods = GRAFANA, selector(settings, GRAFANA)
    sources = {
        "datasource.yaml": _yaml(provisioning.grafana_datasource()),
        "dashboards.yaml": _yaml(provisioning.grafana_dashboards()),
    }
    dashboards = {
        PurePosixPath(path).name: text
        for path, text in sorted(files.items())
        if path.startswith("dashboards/")
    }
    etc = "/etc/grafana/provisioning"
    server = container(
        name,
        IMAGES[name],
        Resources("100m", "128Mi", "512Mi"),
        ports={"http": 3000},
        environment={
            "GF_SECURITY_ADMIN_PASSWORD": from_secret(GRAFANA_SECRET, GRAFANA_KEY),
            "GF_LOG_MODE": "console",
            "GF_ANALYTICS_REPORTING_ENABLED": "false",
            "GF_ANALYTICS_CHECK_FOR_UPDATES": "false",
            "GF_ANALYTICS_CHECK_FOR_PLUGIN_UPDATES": "false",
            "GF_PLUGINS_PREINSTALL_DISABLED": "true",  # it would fetch them at every start
        },
        mounts=[
            _mount("data", "/var/lib/grafana"),
            _mount("dashboards", provisioning.DASHBOARDS_FOLDER),
            {
                **_mount("provisioning", f"{etc}/datasources/datasource.yaml"),
                "subPath": "datasource.yaml",
            },
            {
                **_mount("provisioning", f"{etc}/dashboards/dashboards.yaml"),
                "subPath": "dashboards.yaml",
            },
        ],
        **_probes("/api/health", "/api/health"),
    )
    template = pod(
        settings,
        labels(settings, name),
        [server],
        user=_GRAFANA_USER,
        volumes=[
            {"name": "data", "emptyDir": {}},
            _from_config_map("dashboards", "grafana-dashboards"),
            _from_config_map("provisioning", "grafana-provisioning"),
        ],
        annotations={"checksum/configuration": digest([sources, dashboards])},
    )
    return [
        config_map(settings, "grafana-provisioning", name, sources),
        config_map(settings, "grafana-dashboards", name, dashboards),
        service(
            settings,
            name,
            name,
            pods,
            [port("http", 3000, "http")],
            type=settings.pages_service_type,
        ),
        deployment(settings, name, name, template, replicas=1, pods=pods),
        network_policy(settings, name, name, pods, [ingress(["http"])]),
    ]


def _probes(ready: str, live: str) -> dict[str, Any]:
    return {
        "startupProbe": http_probe(ready, "http", periodSeconds=2, failureThreshold=150),
        "readinessProbe": http_probe(ready, "http", periodSeconds=5, timeoutSeconds=3),
        "livenessProbe": http_probe(live, "http", periodSeconds=10, timeoutSeconds=5),
    }


def _mount(name: str, path: str) -> Object:
    return {"name": name, "mountPath": path}


def _from_config_map(name: str, source: str) -> Object:
    return {"name": name, "configMap": {"name": source}}


def _yaml(document: object) -> str:
    return yaml.safe_dump(document, sort_keys=False)
