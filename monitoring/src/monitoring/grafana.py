"""Dashboards into a Grafana that runs somewhere: one call of its HTTP API for each.

The package grafana-client would do this, but it brings urllib3-future, which takes the place of
urllib3 for everything else in the environment.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

import requests

TIMEOUT_S = 15.0
MESSAGE = "prediction-services: generated, changes are lost"


class GrafanaRefused(Exception):
    """`str(error)` says which address, what it answered and what to do."""


def push(url: str, token: str, dashboards: Iterable[str]) -> list[str]:
    """Create or overwrite dashboards.

    Args:
        url: Grafana's address, such as http://127.0.0.1:3000.
        token: Of a service account with the role Editor.
        dashboards: JSON of each.

    Returns:
        The address of each.

    Raises:
        GrafanaRefused: It cannot be reached, or does not take one.
    """
    base = url.rstrip("/")
    addresses = []
    with requests.Session() as session:
        session.headers["Authorization"] = f"Bearer {token}"
        for text in dashboards:
            document = json.loads(text)
            body = {"dashboard": document, "overwrite": True, "message": MESSAGE}
            try:
                answer = session.post(f"{base}/api/dashboards/db", json=body, timeout=TIMEOUT_S)
            except requests.RequestException as error:
                raise GrafanaRefused(
                    f"no Grafana answers at {base} (GRAFANA_URL): {type(error).__name__}"
                ) from None
            if answer.status_code in (401, 403):
                raise GrafanaRefused(
                    f"{base} refuses the token (GRAFANA_TOKEN): it needs a service account with "
                    f"the role Editor; Grafana says {answer.status_code}"
                )
            if answer.status_code != 200:
                raise GrafanaRefused(
                    f"{base} does not take {document['title']}: {answer.status_code} "
                    f"{answer.text[:200]}"
                )
            addresses.append(base + str(answer.json().get("url", "")))
    return addresses
