"""Alertmanager configuration and Grafana provisioning for containers and Kubernetes. Pure."""

from __future__ import annotations

from monitoring.prometheus import Json

# The folder of the dashboards in Grafana's container.
DASHBOARDS_FOLDER = "/var/lib/grafana-dashboards"


def alertmanager() -> Json:
    """Route every alert to a receiver without notifications; operators add their own."""
    return {
        "route": {"receiver": "nobody", "group_by": ["alertname", "protocol"]},
        "receivers": [{"name": "nobody"}],
    }


def grafana_datasource() -> Json:
    """Provision Prometheus as the default data source."""
    return {
        "apiVersion": 1,
        "datasources": [
            {
                "name": "Prometheus",
                "uid": "prometheus",
                "type": "prometheus",
                "access": "proxy",
                "url": "http://prometheus:9090",
                "isDefault": True,
                "jsonData": {"timeInterval": "5s", "httpMethod": "POST"},
            }
        ],
    }


def grafana_dashboards() -> Json:
    """Provision the dashboards from files."""
    return {
        "apiVersion": 1,
        "providers": [
            {"name": "prediction-services", "type": "file", "options": {"path": DASHBOARDS_FOLDER}}
        ],
    }
