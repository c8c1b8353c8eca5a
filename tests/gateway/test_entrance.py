"""Where a request comes in: ports and hosts to listeners of Gateways, and whom those let in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.entrance import MAIN, NOWHERE, Entrance, Entrances, Inlet, Parent, host_and_port, hostnames

EXACT, DEEP, WIDE, ANY, OWN = (Entrance() for _ in range(5))
SITES = {(MAIN, "a.x.example"): EXACT, (MAIN, "*.x.example"): DEEP, (MAIN, "*.example"): WIDE, (8081, ""): OWN}


@pytest.mark.parametrize(
    ("host", "wanted"),
    [
        ("a.x.example", EXACT),
        ("A.X.Example:8080", EXACT),
        ("a.x.example.", EXACT),
        ("b.x.example", DEEP),
        ("b.a.x.example", DEEP),
        ("x.example", WIDE),
        ("example", None),
        ("", None),
        ("[::1]:80", None),
        (":80", None),
    ],
)
def test_the_most_specific_hostname_decides(host: str, wanted: Entrance | None) -> None:
    assert Entrances(SITES).of(MAIN, host) is wanted
    assert Entrances({**SITES, (MAIN, ""): ANY}).of(MAIN, host) is (wanted or ANY)


def test_a_port_has_its_own() -> None:
    entrances = Entrances({**SITES, (8082, "only"): EXACT})
    assert entrances.of(8081, "a.x.example") is OWN
    assert entrances.of(8082, "only") is EXACT
    # nobody who comes in by a Gateway's port is served as if it had come in by none
    assert entrances.of(8082, "other") is NOWHERE
    assert Entrances().of(8083, "any") is NOWHERE
    assert Entrances().of(MAIN, "any") is None
    assert (NOWHERE.inlets, NOWHERE.namespaces) == ((), frozenset())


@given(st.text(alphabet="ab.*:[]0", max_size=12))
def test_any_host_has_hostnames(host: str) -> None:
    name, port = host_and_port(host)
    assert not port or port.isdigit()
    found = list(hostnames(name))
    assert found[-1] == ""
    assert all(name.endswith(each.removeprefix("*")) for each in found)
    Entrances(SITES).of(MAIN, host)


def test_of_a_host_that_none_can_have_no_end_is_looked_for() -> None:
    """It may be as long as a request's header, and consist of dots."""
    assert list(hostnames("." * 30_000)) == ["." * 30_000, ""]
    longest = "a." * 126 + "a"
    assert len(longest) == 253
    assert len(list(hostnames(longest))) == 128


HTTP = Inlet("infra/g", "http", 80, "Same")


@pytest.mark.parametrize(
    ("parent", "named"),
    [
        (Parent("infra/g"), True),
        (Parent("infra/g", "http"), True),
        (Parent("infra/g", "http", 80), True),
        (Parent("infra/g", "", 80), True),
        (Parent("infra/g", "other"), False),
        (Parent("infra/g", "", 81), False),
        (Parent("infra/h"), False),
        (Parent(""), False),
    ],
)
def test_a_parent_names_a_gateway_or_a_listener_of_it(parent: Parent, named: bool) -> None:
    assert HTTP.named(parent) is named
    assert HTTP.admits("infra", [parent]) is named


def test_a_listener_lets_in_whom_it_says() -> None:
    everybody, nobody = Inlet("infra/g", "http", 80, "All"), Inlet("infra/g", "http", 80, "")
    parents = [Parent("other/h"), Parent("infra/g")]
    assert [each.admits("app", parents) for each in (HTTP, everybody, nobody)] == [False, True, False]
    assert [each.admits("infra", parents) for each in (HTTP, everybody, nobody)] == [True, True, False]
    assert not everybody.admits("app", [])
