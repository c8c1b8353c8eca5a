"""JSON Web Tokens and the keys they are judged by: RFC 7515, 7517, 7519, with the advice of RFC 8725. (P)

Invariant: what a token says of itself never widens what is accepted. The algorithm is the key's, key references in the
header (jwk, jku, x5c, x5u) are not looked at, and every fault is the same `Refused` to whoever sent the token.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

MAX_TOKEN: Final = 16 * 1024
"""Bytes of a token; a larger one is not looked at."""
MAX_KEYS: Final = 64
_MAX_HEADER: Final = 4 * 1024
_TRIES: Final = 4
_TYPES: Final = frozenset({"", "jwt", "at+jwt", "application/at+jwt"})
"""A token made for another purpose under the same key says so here (RFC 8725 §3.11): logout+jwt, secevent+jwt, …"""
_MEMBERS: Final[Mapping[str, tuple[str, ...]]] = {"RSA": ("n", "e"), "EC": ("crv", "x", "y"), "OKP": ("crv", "x")}
_RSA: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
_CURVES: Final[Mapping[tuple[str, str], str]] = {
    ("EC", "P-256"): "ES256",
    ("EC", "P-384"): "ES384",
    ("EC", "P-521"): "ES512",
    ("OKP", "Ed25519"): "EdDSA",
}
_ALGORITHMS: Final = frozenset({*_RSA, *_CURVES.values()})
_RSA_BITS: Final = range(2048, 8193)
_EXPONENT_MAX: Final = 1 << 32
_TIME_MAX: Final = 1e12


class Refused(Exception):
    """Credentials that are not believed. ``reason`` is one of a few constants, for metrics; callers never see it."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class UnknownKey(Refused):
    """Signed, it says, with a key that is not in the set: a newer set may have it."""


class Key(msgspec.Struct, frozen=True, eq=False):
    """One public key of a set. ``id`` sums up what it is made of; ``kid`` is what its issuer calls it."""

    kid: str
    algorithm: str
    id: bytes
    public: Any
    verifier: Any

    def verify(self, message: bytes, signature: bytes) -> bool:
        return bool(self.verifier.verify(message, self.public, signature))


class Token(msgspec.Struct, frozen=True):
    """A token taken apart; nothing of it has been verified."""

    algorithm: str
    kid: str
    claims: dict[str, Any]
    message: bytes
    signature: bytes

    def __repr__(self) -> str:
        return "Token(…)"

    @property
    def issuer(self) -> str:
        issuer = self.claims.get("iss")
        return issuer if isinstance(issuer, str) else ""


class _JWK(msgspec.Struct):
    """Public members only: the secret part of a key that should not be there is not even read."""

    kty: str
    kid: str = ""
    use: str = "sig"
    key_ops: tuple[str, ...] = ("verify",)
    alg: str | None = None
    n: str = ""
    e: str = ""
    crv: str = ""
    x: str = ""
    y: str = ""


class _Header(msgspec.Struct):
    alg: str
    kid: str = ""
    typ: str = ""
    crit: Any = None
    b64: Any = None


# --- keys -------------------------------------------------------------------------------------------------------------


def key_set(body: bytes) -> tuple[Key, ...]:
    """The keys of a JWK Set that can verify signatures. Raises ValueError for what is none, or has none of use."""
    try:
        tree = msgspec.json.decode(body)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        raise ValueError("not JSON") from None
    listed = tree.get("keys") if isinstance(tree, dict) else None
    if not isinstance(listed, list):
        raise ValueError("not a JWK Set: no array of keys")
    keys = [key for key in map(_key, listed[:MAX_KEYS]) if key is not None]
    if not keys:
        raise ValueError("no key in the set can verify signatures")
    return tuple(keys)


def _key(listed: object) -> Key | None:
    """None for what is of no use here: keys for other purposes, symmetric ones, weak ones, unknown kinds."""
    try:
        jwk = msgspec.convert(listed, _JWK)
    except msgspec.ValidationError:
        return None
    algorithm = _algorithm(jwk)
    if jwk.use != "sig" or "verify" not in jwk.key_ops or not algorithm:
        return None
    from jwt.algorithms import get_default_algorithms  # 60 ms that only who is asked for tokens spends
    from jwt.exceptions import PyJWTError

    verifier = get_default_algorithms()[algorithm]
    members = {name: getattr(jwk, name) for name in ("kty", *_MEMBERS[jwk.kty])}
    try:
        public = verifier.from_jwk(members)
    except (PyJWTError, ValueError, TypeError):
        return None
    if jwk.kty == "RSA" and not _is_sane(public):
        return None
    return Key(jwk.kid, algorithm, msgspec.json.encode([algorithm, jwk.kid, members]), public, verifier)


