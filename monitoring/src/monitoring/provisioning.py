"""What Alertmanager and Grafana are started with, in containers and on Kubernetes. Pure."""

from __future__ import annotations

from monitoring.prometheus import Json

# Where Grafana's container finds the dashboards' JSON.
DASHBOARDS_FOLDER = "/var/lib/grafana-dashboards"


def alertmanager() -> Json:
    """Alerts are shown and go nowhere: who is told is the operator's to add."""
    return {
        "route": {"receiver": "nobody", "group_by": ["alertname", "protocol"]},
        "receivers": [{"name": "nobody"}],
    }


def grafana_datasource() -> Json:
    """The Prometheus beside it, which the dashboards use as their default."""
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
    """That the dashboards come from files."""
    return {
        "apiVersion": 1,
        "providers": [
            {"name": "prediction-services", "type": "file", "options": {"path": DASHBOARDS_FOLDER}}
        ],
    }
