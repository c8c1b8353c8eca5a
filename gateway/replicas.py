"""What replicas of a gateway tell each other: requests in flight, prompts placed, service; and how it adds up. (P)

There are no central counters. A replica says what it has under way as absolute numbers, which its next word replaces
and which expire when it falls silent; what it has placed and served it says once, under a serial number.
Invariant: whatever is lost, repeated or out of order, counts are those of each live replica's newest word that was
heard, and nothing is charged twice.
"""

from __future__ import annotations

import math
import sys
from array import array
from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Final, Protocol

import msgspec
from msgspec import Meta

from gateway.prefix import Blocks

if TYPE_CHECKING:
    from gateway.schedule.ask import Ask

LEASE_S: Final = 2.0
"""A replica not heard of for so long has nothing in flight any more."""
_PLACED: Final = 2000
"""Placements kept until they are told; the newest are."""
_BYTES: Final = 256 * 1024
"""Of block hashes in one message; placements beyond are told without."""
_FLOWS: Final = 10_000
_KEEP: Final = 0.99
_REMEMBERED: Final = 1024
_LONGEST: Final = 4 * 1024 * 1024

Amount = Annotated[float, Meta(ge=0, le=1e12)]
Change = Annotated[float, Meta(ge=-1e12, le=1e12)]
Number = Annotated[int, Meta(ge=0, le=1_000_000_000)]
Name = Annotated[str, Meta(max_length=1024)]
Cut = tuple[int, int, int, bool]


