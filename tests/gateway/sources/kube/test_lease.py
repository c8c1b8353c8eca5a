import logging
import random
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.sources.kube.client import ApiError, Unreachable
from gateway.sources.kube.lease import Election
from tests.gateway.sources.kube.memory import Memory

PATH = "/apis/coordination.k8s.io/v1/namespaces/ns/leases/gateway"


def play(main: Callable[[], Awaitable[None]]) -> None:
    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def candidate(server: Memory, identity: str, heard: list[tuple[str, bool]] | None = None) -> Election:
    def changed(leading: bool) -> None:
        if heard is not None:
            heard.append((identity, leading))

    return Election(server, "ns", "gateway", identity, changed=changed, rng=random.Random(1))


def spec(server: Memory) -> dict[str, object]:
    spec: dict[str, object] = server.objects[PATH]["spec"]
    return spec


def test_one_leads_and_renews() -> None:
    async def main() -> None:
        server, heard = Memory(), list[tuple[str, bool]]()
        a, b = candidate(server, "a", heard), candidate(server, "b", heard)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(a.run)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(b.run)
            await trio.sleep(300)
            assert (a.leading, b.leading) == (True, False)
            assert b.holder == "a"
            assert heard == [("a", True)]
            writes = len(server.writes)
            assert 300 / 5 <= writes <= 300 / 2 + 1
            assert spec(server)["leaseTransitions"] == 0
            nursery.cancel_scope.cancel()

    play(main)


@pytest.mark.parametrize("meanwhile", ["b", ""])
def test_one_that_was_stopped_leads_no_more_from_then_on(meanwhile: str) -> None:
    """Trio's clock may not know that it was."""

    async def main() -> None:
        server, heard, away = Memory(), list[tuple[str, bool]](), [0.0]
        one = Election(
            server,
            "ns",
            "gateway",
            "a",
            changed=lambda leading: heard.append(("a", leading)),
            now=lambda: trio.current_time() + away[0],
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.run)
            await trio.sleep(1)
            assert one.leading
            away[0] = 11
            assert not one.leading
            if meanwhile:
                server.put(PATH, {**server.objects[PATH], "spec": {**spec(server), "holderIdentity": meanwhile}})
            await trio.sleep(5)
            assert one.leading == (not meanwhile)
            assert heard == [("a", True), ("a", False), ("a", True)][: 2 if meanwhile else 3]
            nursery.cancel_scope.cancel()

    play(main)


def test_one_that_ends_gives_it_back_and_another_takes_it_at_once() -> None:
    async def main() -> None:
        server, heard = Memory(), list[tuple[str, bool]]()
        a, b = candidate(server, "a", heard), candidate(server, "b", heard)
        async with trio.open_nursery() as nursery:
            with trio.CancelScope() as scope:
                nursery.start_soon(b_after, b, scope, nursery)
                await a.run()
            assert spec(server)["holderIdentity"] == ""
            await trio.sleep(2.5)
            assert b.leading
            assert heard == [("a", True), ("a", False), ("b", True)]
            assert spec(server)["leaseTransitions"] == 1
            nursery.cancel_scope.cancel()

    async def b_after(b: Election, scope: trio.CancelScope, nursery: trio.Nursery) -> None:
        await trio.sleep(1)
        nursery.start_soon(b.run)
        await trio.sleep(20)
        scope.cancel()

    play(main)


def test_giving_it_back_takes_a_second_at_most() -> None:
    async def main() -> None:
        server = Memory()
        a = candidate(server, "a")
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(a.run)
                await trio.sleep(1)
                server.before = hang
                scope.cancel()
        assert trio.current_time() - began == pytest.approx(2.0)
        assert not a.leading

    async def hang(method: str, path: str) -> None:
        await trio.sleep_forever()

    began = 0.0

    async def timed() -> None:
        nonlocal began
        began = trio.current_time()
        await main()

    play(timed)


@pytest.mark.parametrize("last", ["POST", "PUT"])
def test_one_that_ends_before_it_is_answered_gives_it_back_all_the_same(last: str) -> None:
    """While it takes the Lease, or renews it."""

    async def main() -> None:
        server = Memory(after=end)
        a = candidate(server, "a")
        with scope:
            await a.run()
        assert [method for method, *_ in server.calls][-3:] == [last, "GET", "PUT"]
        assert spec(server)["holderIdentity"] == ""
        assert not a.leading

    async def end(method: str, path: str) -> None:
        if method == last:
            scope.cancel()
        await trio.lowlevel.checkpoint()

    scope = trio.CancelScope()
    play(main)


