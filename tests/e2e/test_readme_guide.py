"""The guide of docs/guide.md, line by line, as it stands there."""

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from local_stack import ROOT, Stack

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]


def guide() -> str:
    """The shell block that follows the guide's heading in docs/guide.md."""
    text = (ROOT / "docs" / "guide.md").read_text()
    match = re.search(r"^## The original guide.*?^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert match, "docs/guide.md has no guide"
    return match.group(1)


def test_the_guide_can_be_followed_line_by_line(
    new_stack: Callable[[], Stack], tmp_path: Path
) -> None:
    commands = guide()
    for step in ("seldon-up", "client --action setup", "start-microservice", "js-predict",
                 "rpc 1.0", "grpc-predict", "seldon-down"):  # fmt: skip
        assert step in commands, f"the guide lost its step {step!r}"
    stack = new_stack()
    result = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands],  # noqa: S607
        cwd=ROOT,
        env={
            **stack.environment,
            "LOADTEST_DURATION": "5",
            "LOADTEST_WARMUP": "1",
            "LOADTEST_OUTPUT": str(tmp_path),
        },
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert result.returncode == 0, f"{result.stdout[-3000:]}\n{result.stderr[-3000:]}"
    runs = [path for path in tmp_path.iterdir() if path.is_dir() and not path.is_symlink()]
    assert len(runs) == 2
    for run in runs:
        assert json.loads((run / "summary.json").read_text())["requests"] > 0
    assert not stack.processes()
