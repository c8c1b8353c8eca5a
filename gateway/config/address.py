"""Where a host leads, however it is written, and whether connections may go there. (P)

Invariant: whatever a resolver takes for an address without asking anybody is judged like that address.
"""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Final
from urllib.parse import unquote

from gateway.config.url import is_loopback

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_METADATA: Final = tuple(
    map(
        ipaddress.ip_network,
        (
            "169.254.0.0/16",  # link-local: 169.254.169.254 of most clouds, 169.254.170.2 and .23 of containers
            "fe80::/10",
            "100.100.100.200/32",  # Alibaba
            "168.63.129.16/32",  # Azure's wire server
            "192.0.0.192/32",  # Oracle
            "fd00:ec2::/32",  # AWS
            "fd20:ce::254/128",  # Google
            "fd00:42::42/128",  # Scaleway
        ),
    )
)
"""Where clouds give away what belongs to a machine, credentials above all."""
_NAMES: Final = frozenset(
    (
        "metadata.google.internal", "metadata.goog", "instance-data", "instance-data.ec2.internal",
        "metadata.tencentyun.com", "metadata.azure.internal", "api.metadata.cloud.ibm.com",
    )
)  # fmt: skip
_FIRST: Final = ipaddress.ip_address("169.254.169.254")
_NUMBER: Final = re.compile(
    r"(?:0[xX](?P<hex>[0-9a-fA-F]{1,16})|0(?P<octal>[0-7]{0,24})|(?P<decimal>[1-9][0-9]{0,14}))\Z"
)
_DOTS: Final = str.maketrans("。", ".")

_NAT64: Final = tuple(map(ipaddress.IPv6Network, ("64:ff9b::/96", "64:ff9b:1::/48")))
_LAST_32: Final = tuple(map(ipaddress.IPv6Network, ("::/96", "::ffff:0:0/96", "::ffff:0:0:0/96", *map(str, _NAT64))))
"""Prefixes behind which the last four bytes are an IPv4 address: compatible, mapped, translated, NAT64."""
_TEREDO: Final = ipaddress.IPv6Network("2001::/32")
_6TO4: Final = ipaddress.IPv6Network("2002::/16")
_ISATAP: Final = (0x0000_5EFE, 0x0200_5EFE)


def literal(host: str) -> Address | None:
    """The address that ``host`` is, in any spelling of `inet_aton` or of a URL; None for a name that has to be asked
    for. A scope (%eth0) is left out.
    """
    text = _plain(host)
    if ":" in text:
        try:
            return ipaddress.IPv6Address(text.partition("%")[0])
        except ValueError:
            return None
    return _loosely(text)


def refusal(host: str, allowed: Iterable[Network] = ()) -> str:
    """Why no connection may lead to ``host``, "" if one may. Names that are no metadata server's pass: what they
    resolve to is to be asked about. ``allowed``: networks that are not refused.
    """
    address = literal(host)
    if address is None:
        named = _plain(host) in _NAMES and not _within(_FIRST, allowed)
        return "it is a cloud's metadata server" if named else ""
    allowed = tuple(allowed)
    if _within(address, allowed):
        return ""
    if any(_within(each, _METADATA) and not _within(each, allowed) for each in _readings(address)):
        return "link-local and metadata addresses are where clouds give away credentials"
    return ""


def is_inward(host: str) -> bool:
    """Whether a host leads to the machine itself or to what only machines are to ask: loopback, link-local, …"""
    address = literal(host)
    if address is None:
        name = _plain(host)
        return is_loopback(name) or name.endswith(".localhost") or bool(refusal(host))
    return bool(refusal(host)) or any(
        each.is_loopback or each.is_link_local or each.is_unspecified or each.is_multicast or _nowhere(each)
        for each in _readings(address)
    )


def _plain(host: str) -> str:
    """As a resolver sees it: what IDNA and URLs make of it, without brackets and the root's dot."""
    text = unicodedata.normalize("NFKC", unquote(host)).translate(_DOTS)
    return text.strip().strip("[]").removesuffix(".").lower()


def _loosely(text: str) -> ipaddress.IPv4Address | None:
    """As `inet_aton` reads it: one to four numbers, decimal, octal or hexadecimal; the last one fills what is left."""
    parts = [_number(part) for part in text.split(".")]
    if len(parts) > 4:
        return None
    value = 0
    for index, part in enumerate(parts):
        last = index == len(parts) - 1
        bits = 8 * (5 - len(parts)) if last else 8
        if part is None or part >> bits:
            return None
        value = value << bits | part
    return ipaddress.IPv4Address(value)


def _number(part: str) -> int | None:
    found = _NUMBER.match(part)
    if found is None:
        return None
    if found["hex"]:
        return int(found["hex"], 16)
    return int(found["decimal"]) if found["decimal"] else int(found["octal"] or "0", 8)


def _readings(address: Address) -> Iterator[Address]:
    """The address, and every IPv4 address to which a translator or a tunnel would send what is sent there."""
    yield address
    if isinstance(address, ipaddress.IPv4Address):
        return
    number = int(address)
    if _within(address, _LAST_32):
        yield ipaddress.IPv4Address(number & 0xFFFF_FFFF)
    if address in _NAT64[1]:  # RFC 6052: the byte in the middle is none of the address
        yield ipaddress.IPv4Address((number >> 64 & 0xFFFF) << 16 | number >> 40 & 0xFFFF)
    if address in _6TO4:
        yield ipaddress.IPv4Address(number >> 80 & 0xFFFF_FFFF)
    if address in _TEREDO:
        yield ipaddress.IPv4Address(number >> 64 & 0xFFFF_FFFF)
        yield ipaddress.IPv4Address(~number & 0xFFFF_FFFF)
    if number >> 32 & 0xFFFF_FFFF in _ISATAP:
        yield ipaddress.IPv4Address(number & 0xFFFF_FFFF)


def _within(address: Address, networks: Iterable[Network]) -> bool:
    return any(address in network for network in networks)


def _nowhere(address: Address) -> bool:
    """0.0.0.0/8, which systems take for themselves."""
    return isinstance(address, ipaddress.IPv4Address) and int(address) >> 24 == 0
