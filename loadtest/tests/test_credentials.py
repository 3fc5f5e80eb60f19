"""Keys come from the environment or from a seldon-cli; a token is fetched when it is needed."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from loadtest import credentials
from loadtest.credentials import ALL, JS, TokenRefused, TokenSource, TokenUnreachable
from loadtest.errors import CredentialsMissing

CLI = """#!/bin/sh
case "$*" in
  *unknown*) echo "error: client unknown is not there" >&2; exit 1 ;;
  *empty*) echo "[]" ;;
  *broken*) echo "no JSON" ;;
  *"--quiet keys --client-name c --scope js") echo '[{"key": "k1", "secret": ""}]' ;;
  *"--quiet keys --client-name c --scope all") echo '[{"key": "k2", "secret": "s2"}]' ;;
  *"--scope all") echo '[{"key": "k2", "secret": ""}]' ;;
esac
"""


@pytest.fixture
def environ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A real program by the name of seldon-cli, first where it is looked for."""
    program = tmp_path / "seldon-cli"
    program.write_text(CLI)
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    return {"PATH": os.environ["PATH"]}


def test_the_command_gives_both_keys(environ: dict[str, str]) -> None:
    found = credentials.load("c", environ=environ)
    assert (found.js_key, found.oauth_key, found.oauth_secret) == ("k1", "k2", "s2")


def test_the_environment_wins(environ: dict[str, str]) -> None:
    environ |= {"SELDON_JS_KEY": "mine", "SELDON_OAUTH_KEY": "a", "SELDON_OAUTH_SECRET": "b"}
    found = credentials.load("unknown", environ=environ)
    assert (found.js_key, found.oauth_key, found.oauth_secret) == ("mine", "a", "b")


def test_a_protocol_wants_its_own_key_only(environ: dict[str, str]) -> None:
    assert credentials.load("c", (JS,), environ).oauth_key == ""
    assert credentials.load("c", (ALL,), environ).js_key == ""


@pytest.mark.parametrize(
    ("client", "sentence"),
    [
        ("unknown", "client unknown is not there; .*--action setup .* --client-name unknown"),
        (
            "empty",
            'client "empty" has no active key of scope js; create one with seldon-cli client',
        ),
        ("broken", "output of seldon-cli keys is not a JSON array"),
    ],
)
def test_a_client_without_keys_is_reported_with_the_next_step(
    environ: dict[str, str], client: str, sentence: str
) -> None:
    with pytest.raises(CredentialsMissing, match=sentence):
        credentials.load(client, environ=environ)


def test_a_secret_that_is_not_here_is_reported(environ: dict[str, str]) -> None:
    with pytest.raises(CredentialsMissing, match=r"secret of client .other. is not on") as told:
        credentials.load("other", (ALL,), environ)
    # seldon-cli refuses a change of a key of this scope without both.
    assert "--client-name other --scope all --key KEY --secret SECRET" in str(told.value)


def test_no_key_is_ever_shown() -> None:
    shown = repr(credentials.Credentials("k1", "k2", "s2"))
    assert not any(secret in shown for secret in ("k1", "k2", "s2"))


class Tokens:
    """A place where tokens are fetched, and a clock."""

    now_s = 0.0
    fetched = 0
    refuse = False

    def fetch(self) -> tuple[str, float]:
        if self.refuse:
            raise TokenRefused("no")
        self.fetched += 1
        return f"t{self.fetched}", 600.0

    def source(self) -> TokenSource:
        return TokenSource(self.fetch, lambda: self.now_s)


def test_a_token_is_fetched_once_until_shortly_before_it_expires() -> None:
    tokens = Tokens()
    source = tokens.source()
    assert [source.current() for _ in range(3)] == ["t1"] * 3
    tokens.now_s = 539
    assert source.current() == "t1"
    tokens.now_s = 541
    assert source.current() == "t2"


def test_a_refused_token_is_replaced_once() -> None:
    source = Tokens().source()
    first = source.current()
    assert [source.renew(first) for _ in range(3)] == ["t2"] * 3


def test_the_old_token_serves_while_no_new_one_is_to_be_had() -> None:
    tokens = Tokens()
    source = tokens.source()
    source.current()
    tokens.now_s, tokens.refuse = 541, True
    assert source.current() == "t1"


def test_tokens_are_fetched_from_the_gateway(start_stub: Callable[..., object]) -> None:
    endpoint = f"http://127.0.0.1:{start_stub('http_stub').port}"  # type: ignore[attr-defined]
    keys = credentials.Credentials("", "all-key", "all-secret")
    assert credentials.fetch_token(endpoint, keys) == ("token-1", 6000)
    wrong = credentials.Credentials("", "all-key", "other-secret")
    with pytest.raises(TokenRefused, match="Consumer secret not correct"):
        credentials.fetch_token(endpoint, wrong)
    with pytest.raises(TokenUnreachable) as unreachable:
        credentials.fetch_token("http://127.0.0.1:1", wrong)
    assert "other-secret" not in str(unreachable.value)
