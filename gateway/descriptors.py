"""How many descriptors this process may open: as many as it is given, and whether that is enough. (IO)"""

from __future__ import annotations

import logging
import resource
from typing import TYPE_CHECKING, Final

from gateway.burden import burden
from gateway.overload import Descriptors

if TYPE_CHECKING:
    from gateway.config.settings import Listeners

_log = logging.getLogger("infer_gateway")
_MOST: Final = 1 << 20
"""Beyond it a limit is none; some systems say 2^63."""
_PICKERS: Final = 16_384
"""Connections that the picker's listener takes, for which there is no setting."""


def raised() -> int:
    """The limit in force from now on: the soft one raised to the hard one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST if hard == resource.RLIM_INFINITY else min(hard, _MOST)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
        except (OSError, ValueError):  # macOS has a lower limit beside
            pass
    return _MOST if soft == resource.RLIM_INFINITY else soft


def bound(listeners: Listeners) -> None:
    """What may be held for requests, and how many clients there may be, of this run."""
    limit = raised()
    burden().bound(listeners.max_buffered_bytes, listeners.max_lateness, limit)
    if short := shortage(listeners, limit):
        _log.warning("%s", short)


def shortage(listeners: Listeners, limit: int) -> str:
    """What to do where the listeners may take more clients than ``limit`` descriptors allow; "": they may not."""
    wanted = sum(_connections(listeners))
    room = int(Descriptors(limit).clients)
    if wanted <= room:
        return ""
    return (
        f"{limit} descriptors may be open, which is enough for {room} connections while listeners.*.maxConnections "
        f"allow {wanted}: clients beyond {room} are turned away; raise the limit (ulimit -Hn, LimitNOFILE), "
        "or lower maxConnections"
    )


def _connections(listeners: Listeners) -> list[int]:
    wanted = [listeners.http.max_connections]
    if "grpc" in listeners.listening:
        wanted.append(listeners.grpc.max_connections)
    if "extProc" in listeners.listening:
        wanted.append(_PICKERS)
    return wanted
