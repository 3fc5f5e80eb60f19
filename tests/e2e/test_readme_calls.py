"""README.md's 'Call it' as it stands there: curl and both Python clients on a real stack."""

import json
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

from local_stack import ROOT, Stack
from serving_core.digits import held_out

pytestmark = pytest.mark.stack

SHOWN = "7"


@pytest.fixture(scope="module")
def blocks() -> dict[str, list[str]]:
    """The section's code blocks by language, in their order."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = re.search(r"^## Call it\n(.*?)^## ", text, re.DOTALL | re.MULTILINE)
    assert section, "README.md has no section 'Call it'"
    found: dict[str, list[str]] = {}
    for language, code in re.findall(r"^```(\w+)\n(.*?)^```", section[1], re.DOTALL | re.MULTILINE):
        found.setdefault(language, []).append(code)
    return found


def run(stack: Stack, folder: Path, commands: str, client: str = "") -> str:
    """Run the shell block, then a Python client in the same shell; only ports are replaced."""
    for documented, actual in (("8080", stack.rest_port), ("5000", stack.grpc_port)):
        commands = commands.replace(f"127.0.0.1:{documented}", f"127.0.0.1:{actual}")
        client = client.replace(f"127.0.0.1:{documented}", f"127.0.0.1:{actual}")
    (folder / "client.py").write_text(client)
    # The block puts .venv/bin first; these tests may run in another environment.
    path = 'export PATH="$TESTED_PATH"\n'
    commands = commands.replace('export PATH="$PWD/.venv/bin:$PATH"\n', path)
    assert path in commands
    script = f"{commands}\n" + (f"echo; python {folder / 'client.py'}" if client else "")
    result = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],  # noqa: S607
        cwd=ROOT,
        env={**stack.environment, "TESTED_PATH": stack.environment["PATH"]},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, f"{result.stdout}\n{result.stderr}"
    return result.stdout


def test_curl_recognises_the_digit(
    stack: Stack, blocks: dict[str, list[str]], tmp_path: Path
) -> None:
    [commands] = blocks["sh"]
    answer = json.loads(run(stack, tmp_path, commands))
    best = max(answer["predictions"], key=lambda class_: class_["prediction"])
    assert best["predictedClass"] == SHOWN


def test_both_python_clients_recognise_the_digit(
    stack: Stack, blocks: dict[str, list[str]], tmp_path: Path
) -> None:
    [commands] = blocks["sh"]
    rest, rpc = blocks["python"]
    assert "requests.post" in rest
    assert "data.Pack(" in rpc
    for client in (rest, rpc):
        said = run(stack, tmp_path, commands, client).splitlines()[-1].split()
        assert said[0] == SHOWN
        assert float(said[1]) > 0.9


def test_the_example_is_a_held_out_digit() -> None:
    sent = json.loads((ROOT / "examples" / "digit.json").read_text())["data"]
    digits = held_out()
    nearest = int(np.abs(digits.images - np.array(sent, np.float32)).max(axis=1).argmin())
    assert np.abs(digits.images[nearest] - np.array(sent)).max() <= 0.0051
    assert str(digits.labels[nearest]) == SHOWN
