"""JSON Web Tokens and key sets: nothing is believed that the issuer's key has not signed. (P)

Property: a token is accepted only if it is one that was signed, its algorithm the key's own, its claims what was asked
for; whatever else is sent is Refused, or no token at all. A key set gives public keys alone, none weak, and what they
accept was not made by a public key taken for a secret. Only ValueError and Refused are raised.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import math
from contextlib import suppress
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway import tokens
from tests.gateway.issuing import ISSUER, NOW, coded

_SIGNED = json.loads((Path(__file__).parent.parent / "signed.json").read_text())
"""Public keys, and tokens signed by them; nobody has the private ones any more."""
_KEYS = tokens.key_set(json.dumps({"keys": _SIGNED["keys"]}).encode())
_MESSAGES = {token.rpartition(".")[0].encode() for token in _SIGNED["tokens"]}
_PUBLIC = [
    key.public.public_bytes(encoding, PublicFormat.SubjectPublicKeyInfo)
    for key in _KEYS
    for encoding in (Encoding.PEM, Encoding.DER)
]


def target(data: bytes) -> None:
    """First byte: a token as it is, a header and claims (divided by a zero byte) to be signed in vain, or a key set."""
    if not data:
        return
    choice, rest = data[0], data[1:]
    if choice % 3 == 0:
        _token(rest)
    elif choice % 3 == 1:
        _forged(rest, _PUBLIC[choice // 3 % len(_PUBLIC)])
    else:
        _key_set(rest)


def _token(data: bytes) -> None:
    with suppress(tokens.Refused):
        token = tokens.parse(data)
        if token is None:
            return
        assert token.issuer in (token.claims.get("iss"), "")
        _claims(token)
        key = tokens.check_signature(token, _KEYS)
        assert token.message in _MESSAGES, token.message
        assert key.algorithm == token.algorithm, token.algorithm
        assert data.startswith(token.message + b"."), data


def _claims(token: tokens.Token) -> None:
    with suppress(tokens.Refused):
        until = tokens.check_claims(token.claims, issuer=ISSUER, audiences=("gateway",), leeway=5.0, now=NOW)
        claims = token.claims
        assert claims["iss"] == ISSUER, claims
        assert claims["aud"] == "gateway" or "gateway" in claims["aud"], claims
        assert NOW < until == claims["exp"] + 5.0 < math.inf, claims


def _forged(data: bytes, secret: bytes) -> None:
    """Neither an HMAC by a public key nor an empty signature is one, whatever the header says."""
    head, _, body = data.partition(b"\0")
    message = coded(head) + b"." + coded(body)
    for signature in (b"", hmac.digest(secret, message, hashlib.sha256)):
        with suppress(tokens.Refused):
            token = tokens.parse(message + b"." + coded(signature))
            if token is not None:
                tokens.check_signature(token, _KEYS)
                raise AssertionError(f"accepted: {message!r}")


def _key_set(data: bytes) -> None:
    try:
        keys = tokens.key_set(data)
    except ValueError:
        return
    for key in keys:
        assert not hasattr(key.public, "private_bytes"), key.kid
        assert getattr(key.public, "key_size", 2048) >= (2048 if key.algorithm[:2] in ("RS", "PS") else 256), key.kid
        assert not key.algorithm.startswith(("HS", "no")), key.algorithm
        assert not key.verify(b"message", b""), key.kid
