from pathlib import Path

import pytest

from deploy.errors import SettingInvalid
from deploy.log_files import follow, last_lines, select
from deploy.probes import last_sentence


def _logs(folder: Path, *names: str) -> None:
    for name in names:
        (folder / f"{name}.log").write_text(f"{name} 1\n{name} 2\n")


def test_logs_are_chosen_by_program_or_microservice(tmp_path: Path) -> None:
    _logs(tmp_path, "envoy", "mnist-rest-0", "mnist-rest-1", "mnist-rpc-0")

    def names(name: str | None) -> list[str]:
        return [log.stem for log in select(tmp_path, name)]

    assert len(names(None)) == 4
    assert names("mnist-rest") == ["mnist-rest-0", "mnist-rest-1"]
    assert names("mnist-rest-0") == ["mnist-rest-0"]
    with pytest.raises(SettingInvalid, match="log name is 'mn', expected one of: envoy, mnist"):
        select(tmp_path, "mn")


def test_the_last_lines(tmp_path: Path) -> None:
    _logs(tmp_path, "envoy")
    assert last_lines(tmp_path / "envoy.log", 1) == ["envoy 2"]
    assert last_lines(tmp_path / "envoy.log", 9) == ["envoy 1", "envoy 2"]


def test_what_is_written_from_now_on_is_followed_line_by_line(tmp_path: Path) -> None:
    _logs(tmp_path, "envoy")
    log = tmp_path / "envoy.log"
    lines = follow([log])

    def write(text: str, mode: str = "a") -> None:
        with log.open(mode) as file:
            file.write(text)

    write("half ")
    write("a line\nand more")
    assert next(lines) == ("envoy", "half a line")
    write("\n")
    assert next(lines) == ("envoy", "and more")
    write("anew\n", "w")  # moved away when its program started again
    assert next(lines) == ("envoy", "anew")


def test_the_reason_of_a_failure_is_what_the_server_said_of_it(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    log.write_text("serving-rest: an old reason\n")
    before = log.stat().st_size
    assert last_sentence(log, before) == "no output"
    with log.open("a") as file:
        file.write("serving-rest: model folder x does not exist\n[INFO] Shutting down: Master\n")
    assert last_sentence(log, before) == "serving-rest: model folder x does not exist"
    with log.open("a") as file:
        file.write("\x1b[31mserving-grpc: the later one\x1b[0m\n\n")
    assert last_sentence(log, before) == "serving-grpc: the later one"
    log.write_text("short\n")
    assert last_sentence(log, before) == "short"
