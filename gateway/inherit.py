"""Listening sockets that were open before the process began: a service manager's, or a predecessor's. (IO)

systemd's protocol is sd_listen_fds(3): LISTEN_FDS sockets from descriptor 3 on, for the process LISTEN_PID, with names
in LISTEN_FDNAMES. A predecessor (`gateway.succession`) names descriptors in `SOCKETS`. Invariant: no child of ours
takes any of it for its own.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Collection, Iterable, Iterator, MutableMapping, Sequence
from typing import Final

from gateway.types import bracketed

SOCKETS: Final = "INFER_GATEWAY_SOCKETS"
"""`name:descriptor`, by commas."""
NAMES: Final = {"ext_proc": "extProc", "health": "extProcHealth"}
"""What listeners are called outside, where that is not what they are called inside."""
_FIRST: Final = 3
_ANY: Final = ("0.0.0.0", "::")

Address = tuple[str, int]


class Inherited:
    """``sockets`` by the names they came with, which may be the same or mean nothing."""

    def __init__(self, sockets: Iterable[tuple[str, socket.socket]] = ()) -> None:
        self._left = list(sockets)

    def __bool__(self) -> bool:
        return bool(self._left)

    def take(self, name: str, addresses: Collection[Address]) -> list[socket.socket]:
        """Those of a listener, by its name or else by its addresses; they are the caller's."""
        known = NAMES.get(name, name)
        taken = [each for each in self._left if each[0] == known]
        if not taken:
            taken = [each for each in self._left if _serves(each[1], addresses)]
        self._left = [each for each in self._left if each not in taken]
        return [sock for _, sock in taken]

    def close(self) -> list[str]:
        """Close what nobody has taken; how to call each."""
        left, self._left = self._left, []
        called = [f"{name} ({_address(sock)})" for name, sock in left]
        for _, sock in left:
            sock.close()
        return called


def _serves(sock: socket.socket, addresses: Collection[Address]) -> bool:
    """A wildcard is every address of its port, whatever the family."""
    host, port = sock.getsockname()[:2]
    return (host, port) in addresses or any(port == at and {host, to} <= set(_ANY) for to, at in addresses)


def _address(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"{bracketed(host)}:{port}"


def inherited(environment: MutableMapping[str, str]) -> tuple[Inherited, Sequence[str]]:
    """What there is, and what is wrong with what is not used. What says so is removed from ``environment``."""
    sockets: list[tuple[str, socket.socket]] = []
    problems: list[str] = []
    for name, descriptor in _told(environment):
        try:
            sockets.append((name, _listening(descriptor)))
        except OSError as error:
            problems.append(f"the inherited descriptor {descriptor} ({name}) is not used: {error}")
    return Inherited(sockets), problems


def _told(environment: MutableMapping[str, str]) -> Iterator[tuple[str, int]]:
    ours = environment.pop(SOCKETS, "")
    for each in filter(None, ours.split(",")):
        name, _, descriptor = each.rpartition(":")
        yield name, int(descriptor)
    pid, count = environment.pop("LISTEN_PID", ""), environment.pop("LISTEN_FDS", "")
    names = environment.pop("LISTEN_FDNAMES", "").split(":")
    if pid == str(os.getpid()) and count.isdecimal():
        for place in range(int(count)):
            yield names[place] if place < len(names) and names[place] else "unknown", _FIRST + place


def _listening(descriptor: int) -> socket.socket:
    """Raises OSError."""
    os.set_inheritable(descriptor, False)
    sock = socket.socket(fileno=descriptor)
    if (
        sock.family not in (socket.AF_INET, socket.AF_INET6)
        or sock.type != socket.SOCK_STREAM
        or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    ):
        sock.detach()
        raise OSError("it is no TCP socket that listens")
    sock.setblocking(False)
    return sock
