"""A pool's members by what a proxy calls them that lists some: "address:port", or "address" for all its ports. (P)

Invariant: to look up a list costs what is listed, however many members there are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

from gateway.member import Member
from gateway.types import Endpoint

_V4: Final = re.compile(r"[0-9.]+\Z")


class Listing:
    """``named``: endpoints known by a host's name, which proxies list by its address."""

    __slots__ = ("_found", "members", "named")

    def __init__(self, members: Sequence[Member]) -> None:
        self.members = members
        self._found: dict[str, list[int]] = {}
        named: list[Endpoint] = []
        for index, member in enumerate(members):
            endpoint = member.endpoint
            host = endpoint.host
            self._found.setdefault(host, []).append(index)
            self._found.setdefault(endpoint.address if endpoint.base_path else member.id, []).append(index)
            if ":" not in host and not _V4.match(host):
                named.append(endpoint)
        self.named = tuple(named)

    def among(self, only: Iterable[str]) -> Sequence[Member]:
        """Those that ``only`` names, in their order."""
        found: set[int] = set()
        for name in only:
            found.update(self._found.get(name, ()))
        members = self.members
        return members if len(found) == len(members) else [members[index] for index in sorted(found)]
