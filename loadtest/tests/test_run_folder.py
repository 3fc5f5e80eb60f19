from datetime import UTC, datetime
from pathlib import Path

import pytest

from loadtest.run_folder import ResultUnreadable, RunFolder

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def test_folder_is_named_for_the_time_and_latest_points_to_it(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "results", "rest", now=lambda: NOW)
    assert folder.path.name == "20260102T030405Z-rest"
    assert (tmp_path / "results" / "latest").resolve() == folder.path.resolve()


def test_second_folder_of_the_same_second_gets_its_own_name(tmp_path: Path) -> None:
    names = [RunFolder.create(tmp_path, "rest", now=lambda: NOW).path.name for _ in range(3)]
    assert names == ["20260102T030405Z-rest", "20260102T030405Z-rest-2", "20260102T030405Z-rest-3"]
    assert (tmp_path / "latest").readlink() == Path(names[-1])


def test_a_folder_called_latest_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "latest").mkdir()
    RunFolder.create(tmp_path, "rest")
    assert not (tmp_path / "latest").is_symlink()


def test_settings_and_raw_results_come_back(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, "rest")
    folder.write_settings({"users": 50})
    folder.write_raw("worker-1", {"process": "worker-1"})
    folder.write_raw("worker-0", {"process": "worker-0"})
    assert folder.settings() == {"users": 50}
    assert [result["process"] for result in folder.raw_results()] == ["worker-0", "worker-1"]


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with pytest.raises(ResultUnreadable, match=r"no settings\.json"):
        folder.settings()
    (tmp_path / "settings.json").write_text("{", encoding="utf-8")
    with pytest.raises(ResultUnreadable, match=r"settings\.json is not valid JSON"):
        folder.settings()
    (tmp_path / "settings.json").write_text("[]", encoding="utf-8")
    with pytest.raises(ResultUnreadable, match="is not a JSON object"):
        folder.settings()
