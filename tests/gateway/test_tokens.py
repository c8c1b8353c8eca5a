"""Tokens and keys: what is believed, and everything else that could be tried."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given
from hypothesis import strategies as st
from jwt.algorithms import RSAAlgorithm, get_default_algorithms

from gateway import tokens
from gateway.tokens import Key, Refused, UnknownKey, check_claims, check_signature, parse
from tests.gateway.issuing import CLAIMS, ISSUER, NOW, Signer, coded, key_set

ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
SIGNER = Signer()
KEYS = tokens.key_set(key_set(SIGNER.jwk()))


def judged(token: bytes, keys: tuple[Key, ...] = KEYS, now: float = NOW, leeway: float = 60) -> dict[str, Any]:
    """The claims of a token that is good."""
    parsed = parse(token)
    assert parsed is not None
    check_claims(parsed.claims, issuer=ISSUER, audiences=("gateway", "other"), leeway=leeway, now=now)
    check_signature(parsed, keys)
    return parsed.claims


def reason(token: bytes, **options: Any) -> str:
    with pytest.raises(Refused) as caught:
        judged(token, **options)
    return caught.value.reason


# --- good ones --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_asymmetric_algorithm(algorithm: str) -> None:
    signer = Signer(algorithm=algorithm)
    keys = tokens.key_set(key_set(signer.jwk()))
    assert judged(signer.token(), keys) == CLAIMS
    head, _, signature = signer.token().rpartition(b".")
    other = coded(bytes(64)) if len(signature) < 100 else coded(bytes(256))
    assert reason(head + b"." + other, keys=keys) == "signature"


@pytest.mark.parametrize("audience", ["gateway", ["x", "other"], ["gateway"]])
def test_any_of_the_audiences(audience: object) -> None:
    assert judged(SIGNER.token(aud=audience))["aud"] == audience


@pytest.mark.parametrize("kind", ["JWT", "jwt", "at+jwt", "application/at+jwt", None])
def test_types_of_access_tokens(kind: str | None) -> None:
    assert judged(SIGNER.token({"typ": kind}))


def test_a_header_may_be_written_over_several_lines() -> None:
    header = coded(b'{\n  "alg": "ES256",\r\n\t"kid": "k1"\n}')
    message = header + b"." + coded(json.dumps(CLAIMS).encode())
    signature = get_default_algorithms()["ES256"].sign(message, SIGNER.private)
    assert judged(message + b"." + coded(signature))


def test_a_key_without_algorithm_has_that_of_its_kind() -> None:
    for algorithm in ("RS256", "ES384", "EdDSA"):
        signer = Signer(algorithm=algorithm)
        assert judged(signer.token(), tokens.key_set(key_set(signer.jwk(alg=None))))
    pss = Signer(algorithm="PS256")
    assert reason(pss.token(), keys=tokens.key_set(key_set(pss.jwk(alg=None)))) == "algorithm"


def test_a_token_without_key_id_is_tried_with_the_keys_of_its_algorithm() -> None:
    other = Signer("k2", serial="2")
    keys = tokens.key_set(key_set(other.jwk(), SIGNER.jwk()))
    assert judged(SIGNER.token({"kid": None}), keys)
    with pytest.raises(UnknownKey):
        judged(Signer("k3", serial="3").token({"kid": None}), keys)


# --- forged ones ------------------------------------------------------------------------------------------------------


def with_hmac(header: dict[str, Any], secret: bytes) -> bytes:
    """A token signed with what is public: the key's own bytes as the secret of an HMAC."""
    message = (
        coded(json.dumps({"alg": "HS256", "kid": "k1", **header}).encode()) + b"." + coded(json.dumps(CLAIMS).encode())
    )
    return message + b"." + coded(hmac.digest(secret, message, hashlib.sha256))