def _algorithm(jwk: _JWK) -> str:
    """The only one this key verifies: what it says, if it fits; RS256 of an RSA key that says nothing."""
    if jwk.kty == "RSA":
        return jwk.alg if jwk.alg in _RSA else "RS256" if jwk.alg is None else ""
    fitting = _CURVES.get((jwk.kty, jwk.crv), "")
    return fitting if jwk.alg in (None, fitting) else ""


def _is_sane(public: Any) -> bool:
    """Neither too short to be safe nor so long that every check is a burden."""
    return public.key_size in _RSA_BITS and public.public_numbers().e < _EXPONENT_MAX


# --- tokens -----------------------------------------------------------------------------------------------------------


def parse(token: bytes) -> Token | None:
    """The token taken apart; None for what is no signed JWT at all (it may be an opaque one). Raises Refused."""
    if token.count(b".") != 2 or not token.startswith(b"e"):  # what "{" becomes
        return None
    if len(token) > MAX_TOKEN:
        raise Refused("oversized")
    head, body, tail = token.split(b".")
    if len(head) > _MAX_HEADER:
        raise Refused("malformed")
    try:
        header = _HEADER.decode(_decoded(head))
        claims = msgspec.json.decode(_decoded(body), type=dict[str, Any])
        signature = _decoded(tail)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError, binascii.Error, ValueError):
        raise Refused("malformed") from None
    if header.alg not in _ALGORITHMS:
        raise Refused("algorithm")
    if header.crit is not None or header.b64 is not None:
        raise Refused("critical")  # nothing that may be critical is understood (RFC 7515 §4.1.11)
    if header.typ.lower() not in _TYPES:
        raise Refused("type")
    return Token(header.alg, header.kid, claims, token[: len(head) + 1 + len(body)], signature)


_HEADER: Final = msgspec.json.Decoder(_Header)


def _decoded(segment: bytes) -> bytes:
    """Base64url as RFC 7515 has it, in its one canonical form. Raises ValueError."""
    made = base64.urlsafe_b64decode(segment + b"=" * (-len(segment) % 4))
    if base64.urlsafe_b64encode(made).rstrip(b"=") != segment:
        raise ValueError("not base64url")
    return made


def check_claims(
    claims: Mapping[str, Any], *, issuer: str, audiences: Sequence[str], leeway: float, now: float
) -> float:
    """When claims stop being good (seconds since the epoch, leeway included). Raises Refused.

    ``issuer`` "" is not compared (an introspected token may do without); ``audiences``: one of them has to be meant.
    """
    if issuer and claims.get("iss") != issuer:
        raise Refused("issuer")
    if audiences and not _meant(claims.get("aud"), audiences):
        raise Refused("audience")
    expires = _time(claims, "exp")
    if expires is None:
        raise Refused("lifetime")
    if expires + leeway <= now:
        raise Refused("expired")
    for name in ("nbf", "iat"):
        begins = _time(claims, name)
        if begins is not None and begins - leeway > now:
            raise Refused("early")
    return expires + leeway


def check_signature(token: Token, keys: Iterable[Key]) -> Key:
    """The key that signed it. Raises Refused, `UnknownKey` where a newer set could tell otherwise."""
    named = [key for key in keys if not token.kid or key.kid == token.kid]
    fitting = [key for key in named if key.algorithm == token.algorithm]
    for key in fitting[:_TRIES]:
        if key.verify(token.message, token.signature):
            return key
    if not token.kid or not named:
        raise UnknownKey("key")
    raise Refused("signature" if fitting else "algorithm")


def _meant(audience: object, wanted: Sequence[str]) -> bool:
    found = audience if isinstance(audience, list) else [audience]
    return any(isinstance(name, str) and name in wanted for name in found)


def _time(claims: Mapping[str, Any], name: str) -> float | None:
    """A NumericDate; None where there is none. Raises Refused for anything else."""
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < _TIME_MAX:
        raise Refused("lifetime")
    return float(value)
