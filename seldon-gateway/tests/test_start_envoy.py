"""The image's start script, on this machine: what it makes of the image's bootstrap."""

import json
import subprocess
from pathlib import Path

import pytest

from seldon_gateway.envoy_bootstrap import bootstrap
from seldon_gateway.errors import SettingInvalid
from seldon_gateway.settings import GatewaySettings

SCRIPT = Path(__file__).parents[1] / "start-envoy.sh"
IMAGE = {"SELDON_BIND": "0.0.0.0", "SELDON_CONTROL_HOST": "control-plane"}  # noqa: S104
PATH = "/usr/bin:/bin"


def start(folder: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run it with the folder in place of the container's, up to where it becomes Envoy."""
    made = folder / "image.json"
    made.write_text(json.dumps(bootstrap(GatewaySettings.from_env(IMAGE)), indent=1))
    (folder / "envoy").symlink_to("/bin/echo")
    text = SCRIPT.read_text().replace("/etc/envoy/envoy.json", str(made))
    text = text.replace("/tmp/envoy.json", str(folder / "envoy.json"))  # noqa: S108
    return subprocess.run(
        ["/bin/sh", "-c", text],
        env={"PATH": f"{folder}:{PATH}", "HOSTNAME": "pod-1", **environ},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"SELDON_POLL": "4"},
        {"SELDON_POLL": "0.05", "SELDON_JWKS_CACHE": "86400"},
        {"SELDON_POLL": "60", "SELDON_JWKS_CACHE": "1", "SELDON_ENVOY_HEAP": "128"},
        {"SELDON_JWKS_CACHE": "2.5", "SELDON_ENVOY_HEAP": "1048576"},
    ],
)
def test_a_variable_has_the_effect_that_it_has_on_one_machine(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    done = start(tmp_path, SELDON_ENVOY_THREADS="3", **environ)
    assert done.returncode == 0, done.stderr
    assert "--concurrency 3 --service-node gateway-pod-1 " in done.stdout
    used = json.loads((tmp_path / "envoy.json").read_text())
    assert used == bootstrap(GatewaySettings.from_env({**IMAGE, **environ}))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("SELDON_POLL", value) for value in (
            "0", "0.049", "60.001", "61", "-1", "often", "1s", "1.", ".5", "1.2.3", "010",
            "0.25\"", "9999999999",
        )),
        ("SELDON_JWKS_CACHE", "0.5"),
        ("SELDON_JWKS_CACHE", "86401"),
        ("SELDON_ENVOY_HEAP", "64"),
        ("SELDON_ENVOY_HEAP", "0256"),
        ("SELDON_ENVOY_HEAP", "1_024"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_in_the_sentence_of_the_settings(
    tmp_path: Path, name: str, value: str
) -> None:
    with pytest.raises(SettingInvalid) as refused:
        GatewaySettings.from_env({name: value})
    done = start(tmp_path, **{name: value})
    assert done.returncode == 1
    assert done.stderr == f"envoy: {refused.value}\n"
    assert not done.stdout
