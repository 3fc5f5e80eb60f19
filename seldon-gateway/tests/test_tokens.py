import base64
import json
import multiprocessing
import stat
import threading
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from seldon_gateway import tokens
from seldon_gateway.tokens import TokenIssuer


def verified(token: str, issuer: TokenIssuer) -> dict[str, Any]:
    """As someone would who knows the public key set only."""
    keys = jwt.PyJWKSet.from_dict(issuer.jwks())
    key = keys[jwt.get_unverified_header(token)["kid"]]
    claims: dict[str, Any] = jwt.decode(
        token, key, [tokens.ALGORITHM], audience=tokens.AUDIENCE, issuer=tokens.ISSUER
    )
    return claims


def test_the_public_key_set_verifies_a_token(tmp_path: Path) -> None:
    issuer = TokenIssuer.load(tmp_path, 60)
    before = int(time.time())
    claims = verified(issuer.issue("KEY", "acme", "all"), issuer)
    assert (claims["sub"], claims["client"], claims["scope"]) == ("KEY", "acme", "all")
    assert before <= claims["iat"] <= time.time()
    assert claims["exp"] == claims["iat"] + 60


def test_no_two_tokens_are_the_same(tmp_path: Path) -> None:
    issuer = TokenIssuer.load(tmp_path, 60)
    assert issuer.issue("KEY", "acme", "all") != issuer.issue("KEY", "acme", "all")


def test_a_token_of_another_key_is_not_verified(tmp_path: Path) -> None:
    ours, other = TokenIssuer.load(tmp_path / "a", 60), TokenIssuer.load(tmp_path / "b", 60)
    assert ours.key_id != other.key_id
    with pytest.raises(KeyError):
        verified(other.issue("KEY", "acme", "all"), ours)


def test_a_token_ends_with_its_time(tmp_path: Path) -> None:
    issuer = TokenIssuer(TokenIssuer.load(tmp_path, 60).key, -5)
    with pytest.raises(jwt.ExpiredSignatureError):
        verified(issuer.issue("KEY", "acme", "all"), issuer)


def test_the_public_key_set_holds_nothing_private(tmp_path: Path) -> None:
    [key] = TokenIssuer.load(tmp_path, 60).jwks()["keys"]
    assert set(key) == {"kty", "crv", "x", "y", "use", "alg", "kid"}
    assert all(len(base64.urlsafe_b64decode(key[part] + "==")) == 32 for part in ("x", "y"))
    json.dumps(key)


def test_the_key_is_its_owners_alone_and_stays(tmp_path: Path) -> None:
    first = TokenIssuer.load(tmp_path, 60)
    assert stat.S_IMODE((tmp_path / tokens.KEY_FILE).stat().st_mode) == 0o600
    assert TokenIssuer.load(tmp_path, 60).key_id == first.key_id
    assert [path.name for path in tmp_path.iterdir()] == [tokens.KEY_FILE]


def test_a_home_that_is_not_there_is_made(tmp_path: Path) -> None:
    TokenIssuer.load(tmp_path / "deep" / "home", 60)
    assert (tmp_path / "deep" / "home" / tokens.KEY_FILE).exists()


def test_a_key_of_another_kind_is_refused(tmp_path: Path) -> None:
    pem = rsa.generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    (tmp_path / tokens.KEY_FILE).write_bytes(pem)
    with pytest.raises(TypeError, match="not hold an elliptic curve key"):
        TokenIssuer.load(tmp_path, 60)


def test_threads_that_make_the_key_at_once_agree(tmp_path: Path) -> None:
    start = threading.Barrier(8)
    found: list[str] = []

    def load() -> None:
        start.wait()
        found.append(TokenIssuer.load(tmp_path, 60).key_id)

    threads = [threading.Thread(target=load) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1


def _load_in_process(home: Path, start: Any, found: Any) -> None:
    start.wait()
    found.put(TokenIssuer.load(home, 60).key_id)


def test_processes_that_make_the_key_at_once_agree(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    start, found = context.Barrier(4), context.SimpleQueue()
    processes = [
        context.Process(target=_load_in_process, args=(tmp_path, start, found)) for _ in range(4)
    ]
    for process in processes:
        process.start()
    key_ids = {found.get() for _ in processes}
    for process in processes:
        process.join()
    assert len(key_ids) == 1
