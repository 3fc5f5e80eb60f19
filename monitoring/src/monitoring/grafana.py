"""Client of Grafana's HTTP API that pushes dashboards.

The package grafana-client depends on urllib3-future, which replaces urllib3 for everything else in
the environment.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

import requests

TIMEOUT_S = 15.0
MESSAGE = "prediction-services: generated, changes are lost"


class GrafanaRefused(Exception):
    """Grafana cannot be reached or rejects a dashboard."""


def push(url: str, token: str, dashboards: Iterable[str]) -> list[str]:
    """Create or overwrite dashboards.

    Args:
        url: Grafana's URL, such as http://127.0.0.1:3000.
        token: Token of a service account with the role Editor.
        dashboards: Their JSON.

    Returns:
        The URL of each.

    Raises:
        GrafanaRefused: Grafana cannot be reached or rejects a dashboard.
    """
    base = url.rstrip("/")
    addresses = []
    with requests.Session() as session:
        session.headers["Authorization"] = f"Bearer {token}"
        for text in dashboards:
            document = json.loads(text)
            body = {"dashboard": document, "overwrite": True, "message": MESSAGE}
            try:
                response = session.post(f"{base}/api/dashboards/db", json=body, timeout=TIMEOUT_S)
            except requests.RequestException as error:
                raise GrafanaRefused(
                    f"GRAFANA_URL is {base}, which does not respond ({type(error).__name__}); "
                    "check that Grafana is running there"
                ) from None
            if response.status_code in (401, 403):
                raise GrafanaRefused(
                    f"GRAFANA_TOKEN is rejected by {base} with {response.status_code}, expected "
                    "the token of a service account with the role Editor; create one"
                )
            if response.status_code != 200:
                raise GrafanaRefused(
                    f"{base} rejects the dashboard {document['title']} with "
                    f"{response.status_code}: {response.text[:200]}"
                )
            addresses.append(base + str(response.json().get("url", "")))
    return addresses
