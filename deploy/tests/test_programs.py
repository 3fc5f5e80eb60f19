import json
import subprocess
import sys
from pathlib import Path

from deploy import programs
from deploy.programs import Program, script_text

SHOW = "import json, os, sys; print(json.dumps([sys.argv[1:], dict(os.environ)]))"
ODD = 'it\'s 100 % "odd"; #1 $HOME `id` \\ ä'


def _run(home: Path, program: Program, reap: tuple[str, ...] = ("false",)) -> str:
    for folder in ("logs", "run"):
        (home / folder).mkdir(exist_ok=True)
    (home / program.script).write_text(script_text(program, str(home), reap))
    done = subprocess.run(
        ["/bin/sh", program.script], cwd=home, capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("", "")
    return (home / program.log).read_text()


def _program(*arguments: str) -> Program:
    argv = (sys.executable, "-c", SHOW, *arguments)
    return Program("show", argv, 1, "http://x", environment={"MODEL_FOLDER": ODD})


def test_arguments_and_environment_reach_the_process_unchanged(tmp_path: Path) -> None:
    home = tmp_path / "a home; #1 100%"
    home.mkdir()
    arguments, environment = json.loads(_run(home, _program(ODD, "")))
    assert arguments == [ODD, ""]
    assert environment["MODEL_FOLDER"] == ODD
    assert environment["SELDON_STACK"] == str(home)
    assert environment["SELDON_PROGRAM"] == "show"


def test_only_a_later_start_reaps_and_each_is_counted(tmp_path: Path) -> None:
    reap = ("touch", str(tmp_path / "reaped"))
    _run(tmp_path, _program(), reap)
    assert not (tmp_path / "reaped").exists()
    _run(tmp_path, _program(), reap)
    assert (tmp_path / "reaped").exists()
    assert len((tmp_path / "run/show.starts").read_text().split()) == 2


def test_a_large_log_is_moved_away_once(tmp_path: Path) -> None:
    first = _run(tmp_path, _program())
    assert _run(tmp_path, _program()).startswith(first)
    with (tmp_path / "logs/show.log").open("a") as log:
        log.write("x" * programs.LOG_LIMIT_BYTES)
    assert len(_run(tmp_path, _program()).splitlines()) == 1
    assert (tmp_path / "logs/show.log.1").stat().st_size > programs.LOG_LIMIT_BYTES
