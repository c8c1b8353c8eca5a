"""What other replicas and Redis say: believed only as far as it makes sense. (P)

Property: whatever is heard, nothing is raised, nothing is charged twice by a repetition, what is told of each endpoint
is the sum of what live replicas say last, and all of it is gone when their lease is. A reply of the limits' script is
grants of numbers, or a ValueError.
"""

from __future__ import annotations

from gateway.replicas import NOTHING, Count, Placed, Replicas
from gateway.store import batch


class _Ear:
    """Takes note of all it is told."""

    def __init__(self) -> None:
        self.counts: dict[tuple[str, str], Count] = {}
        self.charged: list[float] = []

    def elsewhere(self, pool: str, endpoint: str, count: Count, now: float) -> None:
        self.counts[pool, endpoint] = count

    def heard(self, placed: Placed, now: float) -> None:
        assert placed.uncached >= 0, placed

    def charge(self, pool: str, tenant: str, caller: str, amount: float) -> None:
        assert abs(amount) <= 1e12, amount
        self.charged.append(amount)

    def unheard(self, pool: str, tokens: float, rank: int, replicas: int) -> None:
        assert 0 <= rank < replicas, (rank, replicas)


def target(data: bytes) -> None:
    """First byte: a reply of the script, or how many messages the rest is, cut in equal parts."""
    if not data:
        return
    count, rest = data[0] & 3, data[1:]
    if not count:
        _reply(rest)
        return
    size = max(1, len(rest) // count)
    messages = [rest[at : at + size] for at in range(0, len(rest), size)][:count]
    ear = _Ear()
    replicas = Replicas("me", ear)
    for now, message in enumerate(messages):
        replicas.hear(message, float(now), age=data[0] / 64)
    charged = list(ear.charged)
    for now, message in enumerate(reversed(messages), len(messages)):
        replicas.hear(message, float(now))
    if count == 1:
        assert ear.charged == charged, (charged, ear.charged)
    for key, told in ear.counts.items():
        assert told == replicas.count(*key), key
    replicas.expire(len(messages) + 10 * replicas.lease + 10)
    assert all(told == NOTHING for told in ear.counts.values()), ear.counts


def _reply(data: bytes) -> None:
    try:
        granted = batch.answers(data)
    except ValueError:
        return
    for each in granted:
        assert isinstance(each.granted, bool)
        assert all(isinstance(used, float) for used in (each.wait, each.at, *each.used)), each
