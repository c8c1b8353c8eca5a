"""What a replica has to tell the store it shares, and how it is written: places, settlements, requests. (P)

Invariants: nothing is told twice, as a batch keeps its number until it is answered; what waits to be told is bounded;
how many places the replica holds is told as a number, never as a change, so that one telling mends what went wrong.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Annotated, Final, TypeVar

import msgspec
from msgspec import Meta

from gateway.types import Demand, Taken

Key = TypeVar("Key")

MOST: Final = 10_000
"""Settlements that may wait; beyond, the oldest is dropped, and its account keeps what was reserved."""
SETTLEMENTS: Final = 1000
REQUESTS: Final = 256
"""Of each in one batch: a few milliseconds of the server's time."""


class Granted(Taken, frozen=True, gc=False):
    """Taken from the shared store, where it is to be settled."""


class Batch(msgspec.Struct, frozen=True):
    """``keys`` are those of the accounts in ``body``, which is what limits.lua wants. ``full``: more waits."""

    keys: tuple[str, ...]
    body: bytes
    settlements: int
    full: bool


class _Keys(dict[str, int]):
    """The place of each key among those of a batch; the first is the replica's own and not in here."""

    def __missing__(self, key: str) -> int:
        place = self[key] = len(self) + 2
        return place


Number = Annotated[float, Meta(ge=0.0, le=sys.float_info.max)]
"""None that is not one, none without end: what a request waits is told to its caller."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[Number, list[tuple[bool, Number, tuple[Number, ...]]]]).decode


class Outbox:
    """``prefix`` is a hash tag in every key: all are in one slot of a cluster, as one script's keys have to be."""

    def __init__(self, prefix: str, replica: str, lease: float) -> None:
        self._rates = f"{{{prefix}}}:rate:"
        self._places = f"{{{prefix}}}:places:"
        self._last = f"{{{prefix}}}:replica:{replica}"
        self._replica = replica
        self._lease = lease
        self._number = 0
        self._settlements: dict[tuple[str, float], tuple[float, float]] = {}
        self._held: dict[str, float] = {}
        self._changed: dict[str, None] = {}
        self.dropped = 0

    @property
    def waiting(self) -> bool:
        return bool(self._settlements or self._changed)

    def settle(self, demands: Sequence[Demand], given_back: Sequence[float], taken_at: float) -> None:
        """What came of a grant. Equal moments and debts of an account add up; places are all given back."""
        for demand, back in zip(demands, given_back, strict=True):
            if not demand.rate:
                self._hold(demand.key, -back)
            elif back:
                entry = (demand.key, taken_at if back > 0.0 else 0.0)
                _, before = self._settlements.get(entry, (0.0, 0.0))
                self._settlements[entry] = demand.rate, before + back
        while len(self._settlements) > MOST:
            del self._settlements[next(iter(self._settlements))]
            self.dropped += 1

    def granted(self, demands: Sequence[Demand]) -> None:
        """The places among them are held from now on."""
        for demand in demands:
            if not demand.rate:
                self._held[demand.key] = self._held.get(demand.key, 0.0) + demand.amount

    def unwanted(self, demands: Sequence[Demand], at: float) -> None:
        """Granted to somebody who is gone: give it all back. Their places are not held, and that is told."""
        for demand in demands:
            if not demand.rate:
                self._changed[demand.key] = None
        rates = [demand for demand in demands if demand.rate]
        self.settle(rates, [demand.amount for demand in rates], at)

    def renew(self) -> None:
        """All places held are told again, before their lease runs out."""
        self._changed.update(dict.fromkeys(self._held))

    def _hold(self, key: str, change: float) -> None:
        count = self._held.get(key, 0.0) + change
        if count > 0.0:
            self._held[key] = count
        else:
            self._held.pop(key, None)
        self._changed[key] = None

    def batch(self, requests: Iterable[Sequence[Demand]], now: float | None = None) -> Batch:
        """The next batch; it takes along what waits. ``now``: a clock of the caller's instead of the server's."""
        keys = _Keys()
        told = _first(self._changed)
        places = [(keys[self._places + key], self._held.get(key, 0.0)) for key in told]
        settlements = [
            (keys[self._rates + key], rate, back, at)
            for (key, at) in _first(self._settlements)
            for rate, back in (self._settlements.pop((key, at)),)
        ]
        wanted = [
            [(keys[self._key(each)], each.amount, each.rate, each.burst) for each in demands] for demands in requests
        ]
        for key in told:
            del self._changed[key]
        self._number += 1
        clock = -1.0 if now is None else now
        body = _encode((self._number, clock, self._lease, self._replica, places, settlements, wanted))
        return Batch((self._last, *keys), body, len(settlements), self.waiting)

    def _key(self, demand: Demand) -> str:
        return (self._rates if demand.rate else self._places) + demand.key


def answers(reply: object) -> list[Granted]:
    """One for each request of the batch, in order. Raises ValueError for anything else."""
    if not isinstance(reply, bytes):
        raise ValueError(f"not an answer to a batch: {type(reply).__name__}")
    at, all_taken = _decode(reply)
    return [Granted(granted, wait, used, at) for granted, wait, used in all_taken]


def _first(waiting: Mapping[Key, object]) -> list[Key]:
    return list(islice(waiting, SETTLEMENTS))
