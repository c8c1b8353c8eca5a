"""What passes between those who wait for an endpoint and the door of its pool: the ticket and the permit. (P)

Invariant: a permit is open until it is closed, once; what it charged meanwhile is what had to be computed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from gateway.config.sharing import Fairness
from gateway.errors import Overloaded
from gateway.fairness import Flow, Terms, Waiter
from gateway.schedule.ask import Ask
from gateway.types import Usage

Spent = Callable[[str, str, str, float], None]
"""Who is told what is charged to whom: pool, tenant, caller, and weighted tokens divided by weight."""


class Place(Protocol):
    """An endpoint of the pool (`gateway.member.Member`)."""

    id: str

    def usable(self, now: float, /) -> bool: ...
    def more(self, now: float, /) -> float: ...
    @property
    def slots(self) -> float: ...
    @property
    def present(self) -> float: ...


class Places(Protocol):
    """The pool behind the door (`gateway.pools.Pool`)."""

    name: str

    @property
    def members(self) -> Sequence[Place]: ...
    def hits(self, ask: Ask, /) -> Mapping[str, float]: ...


class Estimate(Protocol):
    """Tokens a request will take, as far as can be told beforehand."""

    @property
    def input(self) -> float: ...
    @property
    def output(self) -> float: ...


class Waiting(Protocol):
    """Somebody at the door. Exactly one of the two is called, unless it withdraws before."""

    def granted(self, permit: Permit, /) -> None: ...
    def refused(self, error: Overloaded, /) -> None: ...


class Ticket:
    """One request in the queue, until ``expires``. ``held``: prompt tokens that endpoints have of it, as looked up a
    moment ago.
    """

    __slots__ = ("ask", "estimate", "expires", "held", "held_until", "tier", "waiter", "waiting")

    def __init__(self, waiting: Waiting, ask: Ask, estimate: Estimate, expires: float, tier: str = "") -> None:
        self.waiting = waiting
        self.ask = ask
        self.estimate = estimate
        self.expires = expires
        self.tier = tier
        self.waiter: Waiter | None = None
        self.held: Mapping[str, float] = {}
        self.held_until = -math.inf


class Door(Protocol):
    """Who gave a permit (`gateway.gate.Gate`). ``coming``: requests let in that count at no endpoint yet."""

    settings: Fairness
    coming: int

    def charge(self, flow: Flow, terms: Terms, amount: float, now: float, /) -> None: ...
    def closed(self, permit: Permit, correction: float, now: float, /) -> None: ...


class Permit:
    """Leave to dispatch one request. Its tokens are charged to its flow: an estimate first, then what they come to.

    ``since``: when it was given; ``place``: the endpoint it was sent to last.
    """

    __slots__ = ("_input", "_open", "_output", "flow", "gate", "place", "placed", "since", "terms", "waited")

    def __init__(
        self, gate: Door, flow: Flow, terms: Terms, estimate: Estimate, since: float, waited: float = 0.0
    ) -> None:
        self.gate = gate
        self.flow = flow
        self.terms = terms
        self.since = since
        self.waited = waited
        settings = gate.settings
        self._input = settings.input_token_weight * estimate.input
        self._output = settings.output_token_weight * estimate.output
        self._open = True
        self.placed = False
        self.place: Place | None = None

    def counted(self, place: Place | None) -> None:
        """The request counts at an endpoint from now on."""
        self.place = place
        if not self.placed:
            self.placed = True
            self.gate.coming -= 1

    def progress(self, tokens: int, now: float) -> None:
        """So many tokens have been made: an answer longer than estimated is charged for while it runs."""
        output = self.gate.settings.output_token_weight * tokens
        if output > self._output:
            self.gate.charge(self.flow, self.terms, output - self._output, now)
            self._output = output

    def close(self, now: float, usage: Usage | None = None) -> None:
        """It is over: charged is what had to be computed. None: nothing; prompt tokens from a cache are free."""
        if not self._open:
            return
        self._open = False
        if not self.placed:
            self.counted(None)
        settings, actual = self.gate.settings, 0.0
        if usage is not None:
            actual = settings.input_token_weight * max(0, usage.prompt - usage.cached)
            actual += settings.output_token_weight * usage.completion
        self.gate.closed(self, actual - self._input - self._output, now)
