"""Where make's commands act: the shell's SELDON_TARGET, or TARGET on the command line."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAKE = shutil.which("make")


def make(*words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run it without setting up anything."""
    assert MAKE is not None
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MAKE", "SELDON_", "TARGET"))
    }
    return subprocess.run(
        [MAKE, "--silent", "--no-print-directory", "--old-file=.venv/.ready", *words],
        cwd=ROOT,
        env={**inherited, **environ},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("words", "of_the_shell", "told"),
    [
        ([], "", "local"),
        ([], "kubernetes", "kubernetes"),
        (["TARGET=local"], "kubernetes", "local"),
    ],
)
def test_the_commands_are_told_where_make_acts(
    words: list[str], of_the_shell: str, told: str
) -> None:
    done = make("--eval=show: ; @echo $$SELDON_TARGET", "show", *words, SELDON_TARGET=of_the_shell)
    assert (done.stdout, done.stderr) == (f"{told}\n", "")


@pytest.mark.parametrize(
    "given", [{"SELDON_TARGET": "kubernetes"}, {"SELDON_TARGET": "compose"}, {"TARGET": "compose"}]
)
def test_a_benchmark_elsewhere_is_refused_before_anything_is_deployed(
    given: dict[str, str],
) -> None:
    done = make("benchmark", "BIN=/none", **given)
    assert done.returncode != 0
    assert "make benchmark is for one machine, and TARGET is" in done.stderr
    assert not done.stdout
