import stat
from pathlib import Path

from seldon_gateway.operator_secrets import OperatorSecrets


def test_a_stored_secret_is_found_by_client_and_key(tmp_path: Path) -> None:
    secrets = OperatorSecrets(tmp_path / "secrets")
    secrets.store("acme", "KEY", "first")
    secrets.store("acme", "OTHER", "second")
    assert secrets.find("acme", "KEY") == "first"
    assert secrets.find("acme", "OTHER") == "second"
    assert secrets.find("acme", "UNKNOWN") == ""
    assert secrets.find("other", "KEY") == ""


def test_a_newer_secret_takes_the_olders_place(tmp_path: Path) -> None:
    secrets = OperatorSecrets(tmp_path)
    secrets.store("acme", "KEY", "old")
    secrets.store("acme", "KEY", "new")
    assert secrets.find("acme", "KEY") == "new"


def test_secrets_are_their_owners_alone(tmp_path: Path) -> None:
    OperatorSecrets(tmp_path / "secrets").store("acme", "KEY", "secret")
    assert stat.S_IMODE((tmp_path / "secrets").stat().st_mode) == 0o700
    [file] = (tmp_path / "secrets").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_forgotten_client_leaves_no_file(tmp_path: Path) -> None:
    secrets = OperatorSecrets(tmp_path)
    secrets.store("acme", "KEY", "secret")
    secrets.forget("acme")
    secrets.forget("acme")
    assert secrets.find("acme", "KEY") == ""
    assert list(tmp_path.iterdir()) == []


def test_a_broken_file_is_as_good_as_none(tmp_path: Path) -> None:
    (tmp_path / "acme.json").write_text("{")
    secrets = OperatorSecrets(tmp_path)
    assert secrets.find("acme", "KEY") == ""
    secrets.store("acme", "KEY", "secret")
    assert secrets.find("acme", "KEY") == "secret"