class Count(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Requests under way at one endpoint: ``pending`` of them without a token yet, whose prompts have ``backlog``
    tokens to be computed; ``unstreamed`` those whose first token nobody sees, with ``unseen`` tokens in their prompts.
    """

    requests: Number = 0
    pending: Number = 0
    backlog: Amount = 0.0
    unstreamed: Number = 0
    unseen: Amount = 0.0

    def __add__(self, other: Count) -> Count:
        return Count(
            self.requests + other.requests,
            self.pending + other.pending,
            self.backlog + other.backlog,
            self.unstreamed + other.unstreamed,
            self.unseen + other.unseen,
        )


NOTHING: Final = Count()


class Placed(msgspec.Struct, frozen=True, array_like=True):
    """A request that went to an endpoint: ``length`` bytes of prompt, about so many ``tokens``, of them ``uncached``.
    ``chains``: its block hashes (8 bytes each, the lowest first) by how the text was cut.
    """

    pool: Name
    endpoint: Name
    length: Number = 0
    tokens: Amount = 0.0
    uncached: Amount = 0.0
    chains: dict[Cut, bytes] = {}

    def chain(self, blocks: Blocks) -> Sequence[int]:
        """Its hashes, if the sender cuts prompts in this way, too."""
        return _unpacked(self.chains.get(_cut(blocks), b""))


class Service(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a flow has been served in a pool since the last word, in weighted tokens; below zero where less was used
    than had been charged."""

    pool: Name
    tenant: Name
    caller: Name
    amount: Change


class Digest(msgspec.Struct, frozen=True, omit_defaults=True):
    """One message. ``counts``: by pool and endpoint, only where there is something. Members that a later release adds
    are passed over by an earlier one."""

    replica: Annotated[str, Meta(min_length=1, max_length=64)]
    serial: Annotated[int, Meta(ge=1, le=2**62)]
    counts: dict[Name, dict[Name, Count]] = {}
    service: tuple[Service, ...] = ()
    placed: tuple[Placed, ...] = ()


class Hearer(Protocol):
    """What other replicas say is told to it. Pools and endpoints it does not know it passes over."""

    def elsewhere(self, pool: str, endpoint: str, count: Count, now: float, /) -> None:
        """All other replicas together have so much under way there."""

    def heard(self, placed: Placed, now: float, /) -> None: ...
    def charge(self, pool: str, tenant: str, caller: str, amount: float, /) -> None: ...
    def unheard(self, pool: str, tokens: float, rank: int, replicas: int, /) -> None:
        """While this replica, number ``rank`` of ``replicas``, places a request, each other one places so many tokens
        of prompts that it will hear of too late."""


class _Sender:
    __slots__ = ("at", "counts", "seen", "serial")

    def __init__(self) -> None:
        self.serial = 0
        self.at = -math.inf
        self.counts: dict[tuple[str, str], Count] = {}
        self.seen: dict[str, int] = {}  # how many we had placed in each pool at its last word


class Replicas:
    """One replica: what it has to say (`note_placed`, `note_service`, then `digest`) and what it hears (`hear`).

    ``id`` is another for each process. ``live``: how many others there are. ``malformed`` counts messages not
    understood. Times are seconds on one clock, whichever.
    """

    def __init__(self, id: str, hearer: Hearer, lease: float = LEASE_S) -> None:
        self.id = id
        self.hearer = hearer
        self.lease = lease
        self.malformed = 0
        self._serial = 0
        self._placed: deque[tuple[str, str, int, float, float, Mapping[Blocks, Sequence[int]]]] = deque(maxlen=_PLACED)
        self._count: dict[str, int] = {}
        self._unheard: dict[str, float] = {}
        self._service: dict[tuple[str, str, str], float] = {}
        self._senders: OrderedDict[str, _Sender] = OrderedDict()
        self._live: dict[str, _Sender] = {}
        self._decoder = msgspec.msgpack.Decoder(Digest)

    @property
    def live(self) -> int:
        return len(self._live)

    # -- what this one says ----------------------------------------------------------------------------------------

    def note_placed(self, pool: str, endpoint: str, ask: Ask) -> None:
        """A request went there. Its text is not kept."""
        length = len(ask.text) if ask.read else 0
        self._count[pool] = self._count.get(pool, 0) + 1
        self._placed.append((pool, endpoint, length, ask.tokens, ask.uncached(endpoint), ask.chains))

    def note_service(self, pool: str, tenant: str, caller: str, amount: float) -> None:
        """Weighted tokens; below zero where less was used than had been charged."""
        flow = pool, tenant, caller
        if flow in self._service or len(self._service) < _FLOWS:
            self._service[flow] = self._service.get(flow, 0.0) + amount

    def digest(self, counts: Mapping[str, Mapping[str, Count]]) -> bytes:
        """All that is to be said now; what was noted counts as told. To be sent again as it is if that failed."""
        self._serial += 1
        placed, self._placed = self._placed, deque(maxlen=_PLACED)
        service, self._service = self._service, {}
        told = tuple([Service(*flow, amount) for flow, amount in service.items() if amount])
        named = {pool: dict(endpoints) for pool, endpoints in counts.items() if endpoints}
        message = Digest(self.id, self._serial, named, told, tuple(_newest(placed)))
        return msgspec.msgpack.encode(message)

    # -- what others say -------------------------------------------------------------------------------------------

    def hear(self, message: bytes, now: float, age: float = 0.0) -> None:
        """A message that was sent ``age`` seconds ago. One older than the lease says nothing of what is under way."""
        if len(message) > _LONGEST:
            self.malformed += 1
            return
        try:
            digest = self._decoder.decode(message)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self.malformed += 1
            return
        if digest.replica == self.id:
            return
        sender = self._sender(digest.replica)
        if digest.serial <= sender.serial:
            return
        sender.serial = digest.serial
        self._apply(digest, now)
        if age < self.lease:
            sender.at = now - age
            self._live[digest.replica] = sender
            self._learn(sender, digest)
            self._replace(sender, digest.counts, now)

    def _sender(self, replica: str) -> _Sender:
        """One that fell silent is remembered for long: what it said before must not be heard again."""
        sender = self._senders.get(replica)
        if sender is None:
            sender = self._senders[replica] = _Sender()
            if len(self._senders) > _REMEMBERED:
                quiet = next((name for name in self._senders if name not in self._live), None)
                del self._senders[replica if quiet is None else quiet]
        self._senders.move_to_end(replica)
        return sender

    def _apply(self, digest: Digest, now: float) -> None:
        hearer = self.hearer
        for placed in digest.placed:
            hearer.heard(placed, now)
        for service in digest.service:
            hearer.charge(service.pool, service.tenant, service.caller, service.amount)

    def _learn(self, sender: _Sender, digest: Digest) -> None:
        """How much it placed meanwhile, for each request that we placed between its words."""
        seen, sender.seen = sender.seen, dict(self._count)
        for pool, count in self._count.items():
            ours = count - seen.get(pool, count)
            if ours:
                tokens = sum(placed.uncached for placed in digest.placed if placed.pool == pool)
                before = self._unheard.get(pool, 0.0)
                self._unheard[pool] = before + (1.0 - _KEEP**ours) * (tokens - before)
        self._rank()

    def _rank(self) -> None:
        ids = sorted([*self._live, self.id])
        for pool, tokens in self._unheard.items():
            self.hearer.unheard(pool, tokens, ids.index(self.id), len(ids))

    def _replace(self, sender: _Sender, counts: Mapping[str, Mapping[str, Count]], now: float) -> None:
        before = sender.counts
        sender.counts = {
            (pool, endpoint): count for pool, endpoints in counts.items() for endpoint, count in endpoints.items()
        }
        for key in {**before, **sender.counts}:
            self.hearer.elsewhere(*key, self.count(*key), now)

    def count(self, pool: str, endpoint: str) -> Count:
        """What all others together have there."""
        key = pool, endpoint
        return sum((s.counts[key] for s in self._live.values() if key in s.counts), NOTHING)

    def expire(self, now: float) -> None:
        """Those that have been silent for the lease have nothing under way any more."""
        for name, sender in list(self._live.items()):
            if now - sender.at >= self.lease:
                del self._live[name]
                self._replace(sender, {}, now)
                self._rank()


def _newest(
    placed: Iterable[tuple[str, str, int, float, float, Mapping[Blocks, Sequence[int]]]],
) -> Iterable[Placed]:
    """As messages have them, the oldest first; only the newest with their hashes, as many as there is room for."""
    room, told = _BYTES, []
    for pool, endpoint, length, tokens, uncached, chains in reversed(list(placed)):
        room -= 8 * sum(len(hashes) for hashes in chains.values())
        packed = {_cut(blocks): _packed(hashes) for blocks, hashes in chains.items() if hashes} if room >= 0 else {}
        told.append(Placed(pool, endpoint, length, tokens, uncached, packed))
    return reversed(told)


def _cut(blocks: Blocks) -> Cut:
    return blocks.size, blocks.growth, blocks.limit, blocks.published


def _packed(hashes: Sequence[int]) -> bytes:
    return _ordered(array("Q", hashes)).tobytes()


def _unpacked(packed: bytes) -> Sequence[int]:
    whole = len(packed) // 8 * 8
    return _ordered(array("Q", packed[:whole]))


def _ordered(hashes: array[int]) -> array[int]:
    if sys.byteorder == "big":
        hashes.byteswap()
    return hashes
