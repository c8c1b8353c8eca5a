"""One process of a contest at a limit that several share: ``python -m conformance.fairness.contender ORDERS``. (IO)

Invariant: a process begins when it is told to and not before Redis answers it; what it prints is one `Report` as JSON.
"""

from __future__ import annotations

import sys
import time

import msgspec
import trio

from conformance.fairness.contest import CONTESTS, Contest, Grant, contend
from gateway.config.decode import Duration, Hidden
from gateway.config.sharing import Redis as Settings
from gateway.store.local import Local
from gateway.store.redis import Redis

TIMEOUT_S = 2.0
"""So long an answer is waited for: a busy machine is not what is measured."""


class Orders(msgspec.Struct, frozen=True):
    """Which contest, where, by how many callers, when to begin (seconds of the system's monotonic clock)."""

    contest: int
    seconds: float
    url: str
    prefix: str
    callers: int
    begin: float
    seed: str


class Report(msgspec.Struct, frozen=True):
    """``grants`` on the system's monotonic clock, but for the store's own. ``alone``: decided without Redis."""

    grants: list[Grant]
    alone: int


def contest(orders: Orders) -> Contest:
    return msgspec.structs.replace(CONTESTS[orders.contest], seconds=orders.seconds)


async def report(orders: Orders) -> Report:
    """Take part in it."""
    settings = Settings(url=Hidden(orders.url), prefix=orders.prefix, timeout=Duration(TIMEOUT_S))
    store = Redis(settings, Local())
    ahead = time.monotonic() - trio.current_time()
    begin = orders.begin - ahead
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.run)
        while not store.statistics().connected:  # noqa: ASYNC110  nobody tells
            await trio.sleep(0.01)
        await trio.sleep_until(begin)
        alone = store.statistics().fallbacks
        grants = await contend(store, contest(orders), orders.callers, begin + orders.seconds, orders.seed)
        alone = store.statistics().fallbacks - alone
        nursery.cancel_scope.cancel()
    return Report([Grant(grant.at, grant.start + ahead, grant.end + ahead) for grant in grants], alone)


def main() -> None:
    orders = msgspec.json.decode(sys.argv[1], type=Orders)
    sys.stdout.buffer.write(msgspec.json.encode(trio.run(report, orders)))


if __name__ == "__main__":
    main()
