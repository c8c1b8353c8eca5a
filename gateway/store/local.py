"""Accounts of limits in this process: `Local`, the store that needs nobody else. (P)

Invariant: all demands of a request are met or none; an account whose content has leaked away is not kept.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

from gateway.buckets import Account, wait
from gateway.types import Demand, Taken

MOST: Final = 250_000
"""Accounts kept; beyond, the one looked at longest ago is forgotten with whatever it holds. Some 120 MB."""


class Local:
    """Implements `gateway.ports.Store`; `take_nowait` always answers.

    Taking brings every account up to ``now`` at the demand's own rate, so a changed limit applies from the last time
    on; an account nobody has heard of is empty. If each demand is met (`gateway.buckets.wait`), each amount is added;
    otherwise nothing is, and the wait is the longest one. Keys of one request differ from each other; their order does
    not matter. ``used`` is in the order of the demands. ``Taken.at`` is ``now``.

    Settling brings each account up to ``now`` and gives back, or charges the debt: `gateway.buckets.Account.settle`.
    To one that is gone nothing is given back; a debt makes it anew. 0 is not looked at.
    """

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._accounts: dict[str, Account] = {}
        self._round: deque[str] = deque()
        self._due = 0

    def __len__(self) -> int:
        return len(self._accounts)

    @property
    def places(self) -> float:
        """Taken, of all limits on requests at once: a walk over the accounts."""
        return sum(account.used for account in self._accounts.values() if not account.rate)

    def take_nowait(self, demands: Sequence[Demand], now: float, /) -> Taken:
        accounts = self._accounts
        found: list[Account | None] = []
        used: list[float] = []
        longest = 0.0
        for demand in demands:
            account = accounts.get(demand.key)
            level = 0.0 if account is None else account.level(demand.rate, now)
            found.append(account)
            used.append(level)
            if (seconds := wait(demand, level)) > longest:
                longest = seconds
        if longest:
            return Taken(False, longest, tuple(used), now)
        for index, demand in enumerate(demands):
            account = found[index] or self._new(demand, now)
            used[index] = account.take(demand.amount)
        self._forget(now)
        return Taken(True, 0.0, tuple(used), now)

    async def take(self, demands: Sequence[Demand], /) -> Taken:
        raise RuntimeError("take_nowait always answers here")

    def settle(self, demands: Sequence[Demand], taken: Taken, given_back: Sequence[float], now: float, /) -> None:
        for demand, back in zip(demands, given_back, strict=True):
            if not back:
                continue
            account = self._accounts.get(demand.key)
            if account is None:
                if back > 0.0:
                    continue
                account = self._new(demand, now)
            account.level(demand.rate, now)
            account.settle(back, taken.at)
        self._forget(now)

    def _new(self, demand: Demand, now: float) -> Account:
        account = self._accounts[demand.key] = Account(demand.rate, now)
        self._round.append(demand.key)
        self._due += 2
        return account

    def _forget(self, now: float) -> None:
        """For every new account two others are looked at: so there are never many more than hold something."""
        if not self._due:
            return
        accounts, turn = self._accounts, self._round
        while self._due and turn:
            self._due -= 1
            key = turn.popleft()
            if len(accounts) > self._most or accounts[key].drained(now):
                del accounts[key]
            else:
                turn.append(key)
