"""Access tokens: short-lived JWTs, signed with ES256 by a key that stays on this machine."""

import hashlib
import os
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

ISSUER = "seldon-gateway"
AUDIENCE = "seldon-predictions"
ALGORITHM = "ES256"
KEY_FILE = "signing-key.pem"


@dataclass(frozen=True)
class TokenIssuer:
    """Signs tokens; Envoy checks them with `jwks`."""

    key: ec.EllipticCurvePrivateKey
    ttl_s: int

    @classmethod
    def load(cls, home: Path, ttl_s: int) -> "TokenIssuer":
        """Read the signing key in `home`, made there on first use, readable by its owner alone."""
        path = home / KEY_FILE
        if not path.exists():
            _create(path)
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise TypeError(f"{path} does not hold an elliptic curve key")
        return cls(key, ttl_s)

    @property
    def key_id(self) -> str:
        """Names the public key in tokens and in the key set."""
        public = self.key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return hashlib.sha256(public).hexdigest()[:16]

    def issue(self, consumer_key: str, client: str, scope: str) -> str:
        """Issue a token for a consumer, valid for `ttl_s` seconds.

        The subject is the consumer key, not the client, so that removing a key revokes its
        tokens.
        """
        now = int(time.time())
        claims = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": consumer_key,
            "client": client,
            "scope": scope,
            "iat": now,
            "exp": now + self.ttl_s,
            "jti": secrets.token_hex(8),
        }
        return jwt.encode(claims, self.key, ALGORITHM, headers={"kid": self.key_id})

    def jwks(self) -> dict[str, Any]:
        """The JSON Web Key Set that /.well-known/jwks.json returns."""
        public: dict[str, Any] = ECAlgorithm.to_jwk(self.key.public_key(), as_dict=True)
        return {"keys": [{**public, "use": "sig", "alg": ALGORITHM, "kid": self.key_id}]}


def new_key_pem() -> str:
    """A fresh signing key, as KEY_FILE holds it."""
    pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return pem.decode()


def _create(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pem = new_key_pem().encode()
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(pem)
    try:
        os.link(temporary, path)  # fails when another process was first: its key is the one
    except FileExistsError:
        pass
    finally:
        temporary.unlink()
