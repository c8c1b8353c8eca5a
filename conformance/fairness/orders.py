"""Other answers to who is next, to be measured against; and the gateway's own, watched. (P)

Invariant: each stands where the gateway's order stands and differs from it in whom it pops alone.
"""

from __future__ import annotations

import math
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from conformance.fairness.service import Curve
from gateway.config.sharing import Fairness
from gateway.fairness import Order
from gateway.flows import Flow, Terms, Waiter

Eligible = Callable[[Flow], bool]
Hit = Callable[[Waiter], float]
Key = tuple[str, str]


class Ours(Order):
    """The gateway's own, and what it has ``charged`` each caller: weighted tokens over weight."""

    def __init__(self, settings: Fairness) -> None:
        super().__init__(
            window=float(settings.window_size), quantum=settings.locality_quantum, ageing=float(settings.ageing)
        )
        self.charged: dict[Key, Curve] = defaultdict(Curve)

    def pop(self, now: float, eligible: Eligible | None = None, hit: Hit | None = None) -> Waiter | None:
        waiter = super().pop(now, eligible, hit)
        if waiter is not None:
            self.charged[waiter.flow.key].add(now, waiter.cost / waiter.terms.weight)
        return waiter

    def pass_by(self, flow: Flow, terms: Terms, cost: float, now: float) -> None:
        super().pass_by(flow, terms, cost, now)
        self.charged[flow.key].add(now, cost / terms.weight)

    def charge(self, flow: Flow, terms: Terms, amount: float, now: float) -> None:
        super().charge(flow, terms, amount, now)
        self.charged[flow.key].add(now, amount / terms.weight)

    def completed(self, key: Key, amount: float, now: float) -> None:
        """A request of theirs has ended, and was worth so many weighted tokens."""


class Plain(Order):
    """Nothing is charged to anybody."""

    def __init__(self, settings: Fairness) -> None:
        super().__init__(window=float(settings.window_size))

    def pop(self, now: float, eligible: Eligible | None = None, hit: Hit | None = None) -> Waiter | None:
        """Of those who may, the first that `ranked` names."""
        for waiter in self.ranked():
            if eligible is None or eligible(waiter.flow):
                self.remove(waiter)
                return waiter
        return None

    def ranked(self) -> Iterator[Waiter]:
        raise NotImplementedError

    def pass_by(self, flow: Flow, terms: Terms, cost: float, now: float) -> None:
        pass

    def charge(self, flow: Flow, terms: Terms, amount: float, now: float) -> None:
        pass

    def completed(self, key: Key, amount: float, now: float) -> None:
        pass


class Fifo(Plain):
    """First come, first served."""

    def ranked(self) -> Iterator[Waiter]:
        return self.waiters()


class _ByFlow(Plain):
    """Base of those who look at flows: each one's requests keep their order."""

    def __init__(self, settings: Fairness) -> None:
        super().__init__(settings)
        self.lines: OrderedDict[Key, deque[Waiter]] = OrderedDict()

    def push(self, waiter: Waiter, now: float) -> None:
        super().push(waiter, now)
        self.lines.setdefault(waiter.flow.key, deque()).append(waiter)

    def remove(self, waiter: Waiter) -> None:
        super().remove(waiter)
        line = self.lines[waiter.flow.key]
        line.remove(waiter)
        if not line:
            del self.lines[waiter.flow.key]


class Turns(_ByFlow):
    """Round robin by request: each flow that waits has one served in its turn, however large."""

    def ranked(self) -> Iterator[Waiter]:
        return (line[0] for line in list(self.lines.values()))

    def remove(self, waiter: Waiter) -> None:
        super().remove(waiter)
        if waiter.flow.key in self.lines:
            self.lines.move_to_end(waiter.flow.key)


class LeastUsed(_ByFlow):
    """Whoever used least within the window, as Kthena has it: charged when a request ends, looked up when it comes.

    Mended in one point: a flow is ranked by the request that is first in it, where there the order of a user's own
    requests and that between users contradict each other.
    """

    def __init__(self, settings: Fairness) -> None:
        super().__init__(settings)
        self._window = float(settings.window_size)
        self._used: dict[Key, deque[tuple[float, float]]] = {}
        self._rank: dict[Waiter, float] = {}

    def push(self, waiter: Waiter, now: float) -> None:
        super().push(waiter, now)
        used = self._used.get(waiter.flow.key, deque())
        while used and used[0][0] < now - self._window:
            used.popleft()
        self._rank[waiter] = math.fsum(amount for _, amount in used)

    def remove(self, waiter: Waiter) -> None:
        super().remove(waiter)
        del self._rank[waiter]

    def ranked(self) -> Iterator[Waiter]:
        heads = (line[0] for line in self.lines.values())
        return iter(sorted(heads, key=lambda waiter: (self._rank[waiter], waiter.since)))

    def completed(self, key: Key, amount: float, now: float) -> None:
        self._used.setdefault(key, deque()).append((now, amount))


class Placed(NamedTuple):
    """One permit as the order saw it, over its weight: what was charged at its dispatch and what in the end."""

    key: Key
    start: float
    end: float
    estimate: float
    actual: float


class Bound(NamedTuple):
    """The parts of the order's stated bound as one run has them: see `gateway.fairness.Order`."""

    quantum: float
    dispatch: float
    corrections: float

    @property
    def apart(self) -> float:
        """By how much two that both wait may be served differently over any interval, over their weights."""
        return 2.0 * (self.quantum + self.dispatch + self.corrections)


def bound(quantum: float | None, placed: list[Placed]) -> Bound:
    """``corrections``: at the worst moment, all that may yet raise one counter and all that may yet lower another.

    ``quantum`` None: eight times the mean of what waits, which is at most eight times the dearest.
    """
    moments = [moment for each in placed for moment in _moments(each)]
    up: dict[Key, float] = defaultdict(float)
    down: dict[Key, float] = defaultdict(float)
    worst = 0.0
    for _, begins, key, change in sorted(moments):
        (up if change > 0 else down)[key] += abs(change) if begins else -abs(change)
        worst = max(worst, _both(up, down))
    dearest = max((each.estimate for each in placed), default=0.0)
    return Bound(8.0 * dearest if quantum is None else quantum, dearest, worst)


def _moments(each: Placed) -> Iterator[tuple[float, bool, Key, float]]:
    """Its correction may come from the dispatch on, and not after the end."""
    yield each.start, True, each.key, each.actual - each.estimate
    yield each.end, False, each.key, each.actual - each.estimate


def _both(up: Mapping[Key, float], down: Mapping[Key, float]) -> float:
    """The most that one may rise and another fall."""
    pairs = (high + low for a, high in up.items() for b, low in down.items() if a != b)
    return max((*up.values(), *down.values(), *pairs), default=0.0)


MakeOrder = Callable[[Fairness], Ours | Plain]
OURS = "ours"
FIFO = "first come"
ORDERS: Mapping[str, MakeOrder] = {
    OURS: Ours,
    FIFO: Fifo,
    "round robin": Turns,
    "least used": LeastUsed,
}
