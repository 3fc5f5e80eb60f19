"""SBOMs: of this environment, of an image that the test's own program exports, of our images."""

import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import sbom
from podman import Podman

pytestmark = [
    pytest.mark.images,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(
        not sbom.CYCLONEDX.exists(), reason=".venv-sbom does not exist: make test-images creates it"
    ),
]

# Takes SBOMs, prints what is wrong with the first that is not valid.
VALIDATE = """
import sys
from pathlib import Path
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

validator = JsonStrictValidator(SchemaVersion.V1_6)
for path in map(Path, sys.argv[1:]):
    if error := validator.validate_str(path.read_text(encoding="utf-8")):
        sys.exit(f"{path}: {error}"[:2000])
"""
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

FILES = {
    "app/pyvenv.cfg": "home = /usr/bin\nversion = 3.11.2\n",
    "app/lib/python3.11/site-packages/a-1.0.dist-info/METADATA": (
        "Metadata-Version: 2.1\nName: a\nVersion: 1.0\nLicense: MIT\nRequires-Dist: b>=1\n"
    ),
    "app/lib/python3.11/site-packages/b-2.0.dist-info/METADATA": (
        "Metadata-Version: 2.1\nName: b\nVersion: 2.0\n"
    ),
    "app/lib/python3.11/site-packages/a/__init__.py": "",
    "usr/lib/os-release": 'ID=debian\nVERSION_CODENAME="bookworm"\n',
    "var/lib/dpkg/status": (
        "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nVersion: 2.36-9\n\n"
        "Package: gone\nStatus: deinstall ok config-files\nArchitecture: amd64\nVersion: 1:2~3\n\n"
        "Package: tzdata\nStatus: install ok installed\nArchitecture: all\nVersion: 1:2~3\n\n"
        "Package: libstdc++6\nStatus: install ok installed\nArchitecture: amd64\nVersion: 12+u1\n"
    ),
}


def a_tool(folder: Path, files: dict[str, str]) -> str:
    """A container tool with one image."""
    with tarfile.open(folder / "image.tar", "w") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    tool = folder / "tool"
    tool.write_text(
        f"#!/bin/sh\necho $* >> {folder}/calls\n"
        "case $1 in create) echo the-container ;;"
        f" export) cat {folder}/image.tar ;;"
        " run) echo 'envoy  version: 12ab/1.40.0/Clean/RELEASE/BoringSSL' ;; esac\n"
    )
    tool.chmod(0o755)
    return str(tool)


def assert_valid(*paths: Path) -> None:
    done = subprocess.run(
        [sbom.CYCLONEDX, "-c", VALIDATE, *paths], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_schema_refuses_another_type(tmp_path: Path) -> None:
    document = sbom.of_image(a_tool(tmp_path, FILES), "h/p/x:1")
    document["components"][0]["type"] = "thing"
    with pytest.raises(AssertionError, match="'thing' is not one of"):
        assert_valid(sbom.write(document, tmp_path, "x"))


def test_an_image_has_packages_of_python_and_the_distribution_and_its_python(
    tmp_path: Path,
) -> None:
    document = sbom.of_image(a_tool(tmp_path, FILES), "host:5000/team/prediction-services/x:1.0")
    assert_valid(sbom.write(document, tmp_path, "x"))
    assert {component["purl"] for component in document["components"]} == {
        "pkg:deb/debian/libc6@2.36-9?arch=amd64&distro=bookworm",
        "pkg:deb/debian/libstdc%2B%2B6@12%2Bu1?arch=amd64&distro=bookworm",
        "pkg:deb/debian/tzdata@1:2~3?arch=all&distro=bookworm",
        "pkg:generic/cpython@3.11.2",
        "pkg:pypi/a@1.0",
        "pkg:pypi/b@2.0",
    }
    assert {"ref": "a==1.0", "dependsOn": ["b==2.0"]} in document["dependencies"]
    assert document["metadata"]["component"]["name"] == "prediction-services/x"
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls[-1] == "rm the-container"


def test_an_image_of_envoy_has_the_version_that_envoy_reports(tmp_path: Path) -> None:
    document = sbom.of_image(a_tool(tmp_path, {"usr/local/bin/envoy": "binary"}), "h/p/envoy:1")
    assert_valid(sbom.write(document, tmp_path, "x"))
    assert [one["purl"] for one in document["components"]] == ["pkg:github/envoyproxy/envoy@1.40.0"]


def test_the_order_of_files_does_not_change_the_bytes(tmp_path: Path) -> None:
    written = []
    for name, files in (("one", FILES), ("other", dict(reversed(FILES.items())))):
        (tmp_path / name).mkdir()
        document = sbom.of_image(a_tool(tmp_path / name, files), "h/p/x:1")
        written.append(sbom.write(document, tmp_path / name, "x").read_bytes())
    assert written[0] == written[1]


def test_an_image_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    tool = tmp_path / "tool"
    tool.write_text("#!/bin/sh\necho 'no such image' >&2\nexit 1\n")
    tool.chmod(0o755)
    with pytest.raises(sbom.SbomFailed, match="create failed: no such image"):
        sbom.of_image(str(tool), "h/p/x:1")


def test_this_environment_names_packages_and_no_folder_of_this_machine(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sbom.main(["--output", str(tmp_path)]) == 0
    (path,) = map(Path, capsys.readouterr().out.split())
    text = path.read_text()
    names = {component["name"] for component in json.loads(text)["components"]}
    assert names >= {"grpcio", "prediction-services-serving-rest"}
    assert sys.prefix not in text
    assert str(Path(sbom.__file__).parents[1]) not in text


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
    assert_valid(*(tmp_path / "one").iterdir())
    for name, content in written.items():
        found = {one["name"].lower() for one in json.loads(content)["components"]}
        if name != "environment":
            assert found >= {*HOLDS[name], "libc6"}, name
            assert not found & {"mypy", "ruff", "tensorflow-cpu", "tensorflow_cpu"}, (
                name
            )  # locust has pytest
