from pathlib import Path

import pytest

from deploy import envoy_view
from seldon_gateway.control_plane import create_app
from seldon_gateway.registry import Registry
from seldon_gateway.settings import GatewaySettings
from seldon_gateway.strategies import Endpoint, Variation
from seldon_gateway.tokens import TokenIssuer


@pytest.mark.parametrize(
    "environ", [{}, {"SELDON_TIMEOUT": "7"}, {"SELDON_CORS_ORIGINS": "https://app.example.com"}]
)
def test_the_newest_versions_are_those_that_the_control_plane_sends(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    settings = GatewaySettings.from_env({"SELDON_HOME": str(tmp_path), **environ})
    registry = Registry.open(settings.database_url)
    registry.setup_client("acme", "DB")
    registry.replace_variations("acme", "rest", [Variation("v1", 1.0, (Endpoint("h", 1),))])
    issuer = TokenIssuer.load(tmp_path, 60)
    app = create_app(registry, issuer, settings.timeout_s, settings.cors_origins)
    received: dict[str, str] = {}

    def poll(kind: str, names: list[str]) -> None:
        request = {
            "node": {"id": "n"},
            "resource_names": names,
            "version_info": received.get(names[0] if names else kind, ""),
        }
        answer = app.test_client().post(f"/v3/discovery:{kind}", json=request)
        if answer.status_code == 200:
            received[names[0] if names else kind] = answer.get_json()["version_info"]

    for _ in range(2):
        poll("clusters", [])
    poll("routes", ["rest"])
    poll("routes", ["grpc"])
    newest = envoy_view.newest_versions(registry, settings)
    registry.close()
    assert sorted(newest.values()) == sorted(received.values())
    assert len(received) == 3
