"""What callers are charged for, under virtual time: whatever they and engines do, it is what was done for them."""

from __future__ import annotations

import msgspec
import pytest
import trio
import trio.testing

from gateway.config.sharing import Fairness, LimitMatch, RateLimits
from gateway.ledger import Ledger
from gateway.observe import Observers
from gateway.store.local import Local
from tests.gateway.scripted import A, B, FakeExchange, Step, World, run

FEW = 10_000
"""So few a month that what leaks meanwhile is hardly seen."""


def charging(*answers: list[Step]) -> World:
    """Everybody's requests and tokens are kept in one account each, and what they are served in a queue's counters."""
    world = World({A: [(200, answer) for answer in answers], B: []})
    world.prefer(A)
    limits = RateLimits(LimitMatch(), (), requests_per_month=FEW, output_tokens_per_month=FEW)
    world.gateway.ledger = Ledger([limits])
    world.pools.fairness = Fairness(enabled=True)
    world.pools.apply(world.specs)
    return world


def used(world: World, what: str) -> float:
    store = world.gateway.store
    assert isinstance(store, Local)
    (account,) = [account for key, account in store._accounts.items() if key.startswith(f"{what}/")]
    return account.used


def served(world: World) -> float:
    gate = world.pools["p"].gate
    assert gate is not None
    (flow,) = gate.flows(trio.current_time())
    return flow.served


async def left(world: World, exchange: FakeExchange, after_s: float) -> None:
    """A client asks, and hangs up after so long."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.gateway.serve, exchange)
        await trio.sleep(after_s)
        await trio.testing.wait_all_tasks_blocked()  # the gateway knows what time it is
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(("stays_s", "decode", "tokens"), [(5.0, 0.1, 50), (5.0, 0.0, 250), (90.0, 0.1, 256)])
def test_a_whole_answer_that_nobody_waits_for_is_charged_for_its_time(
    stays_s: float, decode: float, tokens: int
) -> None:
    """Else whoever hangs up just before the end has an engine to itself for nothing, and is next in the queue again."""

    async def scenario() -> None:
        world = charging([None])
        world.pools["p"].members[0].speed.decode = decode
        await left(world, FakeExchange(stream=False), stays_s)
        assert used(world, "requests") == pytest.approx(1, abs=0.5)
        assert used(world, "output_tokens") == pytest.approx(tokens, abs=2)
        assert served(world) == pytest.approx(1 + 2 * tokens, abs=4)
        assert (world.records[0].status, world.records[0].tokens_out) == (499, 0)

    run(scenario)


def test_what_ends_after_its_endpoint_has_left_opens_no_series_of_it() -> None:
    """Fleets change all the time, under streams: series that nobody drops any more would use up all there may be."""

    async def scenario() -> None:
        world = World({A: [(200, [5.0, b"!"])]})
        (spec, *others), observer = world.specs, world.gateway.observer
        assert isinstance(observer, Observers)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.gateway.serve, FakeExchange())
            await trio.sleep(1)
            for member in world.pools.apply([msgspec.structs.replace(spec, endpoints=(B,)), *others]):
                assert member.gone
        assert world.records[0].status == 200
        assert dict(observer._totals.attempts) == {("p", "other", "ok"): 1}

    run(scenario)


def test_an_endpoint_of_which_only_labels_changed_has_not_left() -> None:
    async def scenario() -> None:
        world = World({})
        spec, *others = world.specs
        labelled = msgspec.structs.replace(A, labels=(("zone", "a"),))
        (left,) = world.pools.apply([msgspec.structs.replace(spec, endpoints=(labelled, B)), *others])
        assert left.id == labelled.id
        assert not left.gone

    run(scenario)
