"""Which peers are believed, and whose address stands behind them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.access import IdentityHeaders, TrustedProxies
from gateway.proxies import Proxies, address, place

PROXIES = Proxies(
    TrustedProxies(cidrs=("10.0.0.0/8", "2001:db8::/32", "::ffff:192.168.0.0/112"), subjects=("spiffe://a/lb",))
)


@pytest.mark.parametrize(
    ("peer", "subject", "trusted"),
    [
        ("10.1.2.3", "", True),
        ("::ffff:10.1.2.3", "", True),
        ("::ffff:a01:203", "", True),
        ("192.168.4.4", "", True),
        ("::ffff:192.168.4.4", "", True),
        ("192.169.0.1", "", False),
        ("11.0.0.1", "", False),
        ("::ffff:11.0.0.1", "", False),
        ("2001:db8::1", "", True),
        ("2001:db8::1%eth0", "", True),
        ("2001:db9::1", "", False),
        ("", "", False),
        ("proxy", "", False),
        ("11.0.0.1", "spiffe://a/lb", True),
        ("", "spiffe://a/lb", True),
        ("11.0.0.1", "spiffe://a/lb2", False),
        ("11.0.0.1", "SPIFFE://a/lb", False),
    ],
)
def test_who_is_trusted(peer: str, subject: str, trusted: bool) -> None:
    assert PROXIES.trusts(address(peer), subject) is trusted


def test_without_subjects_no_name_helps() -> None:
    assert not Proxies(TrustedProxies(cidrs=("10.0.0.0/8",))).trusts(None, "")


@pytest.mark.parametrize(
    ("fields", "behind"),
    [
        ([], None),
        ([b"203.0.113.9"], "203.0.113.9"),
        ([b"1.1.1.1, 203.0.113.9"], "203.0.113.9"),
        ([b"1.1.1.1, 203.0.113.9, 10.0.0.7"], "203.0.113.9"),
        ([b"1.1.1.1", b"203.0.113.9", b"10.0.0.7,10.0.0.8"], "203.0.113.9"),
        ([b"10.0.0.7, 10.0.0.8"], "10.0.0.7"),
        ([b"203.0.113.9, unknown"], None),
        ([b"203.0.113.9, "], None),
        ([b"unknown, 203.0.113.9"], "203.0.113.9"),
        ([b"203.0.113.9:4711"], "203.0.113.9"),
        ([b"[2001:db9::1]:4711"], "2001:db9::1"),
        ([b"2001:db9::1"], "2001:db9::1"),
        ([b"::ffff:203.0.113.9"], "203.0.113.9"),
        ([b"\xff\xfe"], None),
    ],
)
def test_whom_a_proxy_forwards_for(fields: list[bytes], behind: str | None) -> None:
    found = PROXIES.behind([(b"x-forwarded-for", field) for field in fields])
    assert found == (None if behind is None else address(behind))


def test_a_long_way_is_followed_in_part() -> None:
    hops = b",".join([b"203.0.113.9"] + [b"10.0.0.1"] * 10_000)
    assert PROXIES.behind([(b"x-forwarded-for", hops)]) == address("10.0.0.1")


@given(st.text(max_size=60))
def test_no_text_is_too_much(text: str) -> None:
    PROXIES.behind([(b"x-forwarded-for", text.encode())])
    assert address(text) is None or place(address(text))  # type: ignore[arg-type]


def test_places() -> None:
    assert [place(found) for text in ("203.0.113.9", "2001:db8:1:2:3:4:5:6", "::1") if (found := address(text))] == [
        "203.0.113.9",
        "2001:db8:1:2::/64",
        "::/64",
    ]


def test_fields() -> None:
    named = Proxies(TrustedProxies(cidrs=("10.0.0.0/8",), headers=IdentityHeaders(user="X-User", tier="X-Tier")))
    assert named.fields == {
        b"x-user": "user",
        b"x-auth-tenant": "tenant",
        b"x-tier": "tier",
        b"x-auth-models": "models",
    }
