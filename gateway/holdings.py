"""What the process holds at this moment, as numbers: whatever serves no request any more is back where it was. (IO)

Everything but ``idle``, ``opened`` and what the process is made of (tasks, descriptors, memory) is 0 while nobody asks
for anything; those stay level.
"""

from __future__ import annotations

import os
import resource
import sys
from typing import TYPE_CHECKING, Final

import msgspec
import trio

from gateway.burden import burden
from gateway.net import held

if TYPE_CHECKING:
    from gateway.gauges import Parts

_PAGE: Final = resource.getpagesize()


class Holdings(msgspec.Struct, frozen=True):
    """``connections``: of clients, by listener. ``calls``: requests between arrival and settlement. ``inflight``: our
    requests at endpoints, by the pools' count, and by the endpoints' in ``placed``. ``queued``, ``queued_bytes``: who
    waits for room. ``permits``: given and not closed. ``places``: taken of limits on requests at once, of this process.
    ``upstream``: connections to engines with a request; ``idle``: without; ``opened``: ever made. ``sockets``,
    ``unsent_bytes``: streams there are, clients' and engines', and what their peers have not taken yet.
    ``buffered_bytes``: held for requests, as `listeners.maxBufferedBytes` bounds them. ``tasks``,
    ``descriptors``, ``resident_bytes``: of the process.
    """

    connections: dict[str, int]
    calls: int
    inflight: int
    placed: int
    queued: int
    queued_bytes: int
    permits: int
    places: float
    upstream: int
    idle: int
    opened: int
    sockets: int
    buffered_bytes: int
    unsent_bytes: int
    tasks: int
    descriptors: int
    resident_bytes: int


def holdings(parts: Parts) -> Holdings:
    """Counted anew: a walk over pools, endpoints and sockets."""
    pools = list(parts.pools.by_name().values())
    gates = [pool.gate for pool in pools if pool.gate is not None]
    sockets, unsent = held()
    return Holdings(
        connections=parts.connections(),
        calls=len(parts.gateway.calls),
        inflight=sum(pool.inflight for pool in pools),
        placed=sum(member.inflight for pool in pools for member in pool.members),
        queued=sum(len(gate.order) for gate in gates),
        queued_bytes=sum(gate.order.size for gate in gates),
        permits=sum(gate.inflight for gate in gates),
        places=parts.state.places,
        upstream=parts.transport.busy,
        idle=parts.transport.idle,
        opened=parts.transport.opened,
        sockets=sockets,
        buffered_bytes=burden().buffered.held,
        unsent_bytes=unsent,
        tasks=trio.lowlevel.current_statistics().tasks_living,
        descriptors=_descriptors(),
        resident_bytes=_resident(),
    )


def _descriptors() -> int:
    """Open ones; -1 where the system does not tell."""
    try:
        return len(os.listdir("/proc/self/fd" if sys.platform == "linux" else "/dev/fd"))
    except OSError:
        return -1


def _resident() -> int:
    """Bytes of memory in use; -1 where the system does not tell."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * _PAGE
    except OSError:
        return -1
