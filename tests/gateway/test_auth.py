"""Keys, claims and a proxy's word, and whom they make of a caller."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import auth
from gateway.auth import NOTHING, Keys, allowed, identity_by_proxy, identity_of, presented
from gateway.config.access import APIKey, Claims
from gateway.config.decode import Hidden
from gateway.tokens import Refused
from gateway.types import Headers, Identity

FIELDS = {b"x-auth-user": "user", b"x-auth-tenant": "tenant", b"x-auth-tier": "tier", b"x-auth-models": "models"}


def digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def key(name: str, secret: str, **more: Any) -> APIKey:
    return APIKey(name=name, key_sha256=Hidden(digest(secret).hex()), **more)


# --- what is presented ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        ([], None),
        ([(b"host", b"h")], None),
        ([(b"authorization", b"Bearer abc")], (b"abc", True)),
        ([(b"authorization", b"bearer  abc ")], (b"abc", True)),
        ([(b"authorization", b"BEARER abc"), (b"x-api-key", b"k")], (b"abc", True)),
        ([(b"x-api-key", b"k")], (b"k", False)),
        ([(b"api-key", b"k")], (b"k", False)),
        ([(b"api-key", b"k"), (b"x-api-key", b"k")], (b"k", False)),
        ([(b"authorization", b"Bearer "), (b"x-api-key", b"k")], (b"k", False)),
        ([(b"authorization", b"Bearer")], None),
        ([(b"x-api-key", b"")], None),
    ],
)
def test_presented(headers: Headers, found: object) -> None:
    assert presented(headers) == found


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ([(b"authorization", b"Bearer a"), (b"authorization", b"Bearer a")], "ambiguous"),
        ([(b"x-api-key", b"a"), (b"x-api-key", b"b")], "ambiguous"),
        ([(b"x-api-key", b"a"), (b"api-key", b"b")], "ambiguous"),
        ([(b"authorization", b"Basic YTpi")], "scheme"),
        ([(b"authorization", b"sk-123")], "scheme"),
        ([(b"authorization", b"")], "scheme"),
    ],
)
def test_what_is_presented_has_to_be_clear(headers: Headers, reason: str) -> None:
    with pytest.raises(Refused, match=reason):
        presented(headers)


# --- keys -------------------------------------------------------------------------------------------------------------


def test_keys() -> None:
    keys = Keys([key("ci", "one", tenant="infra", tier="batch", models=("llama-*",)), key("b", "two", user="bob")])
    assert keys.find(digest("one")) == Identity("ci", "infra", "batch", ("llama-*",))
    assert keys.find(digest("two")) == Identity("bob")
    assert keys.find(digest("three")) is None
    assert keys.find(b"") is None
    assert digest("one").hex() not in repr(keys)


def test_digests_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []

    def compare(left: bytes, right: bytes) -> bool:
        compared.append((left, right))
        return left == right

    monkeypatch.setattr(auth.hmac, "compare_digest", compare)
    assert Keys([key("a", "one")]).find(digest("one"))
    assert compared == [(digest("one"), digest("one"))]


# --- claims -----------------------------------------------------------------------------------------------------------


def test_claims() -> None:
    claims = {"sub": "ann", "tenant": "t", "tier": "gold", "models": ["llama-*", "qwen"], "org": "o", "level": 3}
    assert identity_of(claims, Claims()) == Identity("ann", "t", "gold", ("llama-*", "qwen"))
    found = identity_of(claims, Claims(), ("level", "none", "org"), "okta:")
    assert found == Identity("okta:ann", "t", "gold", ("llama-*", "qwen"), (("level", "3"), ("org", "o")))


def test_claims_by_path() -> None:
    claims = {"sub": "u", "https://x.example/tenant": "t", "a": {"b": {"c": 7}}, "roles": ["r1", "r2"], "ok": True}
    names = Claims(user="a.b.c", tenant="https://x.example/tenant", tier="a.b.c.d", models="")
    assert identity_of(claims, names, ("roles", "ok", "a.b.c")) == Identity(
        "7", "t", "", (), (("roles", "r1 r2"), ("ok", "true"), ("a.b.c", "7"))
    )


@pytest.mark.parametrize(
    ("models", "found"),
    [
        (None, ()),
        ("llama-* qwen", ("llama-*", "qwen")),
        (["a b"], ("a b",)),
        ([], NOTHING),
        ("", NOTHING),
        ("  ", NOTHING),
        ([""], NOTHING),
    ],
)
def test_models_of_a_claim(models: object, found: tuple[str, ...]) -> None:
    assert identity_of({"sub": "u", "models": models}, Claims()).models == found


@pytest.mark.parametrize(
    "claims",
    [
        {},
        {"sub": ""},
        {"sub": None},
        {"sub": ["ann"]},
        {"sub": {"name": "ann"}},
        {"sub": True},
        {"sub": 1.5},
        {"sub": 1 << 80},
        {"sub": "x" * 257},
        {"sub": "a\nb"},
        {"sub": "a\0"},
        {"sub": "a", "tenant": ["t"]},
        {"sub": "a", "tier": {}},
        {"sub": "a", "models": 7},
        {"sub": "a", "models": {"llama": True}},
        {"sub": "a", "models": [["x"]]},
        {"sub": "a", "models": ["x"] * 257},
        {"sub": "a", "models": True},
        {"sub": "a", "kept": {"deep": 1}},
        {"sub": "a", "kept": "x" * 257},
    ],
)
def test_claims_that_cannot_be_understood_are_refused(claims: dict[str, Any]) -> None:
    with pytest.raises(Refused):
        identity_of(claims, Claims(), ("kept",))


# --- a proxy's word ---------------------------------------------------------------------------------------------------


def test_a_proxy_names_its_caller() -> None:
    said = [
        (b"x-auth-user", "zoë".encode()),
        (b"x-auth-tenant", b"t"),
        (b"x-auth-tier", b"gold"),
        (b"x-auth-models", b"a-*, b,c d"),
        (b"x-other", b"1"),
    ]
    assert identity_by_proxy(said, FIELDS) == Identity("zoë", "t", "gold", ("a-*", "b", "c", "d"))
    assert identity_by_proxy([(b"x-auth-user", b"u")], FIELDS) == Identity("u")
    assert identity_by_proxy([(b"x-auth-user", b"u"), (b"x-auth-models", b"")], FIELDS) == Identity("u", models=NOTHING)


@pytest.mark.parametrize("said", [[], [(b"x-auth-user", b"")], [(b"x-auth-tenant", b"t")], [(b"x-user", b"u")]])
def test_a_proxy_that_names_nobody(said: Headers) -> None:
    assert identity_by_proxy(said, FIELDS) is None


@pytest.mark.parametrize(
    "said",
    [
        [(b"x-auth-user", b"mallory"), (b"x-auth-user", b"ann")],
        [(b"x-auth-user", b"ann"), (b"x-auth-tier", b"a"), (b"x-auth-tier", b"b")],
        [(b"x-auth-user", b"\xff")],
        [(b"x-auth-user", b"x" * 257)],
    ],
)
def test_a_proxy_that_is_not_clear(said: Headers) -> None:
    with pytest.raises(Refused):
        identity_by_proxy(said, FIELDS)


# --- models -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("models", "model", "may"),
    [
        ((), "anything", True),
        (("*",), "anything/at:all", True),
        (("llama-*",), "llama-3", True),
        (("llama-*",), "my-llama-3", False),
        (("llama-*",), "Llama-3", False),
        (("a", "b-?"), "b-1", True),
        (("a", "b-?"), "b-12", False),
        (("a",), "a\n", False),
        (("a",), "", False),
        (NOTHING, "", False),
        (NOTHING, "anything", False),
    ],
)
def test_allowed(models: tuple[str, ...], model: str, may: bool) -> None:
    assert allowed(Identity("u", models=models), model) is may


@given(st.lists(st.text(max_size=10), min_size=1, max_size=5), st.text(max_size=10))
def test_any_pattern_compiles_and_names_fit_themselves(patterns: list[str], model: str) -> None:
    fits = allowed(Identity("u", models=tuple(patterns)), model)
    assert fits or model not in [pattern for pattern in patterns if not set(pattern) & set("*?[")]
