"""compose.yaml as it stands, and what is decided before compose is called."""

import json
import os
import re
import stat
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy import compose
from deploy.deployment import MODEL_FOLDER
from deploy.errors import ComposeFailed
from deploy.kubernetes.objects.monitoring import IMAGES as PINNED

ROOT = Path(__file__).parents[2]
FILE = ROOT / compose.FILE
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(FILE.read_text())["services"]
OURS = {name for name, service in SERVICES.items() if "SELDON_TAG" in service["image"]}
DEFAULT = re.compile(r"\$\{\w+:-([^}]*)\}")


def default_image(service: str) -> str:
    """The image where no variable is set."""
    return DEFAULT.sub(lambda match: match[1], SERVICES[service]["image"])


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_locked_up_and_pinned(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    tag = default_image(name).rpartition(":")[2]
    assert re.fullmatch(r"v?\d+(\.\d+)+", tag)
    assert all(port.split(":")[0].startswith(("127.0.0.1", "${SELDON_BIND")) or "127.0.0.1" in port
               for port in service.get("ports", []))  # fmt: skip


def test_the_images_are_those_that_are_built_and_looked_for() -> None:
    assert {default_image(name) for name in OURS} == set(
        compose.image_references({}, version("prediction-services-deploy"))
    )
    assert {name: default_image(name) for name in compose.MONITORING} == PINNED


def test_every_service_is_started_by_some_command() -> None:
    named = {*compose.SERVING, *compose.MONITORING, compose.LOADTEST, compose.WORKER}
    assert set(SERVICES) == named


def test_what_is_there_for_long_has_a_health_check() -> None:
    for name in compose.MONITORING:
        assert SERVICES[name]["healthcheck"]["test"][0] == "CMD"
    # Ours have theirs in the image.
    assert not any("healthcheck" in SERVICES[name] for name in OURS)


def test_only_envoy_and_the_set_up_reach_the_control_plane() -> None:
    reached = {name for name in SERVICES if "control" in SERVICES[name]["networks"]}
    assert reached == {"control-plane", "envoy", "setup"}


def test_no_secret_is_in_the_file() -> None:
    document = yaml.safe_load(FILE.read_text())
    secrets = document["secrets"].values()
    assert secrets
    assert all(set(secret) == {"file"} for secret in secrets)
    given = [
        (name, variable)
        for name, service in SERVICES.items()
        for variable, value in (service.get("environment") or {}).items()
        if re.search("SECRET|PASSWORD|KEY|TOKEN", variable) and not variable.endswith("__FILE")
        if value
    ]
    assert given == []


def test_the_strategy_is_the_documented_one() -> None:
    documented = (ROOT / "docs" / "containers.md").read_text().split("```json\n")[1]
    mounted = (ROOT / "deploy" / "compose" / "strategy.json").read_text()
    assert json.loads(documented.split("```")[0]) == json.loads(mounted)


def test_the_servers_have_the_variations_name_and_the_default_model() -> None:
    strategy = json.loads((ROOT / "deploy" / "compose" / "strategy.json").read_text())
    assert {one["label"] for one in strategy["variations"]} == {compose.VARIATION}
    for name in ("serving-rest", "serving-grpc"):
        assert SERVICES[name]["environment"]["MODEL_NAME"] == compose.VARIATION
        (folder,) = re.findall(r"MODEL_FOLDER:-\./([^}]+)\}", SERVICES[name]["volumes"][0])
        assert folder == str(MODEL_FOLDER)


def test_what_is_no_model_folder_is_refused_before_a_container_starts(tmp_path: Path) -> None:
    """A docker that works and notes what it is to start."""
    docker, started = tmp_path / "docker", tmp_path / "started"
    docker.write_text(f'#!/bin/sh\ncase "$*" in *" up "*) echo "$*" >> {started} ;; esac\n')
    docker.chmod(0o755)
    (tmp_path / "empty").mkdir()
    environ = {"PATH": f"{tmp_path}:/usr/bin:/bin", "MODEL_FOLDER": str(tmp_path / "empty")}
    done = subprocess.run(
        [sys.executable, "-m", "deploy", "compose", "deploy"],
        env={**os.environ, **environ},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {tmp_path}/empty is not a model folder")
    assert not started.exists()


def test_a_password_is_made_once_and_its_folder_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "compose" / "password"
    assert compose.make_password(path)
    made = path.read_text()
    assert len(made) >= 20
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert not compose.make_password(path)
    assert path.read_text() == made


def test_elsewhere_than_in_the_repository_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(ComposeFailed, match="is not the root of the repository"):
        compose.Compose.find(tmp_path, {})


def test_without_any_compose_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ComposeFailed, match="install one of them"):
        compose.Compose.find(ROOT, {"PATH": str(tmp_path)})


@pytest.mark.parametrize(("told", "named"), [("false", False), ("true", True)])
def test_a_podman_without_dns_is_reported_at_once(tmp_path: Path, told: str, named: bool) -> None:
    podman = tmp_path / "podman"
    podman.write_text(
        f'#!/bin/sh\n[ "$1 $2 $4" = "network inspect mine_{compose.NETWORK}" ] && echo {told}\n'
    )
    podman.chmod(0o755)
    environ = {"PATH": str(tmp_path), "COMPOSE_PROJECT_NAME": "mine"}
    it = compose.Compose("podman", ("/bin/true",), ROOT, environ)
    assert it.has_names() is named
    if not named:
        with pytest.raises(
            ComposeFailed, match="install Debian's packages netavark, aardvark-dns and iptables"
        ):
            compose.bring_up(it, compose.SERVING, "http://127.0.0.1:1")
