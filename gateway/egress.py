"""The last word on where this process connects to: addresses that the configuration does not allow. (IO)

An audit hook of the interpreter sees every address that a socket is given, after whatever resolved it: transport,
scrapes, httpx, Redis and the members that it names, the exporter of traces, plugins. A hook cannot be taken away, which
is what is wanted, and costs 0.1 µs for each of the few events that there are.

Invariant: a connection that is refused is never begun; whoever opens it gets an OSError that says why.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import sys
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from typing import Any, Final

from gateway.config.address import Network, is_inward, literal, refusal

_EVENTS: Final = frozenset(("socket.connect", "socket.sendto", "socket.sendmsg"))
_FAMILIES: Final = (socket.AF_INET, socket.AF_INET6)
_outward: Final[ContextVar[bool]] = ContextVar("outward", default=False)


class RefusedAddress(PermissionError):
    """Nothing may be connected to that address. The text is for operators and names it."""


class _Guard:
    """What is allowed in this process. One, since hooks are of the process."""

    def __init__(self) -> None:
        self.hooked = False
        self.allowed: tuple[Network, ...] = ()

    def look(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in _EVENTS:
            sock, address = arguments
            if isinstance(address, tuple) and address and sock.family in _FAMILIES:
                self.judge(str(address[0]))

    def judge(self, host: str) -> None:
        for each in _addresses(host):
            why = refusal(each, self.allowed)
            if not why and _outward.get() and is_inward(each):
                why = "objects of a cluster may not lead to the gateway's own machine"
            if why:
                raise RefusedAddress(errno.EACCES, f"{host} is not connected to: {why}")


_guard: Final = _Guard()


def guard(allowed: Iterable[Network] = ()) -> None:
    """From now on no socket of this process is connected to link-local and metadata addresses but ``allowed`` ones."""
    _guard.allowed = tuple(allowed)
    if not _guard.hooked:
        _guard.hooked = True
        sys.addaudithook(_guard.look)


def is_refused(address: str) -> bool:
    """Whether a connection to an address would be refused; of a name, whether that says so."""
    return _guard.hooked and bool(refusal(address, _guard.allowed))


@contextlib.contextmanager
def outward(wanted: bool = True) -> Iterator[None]:
    """What this task, and those that it starts, connects to within the block may not be this machine either."""
    before = _outward.set(wanted)
    try:
        yield
    finally:
        _outward.reset(before)


def _addresses(host: str) -> Iterable[str]:
    """What a socket would make of it. Names are resolved before as a rule; who gives one to the kernel waits anyway."""
    if literal(host) is not None or refusal(host):
        return (host,)
    try:
        return [str(found[4][0]) for found in socket.getaddrinfo(host, None)]
    except (OSError, UnicodeError):
        return ()
