"""`python -m monitoring`: write what is generated here; with GRAFANA_URL, push the dashboards."""

import os
import sys
from pathlib import Path

from monitoring import dashboards, grafana
from monitoring.generated import files


def main() -> None:
    """Write the files below the folder of this package's sources; push if told to."""
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
        sys.exit("error: GRAFANA_URL is given and GRAFANA_TOKEN is not: it takes a token to push")
    try:
        pages = [dashboards.text(page) for page in dashboards.pages()]
        for address in grafana.push(url, token, pages):
            sys.stdout.write(f"pushed {address}\n")
    except grafana.GrafanaRefused as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
