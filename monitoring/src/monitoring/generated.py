"""The files that this package generates. Pure."""

from monitoring import dashboards, prometheus, provisioning, rules


def files() -> dict[str, str]:
    """Text by path below `monitoring/`; a test compares them with the committed files."""
    return {
        "prometheus/rules.yaml": prometheus.text(rules.rules()),
        "prometheus/compose.yaml": prometheus.text(prometheus.in_compose()),
        "prometheus/kubernetes.yaml": prometheus.text(prometheus.in_kubernetes()),
        "alertmanager/alertmanager.yaml": prometheus.text(provisioning.alertmanager()),
        "grafana/datasources/prometheus.yaml": prometheus.text(provisioning.grafana_datasource()),
        "grafana/dashboards/prediction-services.yaml": prometheus.text(
            provisioning.grafana_dashboards()
        ),
        **{
            f"dashboards/{board.uid}.json": dashboards.to_json(board)
            for board in dashboards.DASHBOARDS
        },
    }
