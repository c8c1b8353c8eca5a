"""Which endpoints a request may go to, as its proxy says: "ip:port", or "ip" for every port of it. (P)

Invariant: a hint that is there but names nothing allows nothing; only one that is absent allows everything.
"""

from __future__ import annotations

from collections.abc import Iterable


def parsed(hint: str | list[str] | None) -> tuple[str, ...] | None:
    """A list, or a string with commas (what Envoy's header-to-metadata filter makes); None: no hint."""
    if hint is None:
        return None
    names = hint.split(",") if isinstance(hint, str) else hint
    return tuple(name for each in names if (name := each.strip()))


def within(wanted: Iterable[str], allowed: tuple[str, ...] | None) -> tuple[str, ...]:
    """What of ``wanted`` lies in ``allowed``; of "ip" and "ip:port" the narrower remains. Either may have thousands."""
    if allowed is None:
        return tuple(wanted)
    exact = frozenset(allowed)
    ports: dict[str, list[str]] = {}
    for other in allowed:
        ports.setdefault(_host(other), []).append(other)
    found: dict[str, None] = {}
    for one in wanted:
        found.update(dict.fromkeys((one,) if one in exact or _host(one) in exact else ports.get(one, ())))
    return tuple(found)


def _host(address: str) -> str:
    """Without the port; an IPv6 address has one only behind brackets."""
    if address.startswith("["):
        return address[1:].partition("]")[0] if "]:" in address else address
    return address.rpartition(":")[0] if address.count(":") == 1 else address
