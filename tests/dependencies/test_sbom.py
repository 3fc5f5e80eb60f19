"""SBOMs of this environment and of an image that a program of the test's exports."""

import io
import json
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
import sbom
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

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
        "Package: tzdata\nStatus: install ok installed\nArchitecture: all\nVersion: 1:2~3\n"
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


def assert_valid(document: dict[str, Any]) -> None:
    error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(document))
    assert error is None, str(error)[:2000]


def test_an_image_has_packages_of_python_and_the_distribution_and_its_python(
    tmp_path: Path,
) -> None:
    document = sbom.of_image(a_tool(tmp_path, FILES), "host:5000/team/prediction-services/x:1.0")
    assert_valid(document)
    assert {component["purl"] for component in document["components"]} == {
        "pkg:deb/debian/libc6@2.36-9?arch=amd64&distro=bookworm",
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
    assert_valid(document)
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
