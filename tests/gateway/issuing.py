"""An issuer's side of tokens: keys of every kind, key sets, and tokens that are right or wrong in one way."""

from __future__ import annotations

import base64
import json
from functools import cache
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import get_default_algorithms

NOW = 1_800_000_000.0
ISSUER = "https://issuer.example.com"
CLAIMS: dict[str, Any] = {"iss": ISSUER, "aud": "gateway", "sub": "ann", "exp": NOW + 3600, "iat": NOW}


@cache
def private(algorithm: str, serial: str = "", bits: int = 2048) -> Any:
    """A key of its own for every ``serial``."""
    curves = {"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1(), "ES512": ec.SECP521R1()}
    if algorithm in curves:
        return ec.generate_private_key(curves[algorithm])
    if algorithm == "EdDSA":
        return ed25519.Ed25519PrivateKey.generate()
    return rsa.generate_private_key(65537, bits)


class Signer:
    """One key of an issuer."""

    def __init__(self, kid: str = "k1", algorithm: str = "ES256", serial: str = "") -> None:
        self.kid = kid
        self.algorithm = algorithm
        self.private = private(algorithm if not algorithm.startswith(("RS", "PS")) else "RSA", serial)

    def jwk(self, **changes: object) -> dict[str, Any]:
        made = get_default_algorithms()[self.algorithm].to_jwk(self.private.public_key(), as_dict=True)
        made = {**made, "kid": self.kid, "alg": self.algorithm, "use": "sig", **changes}
        return {name: value for name, value in made.items() if value is not None}

    def token(self, header: dict[str, Any] | None = None, **claims: object) -> bytes:
        """A token with the usual claims; None leaves one out."""
        body = {name: value for name, value in {**CLAIMS, **claims}.items() if value is not None}
        return self.signed(header or {}, json.dumps(body).encode())

    def signed(self, header: dict[str, Any], payload: bytes) -> bytes:
        head = {"alg": self.algorithm, "kid": self.kid, "typ": "JWT", **header}
        message = b".".join(
            (coded(json.dumps({k: v for k, v in head.items() if v is not None}).encode()), coded(payload))
        )
        return message + b"." + coded(get_default_algorithms()[self.algorithm].sign(message, self.private))


def coded(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def key_set(*keys: object) -> bytes:
    return json.dumps({"keys": keys}).encode()


def bearer(token: bytes) -> list[tuple[bytes, bytes]]:
    return [(b"authorization", b"Bearer " + token)]
