"""`python -m monitoring`: write the generated files; with GRAFANA_URL, push the dashboards."""

import os
import sys
from pathlib import Path

from monitoring import dashboards, grafana
from monitoring.generated import files


def main() -> None:
    """Write the files below `monitoring/` and push the dashboards if GRAFANA_URL is set."""
    root = Path(__file__).parents[2]
    for name, text in files().items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        sys.stdout.write(f"wrote {path.relative_to(root)}\n")
    url = os.environ.get("GRAFANA_URL")
    if not url:
        return
    token = os.environ.get("GRAFANA_TOKEN")
    if not token:
        sys.exit(
            "error: GRAFANA_TOKEN is not set, expected a service account token with GRAFANA_URL; "
            "create one with the role Editor"
        )
    try:
        for address in grafana.push(url, token, map(dashboards.to_json, dashboards.DASHBOARDS)):
            sys.stdout.write(f"pushed {address}\n")
    except grafana.GrafanaRefused as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