def test_the_public_key_is_no_secret() -> None:
    signer = Signer(algorithm="RS256")
    public = signer.private.public_key()
    keys = tokens.key_set(key_set(signer.jwk()))
    for encoding in (serialization.Encoding.PEM, serialization.Encoding.DER):
        secret = public.public_bytes(encoding, serialization.PublicFormat.SubjectPublicKeyInfo)
        assert reason(with_hmac({}, secret), keys=keys) == "algorithm"
    assert reason(with_hmac({}, json.dumps(signer.jwk()).encode()), keys=keys) == "algorithm"


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "nOnE", "", "HS256", "HS512", "ES256K", "RSA1_5", "dir"])
@pytest.mark.parametrize("signature", [b"", b"AAAA"])
def test_no_other_algorithm_is_believed(algorithm: str, signature: bytes) -> None:
    message, _, _ = SIGNER.token({"alg": algorithm}).rpartition(b".")
    assert reason(message + b"." + signature) == "algorithm"


def test_the_key_says_which_algorithm() -> None:
    signer = Signer(algorithm="PS256")
    keys = tokens.key_set(key_set(signer.jwk(alg="RS256")))
    assert reason(signer.token(), keys=keys) == "algorithm"
    assert reason(signer.token({"alg": "RS256"}), keys=keys) == "signature"


def test_keys_that_a_token_brings_along_are_not_looked_at() -> None:
    thief = Signer(serial="thief")
    brought = {"jwk": thief.jwk(), "jku": "https://thief.example.com/jwks", "x5u": "https://thief.example.com/c"}
    assert reason(thief.token(brought)) == "signature"
    assert judged(SIGNER.token(brought))


@pytest.mark.parametrize("header", [{"crit": ["exp"]}, {"crit": []}, {"b64": False}, {"b64": True, "crit": ["b64"]}])
def test_nothing_critical_is_understood(header: dict[str, Any]) -> None:
    assert reason(SIGNER.token(header)) == "critical"


@pytest.mark.parametrize("kind", ["logout+jwt", "secevent+jwt", "dpop+jwt", "id_token", "x"])
def test_tokens_for_other_purposes(kind: str) -> None:
    assert reason(SIGNER.token({"typ": kind})) == "type"


@pytest.mark.parametrize(
    ("claims", "why"),
    [
        ({"iss": "https://issuer.example.com/"}, "issuer"),
        ({"iss": None}, "issuer"),
        ({"iss": [ISSUER]}, "issuer"),
        ({"aud": "gateway2"}, "audience"),
        ({"aud": None}, "audience"),
        ({"aud": []}, "audience"),
        ({"aud": {"gateway": 1}}, "audience"),
        ({"aud": [["gateway"], 7]}, "audience"),
        ({"exp": None}, "lifetime"),
        ({"exp": str(NOW + 60)}, "lifetime"),
        ({"exp": True}, "lifetime"),
        ({"exp": 10**400}, "lifetime"),
        ({"exp": -1}, "lifetime"),
        ({"exp": [NOW + 60]}, "lifetime"),
        ({"exp": NOW - 60}, "expired"),
        ({"exp": 0}, "expired"),
        ({"nbf": NOW + 61}, "early"),
        ({"iat": NOW + 61}, "early"),
        ({"nbf": "soon"}, "lifetime"),
        ({"iat": {}}, "lifetime"),
    ],
)
def test_claims_that_do_not_hold(claims: dict[str, Any], why: str) -> None:
    assert reason(SIGNER.token(**claims)) == why


def test_leeway() -> None:
    assert judged(SIGNER.token(exp=NOW - 59, nbf=NOW + 59, iat=NOW + 60))
    assert reason(SIGNER.token(exp=NOW - 59), leeway=30) == "expired"


def test_an_unknown_key_may_be_in_a_newer_set() -> None:
    with pytest.raises(UnknownKey):
        judged(Signer("k9").token())


@pytest.mark.parametrize(
    "token",
    [b"opaque", b"", b"a.b", b"a.b.c", b"sk-a.b.c", b"ey.a.b.c", b"ey", b"a" * 100_000, b"..", b"\xff.."],
)
def test_what_is_no_jwt(token: bytes) -> None:
    assert parse(token) is None


def test_oversized_tokens_are_not_decoded() -> None:
    assert reason(SIGNER.token(pad="x" * tokens.MAX_TOKEN)) == "oversized"
    assert reason(b"ey" + b"a" * tokens.MAX_TOKEN + b"..") == "oversized"
    assert judged(SIGNER.token(pad="x" * 10_000))


def test_deep_nesting_is_refused() -> None:
    for depth in (1_000, 5_000):
        deep = b'{"a":' + b"[" * depth + b"]" * depth + b"}"
        assert reason(SIGNER.signed({}, deep)) in ("malformed", "issuer")
        assert reason(coded(deep) + b"." + coded(b"{}") + b".") == "malformed"


