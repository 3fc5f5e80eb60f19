"""Every file that is generated from this package, by its path below `monitoring/`. Pure."""

from monitoring import dashboards, prometheus, provisioning, rules


def files() -> dict[str, str]:
    """Path and text of each; a test holds them against what is committed."""
    return {
        "prometheus/rules.yaml": prometheus.text(rules.rules()),
        "prometheus/compose.yaml": prometheus.text(prometheus.in_compose()),
        "prometheus/kubernetes.yaml": prometheus.text(prometheus.in_kubernetes()),
        "alertmanager/alertmanager.yaml": prometheus.text(provisioning.alertmanager()),
        "grafana/datasources/prometheus.yaml": prometheus.text(provisioning.grafana_datasource()),
        "grafana/dashboards/prediction-services.yaml": prometheus.text(
            provisioning.grafana_dashboards()
        ),
        **{f"dashboards/{page.uid}.json": dashboards.text(page) for page in dashboards.pages()},
    }
