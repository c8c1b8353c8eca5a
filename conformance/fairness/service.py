"""Who got how much and when: what a run is judged by. (P)

Service is in weighted tokens, noted when they are made: a prompt's with the first token, an answer's one by one.
Invariant: a request is owed for from its arrival until it is served, and nobody is owed what it has not asked for.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

WINDOW_S = 60.0
STRIDE_S = 5.0


class Curve:
    """A sum over time."""

    __slots__ = ("_at", "_sum")

    def __init__(self) -> None:
        self._at: list[float] = [-math.inf]
        self._sum: list[float] = [0.0]

    def add(self, now: float, amount: float) -> None:
        """``now`` is never earlier than before."""
        if self._at[-1] == now:
            self._sum[-1] += amount
        else:
            self._at.append(now)
            self._sum.append(self._sum[-1] + amount)

    def until(self, now: float) -> float:
        """All that was added up to ``now``, that moment included."""
        return self._sum[bisect_right(self._at, now) - 1]

    def between(self, start: float, end: float) -> float:
        """What was added after ``start`` and up to ``end``."""
        return self.until(end) - self.until(start)

    def times(self, start: float, end: float) -> Sequence[float]:
        """The moments from ``start`` to ``end`` at which something was added."""
        return self._at[bisect_left(self._at, start) : bisect_right(self._at, end)]


class Span(NamedTuple):
    start: float
    end: float


class Service:
    """Notes of one run. ``weights`` by client: service is compared as what was served over the weight."""

    def __init__(self, weights: Mapping[str, float]) -> None:
        self.weights = dict(weights)
        self.served = {client: Curve() for client in weights}
        self.asked = {client: Curve() for client in weights}
        self._waiting = dict.fromkeys(weights, 0)
        self._since: dict[str, float] = {}
        self._spans: dict[str, list[Span]] = defaultdict(list)

    def arrived(self, client: str, now: float, amount: float) -> None:
        self.asked[client].add(now, amount)

    def waits(self, client: str, now: float) -> None:
        """One more of its requests is queued."""
        self._waiting[client] += 1
        if self._waiting[client] == 1:
            self._since[client] = now

    def released(self, client: str, now: float) -> None:
        """One of its requests has left the queue."""
        self._waiting[client] -= 1
        if not self._waiting[client]:
            self._spans[client].append(Span(self._since.pop(client), now))

    def got(self, client: str, now: float, amount: float) -> None:
        self.served[client].add(now, amount)

    def total(self, start: float, end: float) -> float:
        """Weighted tokens of all clients."""
        return math.fsum(curve.between(start, end) for curve in self.served.values())

    def backlogs(self, client: str) -> list[Span]:
        """When something of this client's was queued without a break; as far as it has ended."""
        return self._spans[client]

    def _share(self, client: str, start: float, end: float) -> float:
        return self.served[client].between(start, end) / self.weights[client]

    def _windows(self, end: float, window: float) -> Iterator[Span]:
        start = 0.0
        while start + window <= end:
            yield Span(start, start + window)
            start += STRIDE_S

    # -- figures --------------------------------------------------------------------------------------------------

    def windowed(self, end: float, window: float = WINDOW_S) -> list[float]:
        """The service difference of each window up to ``end``: by how much the client that fell behind most did so.

        ``max_j min(max_k s_k − s_j, demand_j − s_j)``: nobody is owed more than it asked for (Sheng et al., 2024).
        Demand is what comes within the window and what was owed at its beginning.
        """
        return [self._behind(span) for span in self._windows(end, window)]

    def _behind(self, span: Span) -> float:
        shares = {client: self._share(client, *span) for client in self.weights}
        most = max(shares.values())
        return max(
            min(most - share, self._owed(client, span) / self.weights[client]) for client, share in shares.items()
        )

    def _owed(self, client: str, span: Span) -> float:
        """What it had asked for and not been served when the window ended."""
        return max(0.0, self.asked[client].until(span.end) - self.served[client].until(span.end))

    def jain(self, end: float, window: float = WINDOW_S) -> list[float]:
        """Jain's index over the service of those that were backlogged for a whole window, where there are two."""
        found = []
        for span in self._windows(end, window):
            waited = [client for client in self.weights if self._backlogged(client, span)]
            if len(waited) > 1:
                found.append(jain([self._share(client, *span) for client in waited]))
        return found

    def _backlogged(self, client: str, span: Span) -> bool:
        return any(each.start <= span.start and span.end <= each.end for each in self._spans[client])

    def apart(self, one: str, other: str) -> float:
        """The most by which two clients' service differs over any interval in which both are backlogged."""
        return self._most_apart(
            one, other, self.served[one], self.served[other], self.weights[one], self.weights[other]
        )

    def charged_apart(self, one: str, other: str, charged: Mapping[tuple[str, str], Curve]) -> float:
        """The same of what they were ``charged``, over weight."""
        return self._most_apart(one, other, charged[one, one], charged[other, other], 1.0, 1.0)

    def _most_apart(self, one: str, other: str, a: Curve, b: Curve, a_weight: float, b_weight: float) -> float:
        worst = 0.0
        for span in self._both(one, other):
            moments = {*a.times(*span), *b.times(*span), *span}
            ahead = [a.until(at) / a_weight - b.until(at) / b_weight for at in moments]
            worst = max(worst, max(ahead) - min(ahead))  # of all pairs of moments
        return worst

    def _both(self, one: str, other: str) -> Iterator[Span]:
        for a, b in itertools.product(self._spans[one], self._spans[other]):
            span = Span(max(a.start, b.start), min(a.end, b.end))
            if span.start < span.end:
                yield span


def jain(values: Sequence[float]) -> float:
    """1 where all are equal, 1/n where one has all."""
    squares = math.fsum(value * value for value in values)
    return math.fsum(values) ** 2 / (len(values) * squares) if squares else 1.0