@pytest.mark.parametrize("failure", ["hang", "refuse"])
def test_one_that_cannot_renew_stops_before_another_begins(failure: str) -> None:
    async def main() -> None:
        server, heard = Memory(), list[tuple[str, bool]]()
        times: list[float] = []
        a = Election(server, "ns", "gateway", "a", changed=lambda leading: times.append(trio.current_time()))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(a.run)
            await trio.sleep(7)
            server.before = away
            asked = trio.current_time()
            await trio.sleep(60)
            assert not a.leading
            assert len(times) == 2
            assert asked + 10 - 2.5 <= times[1] <= asked + 10
            server.before = Memory().before
            await trio.sleep(40)
            assert a.leading
            nursery.cancel_scope.cancel()
        assert heard == []

    async def away(method: str, path: str) -> None:
        if failure == "hang":
            await trio.sleep_forever()
        raise Unreachable("connection refused")

    play(main)


def test_a_lost_answer_costs_a_question() -> None:
    async def main() -> None:
        server, heard = Memory(), list[tuple[str, bool]]()
        a = candidate(server, "a", heard)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(a.run)
            await trio.sleep(5)
            server.after = lose
            await trio.sleep(2.4)
            server.after = Memory().after
            await trio.sleep(60)
            assert a.leading
            assert heard == [("a", True)]
            assert spec(server)["leaseTransitions"] == 0
            nursery.cancel_scope.cancel()

    async def lose(method: str, path: str) -> None:
        raise Unreachable("connection reset")

    play(main)


def test_without_the_right_nobody_leads_and_the_log_says_what_is_missing(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        server = Memory(before=forbid)
        a = candidate(server, "a")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(a.run)
            await trio.sleep(600)
            assert not a.leading
            assert "leases of coordination.k8s.io in namespace ns" in a.problem
            assert len(caplog.messages) == 1
            server.before = Memory().before
            await trio.sleep(61)
            assert a.leading
            assert a.problem == ""
            nursery.cancel_scope.cancel()

    async def forbid(method: str, path: str) -> None:
        raise ApiError(403, "Forbidden", "no")

    with caplog.at_level(logging.WARNING, "infer_gateway.kubernetes"):
        play(main)


def test_a_lease_of_client_go_is_respected_and_taken_over_as_client_go_does() -> None:
    async def main() -> None:
        server = Memory()
        server.put(
            PATH,
            {
                "metadata": {"name": "gateway", "namespace": "ns", "uid": "1"},
                "spec": {
                    "holderIdentity": "controller-7d9f_5c1e",
                    "leaseDurationSeconds": 30,
                    "acquireTime": "2026-01-01T00:00:00.000000Z",
                    "renewTime": "2026-01-01T00:00:00.000000Z",
                    "leaseTransitions": 7,
                },
            },
        )
        a = candidate(server, "a")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(a.run)
            await trio.sleep(29.9)
            assert server.writes == []
            await trio.sleep(3)
            assert a.leading
            assert spec(server)["leaseTransitions"] == 8
            assert server.objects[PATH]["metadata"]["uid"] == "1"
            nursery.cancel_scope.cancel()

    play(main)


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32), trouble=st.floats(0.0, 0.6))
def test_two_never_lead_whatever_is_lost_or_late_and_one_does_when_all_is_well(seed: int, trouble: float) -> None:
    rng = random.Random(seed)

    async def fail(method: str, path: str) -> None:
        await trio.sleep(rng.uniform(0.0, 0.05))
        if rng.random() < trouble:
            what = rng.choice(["unreachable", "hang", "busy", "late"])
            if what == "unreachable":
                raise Unreachable("reset")
            if what == "busy":
                raise ApiError(rng.choice([429, 500, 503]), "", "busy", rng.choice([None, 1.0, 600.0]))
            await trio.sleep(60.0 if what == "hang" else rng.uniform(0.0, 6.0))

    async def main() -> None:
        server = Memory(fail, fail)
        elections = [candidate(server, name) for name in "abc"]
        async with trio.open_nursery() as nursery:
            for election in elections:
                nursery.start_soon(election.run)
            for _ in range(1500):
                await trio.sleep(0.1)
                assert sum(election.leading for election in elections) <= 1
            server.before = server.after = Memory().before
            await trio.sleep(100)
            assert sum(election.leading for election in elections) == 1
            nursery.cancel_scope.cancel()

    play(main)
