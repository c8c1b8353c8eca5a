"""Members that a proxy lists: found by address and port or by address alone, whatever they are called here."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.listing import Listing
from gateway.member import Member
from gateway.types import Endpoint
from tests.gateway.scripted import FakeAdapter

HOSTS = ("10.0.0.1", "10.0.0.11", "fd00::1", "a.example", "a1")
PORTS = (1, 11)
endpoints = st.builds(
    Endpoint, st.just("fake"), st.just("http"), st.sampled_from(HOSTS), st.sampled_from(PORTS),
    st.sampled_from(["", "/base"]),
)  # fmt: skip
names = st.sampled_from([*HOSTS, *(f"{host}:{port}" for host in HOSTS for port in PORTS), "[fd00::1]:1", "10.0.0", ""])


def listing(of: list[Endpoint]) -> Listing:
    return Listing([Member("p", endpoint, FakeAdapter()) for endpoint in of])


@given(st.lists(endpoints, max_size=8, unique=True), st.lists(names, max_size=5))
def test_found_is_what_is_listed_in_the_order_of_the_pool(members: list[Endpoint], only: list[str]) -> None:
    found = [member.endpoint for member in listing(members).among(only)]
    assert found == [each for each in members if each.address in only or each.host in only]


def test_names_of_hosts_are_told_from_addresses() -> None:
    made = listing([Endpoint("fake", "http", host, 1) for host in HOSTS])
    assert [endpoint.host for endpoint in made.named] == ["a.example", "a1"]
