"""Which addresses are refused, however they are written."""

from __future__ import annotations

import ipaddress
import socket

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from gateway.config.address import is_inward, literal, refusal

METADATA = ("169.254.169.254", "169.254.170.2", "169.254.170.23", "100.100.100.200", "168.63.129.16", "192.0.0.192")
V4 = st.ip_addresses(v=4)
LINK_LOCAL = st.builds(lambda low: ipaddress.IPv4Address(0xA9FE0000 | low), st.integers(0, 0xFFFF))
REFUSED = st.one_of(st.sampled_from(METADATA).map(ipaddress.IPv4Address), LINK_LOCAL)


def number(value: int, base: str) -> str:
    return {"d": f"{value}", "x": f"{value:#x}", "X": f"0X{value:X}", "o": f"0{value:o}", "z": f"0x{value:08x}"}[base]


@st.composite
def spelled(draw: st.DrawFn, address: ipaddress.IPv4Address) -> str:
    """As `inet_aton` takes it."""
    parts = draw(st.integers(1, 4))
    value = int(address)
    numbers = [value >> 8 * (3 - index) & 0xFF for index in range(parts - 1)]
    numbers.append(value & (1 << 8 * (5 - parts)) - 1)
    return ".".join(number(each, draw(st.sampled_from("dxXoz"))) for each in numbers)


def embedded(address: ipaddress.IPv4Address) -> list[str]:
    """IPv6 addresses behind which a kernel, a translator or a tunnel finds it."""
    value = int(address)
    high, low = value >> 16, value & 0xFFFF
    here = [f"::ffff:{address}", f"::ffff:{high:x}:{low:x}", f"::{address}", f"::ffff:0:{high:x}:{low:x}"]
    here += [f"64:ff9b::{high:x}:{low:x}", f"64:ff9b::{address}", f"64:ff9b:1::{high:x}:{low:x}"]
    here += [f"64:ff9b:1:{high:x}:{low >> 8:x}:{(low & 0xFF) << 8:x}::"]
    here += [f"2002:{high:x}:{low:x}::1", f"2002:{high:x}:{low:x}:1:2:3:4:5", f"fd00:1::5efe:{high:x}:{low:x}"]
    here += [f"2001:0:{high:x}:{low:x}::", f"2001:0:a00:1:0:0:{high ^ 0xFFFF:x}:{low ^ 0xFFFF:x}"]
    return here


@given(st.data(), V4)
def test_numbers_are_read_as_a_resolver_reads_them(data: st.DataObject, address: ipaddress.IPv4Address) -> None:
    text = data.draw(spelled(address))
    assert socket.inet_aton(text) == address.packed
    assert literal(text) == address


@given(st.text(st.sampled_from("0123456789abcfxX."), max_size=18))
@example("0x")
@example("08.1")
@example("1..2")
@example("256.1.1.1")
@example("1.256.1")
@example("4294967296")
def test_what_a_resolver_takes_for_an_address_is_one(text: str) -> None:
    try:
        asked = socket.getaddrinfo(text, None, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        assume(False)
    assert {ipaddress.ip_address(found[4][0]) for found in asked} == {literal(text)}


@given(st.data(), REFUSED)
def test_every_spelling_of_a_refused_address_is_refused(data: st.DataObject, address: ipaddress.IPv4Address) -> None:
    plain = data.draw(st.one_of(spelled(address), st.sampled_from(embedded(address))))
    made = data.draw(
        st.sampled_from(
            [plain, f"[{plain}]" if ":" in plain else f"{plain}.", plain.upper(), wide(plain), escaped(plain)]
        )
    )
    assert refusal(made)
    assert is_inward(made)


def wide(text: str) -> str:
    """In characters that IDNA takes for ASCII's."""
    return text if ":" in text else "".join("。" if each == "." else chr(ord(each) + 0xFEE0) for each in text)


def escaped(text: str) -> str:
    return text.replace(".", "%2e")


@given(st.one_of(V4, st.ip_addresses(v=6)))
@example(ipaddress.ip_address("10.0.0.1"))
@example(ipaddress.ip_address("fd00::1"))
@example(ipaddress.ip_address("2606:4700::1"))
def test_others_are_not(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    tunnels = map(
        ipaddress.ip_network, ("2001::/32", "2002::/16", "64:ff9b::/32", "::/64", "fd00:ec2::/32", "fe80::/10")
    )
    assume(not any(address in network for network in tunnels) and address not in map(ipaddress.ip_address, METADATA))
    assume(address.version == 6 or not address.is_link_local)
    assume(address.version == 4 or int(address) >> 32 & 0xFDFF_FFFF != 0x5EFE)
    assert not refusal(str(address))


@pytest.mark.parametrize(
    "host", ["fe80::1", "fe80::1%eth0", "[fe80::1%25eth0]", "febf::1", "fd00:ec2::254", "fd20:ce::254"]
)
def test_ipv6_has_its_own(host: str) -> None:
    assert refusal(host)


@pytest.mark.parametrize(
    "host", ["metadata.google.internal", "METADATA.google.internal.", "metadata.goog", "instance-data.ec2.internal"]
)
def test_names_of_metadata_servers(host: str) -> None:
    assert refusal(host)
    assert not refusal(host, [ipaddress.ip_network("169.254.169.254/32")])
    assert not refusal(f"x.{host}")


@pytest.mark.parametrize(
    "host", ["localhost", "127.0.0.1", "::1", "10.1.2.3", "engine", "a.metadata", "", "::", "1.2.3.4.5"]
)
def test_files_may_name_the_rest(host: str) -> None:
    assert not refusal(host)


@pytest.mark.parametrize(
    "host",
    [
        "127.1",
        "0",
        "0.1.2.3",
        "::1",
        "::ffff:127.0.0.1",
        "64:ff9b::7f00:1",
        "ff02::1",
        "localhost",
        "Localhost.",
        "a.localhost",
    ],
)
def test_what_leads_inward(host: str) -> None:
    assert is_inward(host)


def test_what_is_allowed_is_that_network_alone() -> None:
    allowed = [ipaddress.ip_network("169.254.10.0/24"), ipaddress.ip_network("fe80::/64")]
    assert not refusal("169.254.10.7", allowed)
    assert not refusal("::ffff:169.254.10.7", allowed)
    assert not refusal("fe80::7%eth0", allowed)
    assert refusal("169.254.11.7", allowed)
    assert refusal("169.254.169.254", allowed)
    assert refusal("fe80:1::7", allowed)