@pytest.mark.parametrize("payload", [b"", b"[]", b'"x"', b"{", b"\xff", b"null", b"{}{}", b'{"exp": NaN}'])
def test_payloads_that_are_no_claims(payload: bytes) -> None:
    assert reason(SIGNER.signed({}, payload)) == "malformed"


def test_only_canonical_base64url() -> None:
    head, body, tail = SIGNER.token().split(b".")
    for changed in (tail + b"=", tail + b"==", tail[:-1] + b"+", b" " + tail, tail[:5] + b"\n" + tail[5:], tail + b"!"):
        assert reason(b".".join((head, body, changed))) == "malformed"


@given(st.data())
def test_no_change_of_a_token_is_good(data: st.DataObject) -> None:
    token = SIGNER.token()
    at = data.draw(st.integers(0, len(token) - 1))
    other = data.draw(st.integers(0, 255).filter(lambda byte: byte != token[at]))
    changed = token[:at] + bytes([other]) + token[at + 1 :]
    with contextlib.suppress(Refused):
        assert parse(changed) is None or not judged(changed)


@given(st.binary(max_size=200), st.binary(max_size=200), st.binary(max_size=80))
def test_rubbish_is_refused_and_nothing_else(head: bytes, body: bytes, tail: bytes) -> None:
    for token in (b".".join((coded(head), coded(body), coded(tail))), b"ey" + b".".join((head, body, tail))):
        with contextlib.suppress(Refused):
            assert parse(token) is None or not judged(token)


def test_a_token_does_not_show_itself() -> None:
    assert "ann" not in repr(parse(SIGNER.token()))


# --- key sets ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"keys": {}}', b'{"keys": []}', b"<html>", b"\xff", b"[" * 5000])
def test_what_is_no_key_set(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"JSON|JWK|no key"):
        tokens.key_set(body)


@pytest.mark.parametrize(
    "changes",
    [
        {"use": "enc"},
        {"key_ops": ["sign"]},
        {"key_ops": 7},
        {"alg": "RS256"},
        {"alg": "none"},
        {"alg": "HS256"},
        {"alg": 7},
        {"kty": "oct", "k": "c2VjcmV0"},
        {"kty": ["EC"]},
        {"kty": None},
        {"crv": "secp256k1", "alg": None},
        {"crv": "P-384"},
        {"x": "AAAA"},
        {"x": 5},
        {"y": None},
        {"kid": 5},
    ],
)
def test_keys_of_no_use_are_passed_over(changes: dict[str, Any]) -> None:
    bad = {**SIGNER.jwk(), **changes}
    bad = {name: value for name, value in bad.items() if value is not None}
    with pytest.raises(ValueError, match="no key"):
        tokens.key_set(key_set(bad))
    assert len(tokens.key_set(key_set(bad, "x", SIGNER.jwk()))) == 1


def test_rsa_keys_are_neither_weak_nor_a_burden() -> None:
    weak = RSAAlgorithm.to_jwk(rsa.generate_private_key(65537, 1024).public_key(), as_dict=True)
    sound = Signer(algorithm="RS256").jwk()
    slow = {**sound, "e": coded(b"\x01" + bytes(127) + b"\x01").decode()}
    long = {**sound, "n": coded(b"\xff" * 2048).decode()}
    for bad in (weak, slow, long):
        with pytest.raises(ValueError, match="no key"):
            tokens.key_set(key_set(bad))


def test_the_secret_part_of_a_key_is_not_kept() -> None:
    signer = Signer(algorithm="RS256")
    whole = {**RSAAlgorithm.to_jwk(signer.private, as_dict=True), "kid": "k1", "key_ops": ["sign", "verify"]}
    assert "d" in whole
    (key,) = tokens.key_set(key_set(whole))
    assert not hasattr(key.public, "private_numbers")
    assert judged(signer.token(), (key,))


def test_a_long_set_is_read_in_part() -> None:
    many = [SIGNER.jwk(kid=f"k{number}") for number in range(tokens.MAX_KEYS + 10)]
    assert len(tokens.key_set(key_set(*many))) == tokens.MAX_KEYS
