from pathlib import Path

import pytest

from bench.errors import BenchError
from bench.peer_environments import install

pytestmark = pytest.mark.stack


def test_one_that_fails_is_named_and_the_others_are_installed(tmp_path: Path) -> None:
    (tmp_path / "requirements-a-broken.txt").write_text("./nowhere.whl\n")
    (tmp_path / "requirements-good.txt").write_text("")
    said: list[str] = []
    assert install(tmp_path, tmp_path / "made", "", said.append) == ["a-broken"]
    (error,) = (line for line in said if line.startswith("a-broken is not installed: "))
    assert "nowhere.whl" in error
    assert said[-1] == "good: installed"
    python = tmp_path / "made/good/bin/python"
    assert python.exists()

    # What is ready is left alone; what is not is tried again, alone where it is named.
    made = python.lstat().st_ctime_ns
    assert install(tmp_path, tmp_path / "made", "good", said.append) == []
    assert said[-1] == "good: ready"
    (tmp_path / "requirements-a-broken.txt").write_text("")
    assert install(tmp_path, tmp_path / "made", "", said.append) == []
    assert python.lstat().st_ctime_ns == made

    # New requirements make it anew.
    (tmp_path / "requirements-good.txt").write_text("# other\n")
    install(tmp_path, tmp_path / "made", "good", said.append)
    assert said[-1] == "good: installed"


def test_an_unknown_name_is_reported(tmp_path: Path) -> None:
    (tmp_path / "requirements-good.txt").write_text("")
    with pytest.raises(BenchError, match="NAME is 'bad', expected one of good"):
        install(tmp_path, tmp_path, "bad", print)
