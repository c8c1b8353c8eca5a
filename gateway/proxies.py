"""Which peers are trusted proxies, and the address of who is behind them. (P)

Invariant: an address that a peer only claims is taken from trusted peers alone.
"""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from typing import Final

from gateway.config.access import Network, TrustedProxies
from gateway.types import Headers

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_HOPS: Final = 16


@lru_cache(maxsize=4096)
def address(text: str) -> Address | None:
    """None for what is no IP address. An IPv4 address mapped into IPv6 is the IPv4 address; scopes are dropped."""
    try:
        found = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found


def place(at: Address) -> str:
    """What tells anonymous callers apart: the address; of IPv6 the /64, of which one host has all addresses."""
    if at.version == 4:
        return str(at)
    return f"{ipaddress.IPv6Address(int(at) >> 64 << 64)}/64"


class Proxies:
    """``fields``: lower-case header field → what it says of the caller, for `gateway.auth.identity_by_proxy`."""

    def __init__(self, trusted: TrustedProxies) -> None:
        self._networks = tuple(map(_unmapped, trusted.networks))
        self._subjects = frozenset(trusted.subjects)
        headers = trusted.headers
        names = (("user", headers.user), ("tenant", headers.tenant), ("tier", headers.tier), ("models", headers.models))
        self.fields = {name.lower().encode(): what for what, name in names if name}

    def trusts(self, peer: Address | None, subject: str = "") -> bool:
        """By either: a network of it, or the name in its certificate."""
        if subject in self._subjects:
            return True
        return peer is not None and any(peer in network for network in self._networks)

    def behind(self, headers: Headers) -> Address | None:
        """Whom a trusted peer forwards for: of X-Forwarded-For the last that is no trusted proxy itself.

        None where that is no address; what stands before it may be anybody's invention.
        """
        hops = [hop for name, value in headers if name == b"x-forwarded-for" for hop in value.split(b",")]
        found = None
        for hop in reversed(hops[-_HOPS:]):
            found = address(_host(hop.decode("latin-1").strip()))
            if found is None or not self.trusts(found):
                return found
        return found


def _host(hop: str) -> str:
    """Without the port that some proxies add."""
    if hop.startswith("["):
        return hop[1:].partition("]")[0]
    return hop.partition(":")[0] if hop.count(":") == 1 else hop


def _unmapped(network: Network) -> Network:
    """::ffff:10.0.0.0/104 means 10.0.0.0/8: peers are compared as IPv4."""
    if isinstance(network, ipaddress.IPv6Network) and network.prefixlen >= 96:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return ipaddress.IPv4Network((int(mapped), network.prefixlen - 96))
    return network
