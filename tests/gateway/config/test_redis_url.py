"""URLs of Redis: what each form means, and that none is ever quoted."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.config.redis_url import SCHEMES, Address, parse


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://h", Address("single", hosts=(("h", 6379),))),
        ("redis://h:1/3", Address("single", hosts=(("h", 1),), database=3)),
        ("rediss://[::1]:7/", Address("single", tls=True, hosts=(("::1", 7),))),
        ("redis://:p%40ss@h", Address("single", hosts=(("h", 6379),), password="p@ss")),
        ("redis://u:p:w@h", Address("single", hosts=(("h", 6379),), username="u", password="p:w")),
        ("redis://u:p/w@h/1", Address("single", hosts=(("h", 6379),), username="u", password="p/w", database=1)),
        ("unix:///run/r.sock?db=2", Address("unix", path="/run/r.sock", database=2)),
        ("unix://u:p@/run/r.sock", Address("unix", path="/run/r.sock", username="u", password="p")),
        (
            "redis+sentinel://u:p@a,b:2/main/1",
            Address(
                "sentinel",
                hosts=(("a", 26379), ("b", 2)),
                service="main",
                database=1,
                username="u",
                password="p",
            ),
        ),
        ("rediss+sentinel://a/main", Address("sentinel", tls=True, hosts=(("a", 26379),), service="main")),
        ("redis+cluster://a:1,b", Address("cluster", hosts=(("a", 1), ("b", 6379)))),
        ("rediss+cluster://a/", Address("cluster", tls=True, hosts=(("a", 6379),))),
    ],
)
def test_forms(url: str, address: Address) -> None:
    assert parse(url) == address


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://h", "begins with redis://"),
        ("redis:h", "begins with redis://"),
        ("redis://", "host or host:port"),
        ("redis://u:secret@", "no host follows the credentials"),
        ("redis://u:secret@/1", "no host follows the credentials"),
        ("redis://secret h", "host or host:port"),
        ("redis://u:se?cret@h", "no query"),
        ("redis://h:0", "a port from 1"),
        ("redis://h:99999", "a port from 1"),
        ("redis://a,b", "several hosts"),
        ("redis://h/secret", "a number as the database"),
        ("redis://h/1?password=secret", "no query"),
        ("unix://run/secret", "an absolute path"),
        ("unix:///run/secret?password=x", "nothing but db"),
        ("redis+sentinel://a,b", "the name of a service"),
        ("redis+cluster://a/1", "has no databases"),
    ],
)
def test_refused_without_a_quotation(url: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse(url)
    assert message in str(caught.value)
    assert "secret" not in str(caught.value)


def test_an_address_shows_itself_without_the_password() -> None:
    address = parse("redis+sentinel://u:secret@a,[::1]:2/main")
    assert str(address) == "a:26379,[::1]:2/main"
    assert repr(address) == "Address('sentinel', 'a:26379,[::1]:2/main')"


@given(st.sampled_from(SCHEMES), st.text(max_size=30))
@example("redis://", "h/\N{SUPERSCRIPT TWO}")
def test_whatever_is_written_is_an_address_or_refused(scheme: str, rest: str) -> None:
    try:
        address = parse(scheme + rest)
    except ValueError:
        return
    assert address.path or all(0 < port < 65536 for _, port in address.hosts)
