"""An SBOM of each image, as `make sbom IMAGES=1` writes it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from podman import Podman

pytestmark = [pytest.mark.images, pytest.mark.timeout(1800)]

ROOT = Path(__file__).parents[2]
# What each is for; every image has the base image's libc6.
HOLDS = {
    "serving-rest": {"flask", "gunicorn", "ai-edge-litert", "prediction-services-serving-rest"},
    "serving-grpc": {"grpcio", "ai-edge-litert", "prediction-services-serving-grpc"},
    "control-plane": {"sqlalchemy", "psycopg-binary", "prediction-services-seldon-gateway"},
    "envoy": {"envoy"},
    "loadtest": {"locust", "geventhttpclient", "prediction-services-loadtest"},
    "model-download": {"fsspec", "s3fs", "gcsfs", "prediction-services-model-download"},
}


def write(podman: Podman, folder: Path) -> dict[str, bytes]:
    done = subprocess.run(
        [
            *(sys.executable, "tools/sbom.py", "--images", "--tool", "podman", "--tag", "test"),
            *("--output", str(folder)),
        ],
        cwd=ROOT,
        env=podman.environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return {
        path.name.removesuffix(".cdx.json"): path.read_bytes()
        for path in map(Path, done.stdout.split())
    }


def test_each_image_has_an_sbom_that_is_valid_and_reproducible(
    podman: Podman, images: dict[str, str], tmp_path: Path
) -> None:
    written = write(podman, tmp_path / "one")
    assert written == write(podman, tmp_path / "other")
    assert written.keys() == {"environment", *images}
    validator = JsonStrictValidator(SchemaVersion.V1_6)
    for name, content in written.items():
        error = validator.validate_str(content.decode())
        assert error is None, f"{name}: {str(error)[:2000]}"
        found = {one["name"].lower() for one in json.loads(content)["components"]}
        if name != "environment":
            assert found >= {*HOLDS[name], "libc6"}, name
            assert not found & {"mypy", "pytest", "tensorflow_cpu"}, name
