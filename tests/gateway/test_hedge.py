"""Two attempts at one request under virtual time: whose answer is taken, and that everything is given back."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import msgspec
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.config.decode import Duration
from gateway.config.settings import Hedging
from gateway.config.sharing import Fairness
from gateway.config.snapshot import Policy
from gateway.errors import UpstreamError
from gateway.hedges import Hedges
from gateway.member import Member
from gateway.meter import Record
from gateway.route import Target
from gateway.trace import Trace
from gateway.types import Endpoint, InferenceRequest, Operation, UpstreamRequest
from tests.gateway.scripted import A, B, C, FakeExchange, Step, World, run, with_watch

Scripts = dict[Endpoint, list[tuple[int, list[Step]]]]
Answers = Sequence[tuple[int, list[Step]]]
KIND = (Operation.CHAT, True)
SLOW: Answers = [(200, [9.0, b"late!"])]
SOON: Answers = [(200, [0.2, b"soon", 0.5, b"!"])]
REFUSED: tuple[int, list[Step]] = (503, [b"busy"])


def hedged(first: Answers, second: Answers, *, delay: float = 1.0, attempts: int = 3) -> World:
    """A world in which A is asked first, a hedge is due after ``delay`` and there is budget for many."""
    scripts: Scripts = {A: list(first), B: list(second), C: [(200, [b"far!"])]}
    world = World(scripts, policy=Policy(10, 10, 2, attempts=attempts))
    world.prefer(A)
    world.pools["p"].members[1].inflight = 0  # A comes first among equals
    world.gateway.route = lambda request: Target("p", request.model, (Target("q"),), hedge=True)
    learn(world, delay)
    world.pools["p"].hedges.account.earn(1000, 0.0)
    return world


def learn(world: World, delay: float, kind: tuple[str, bool] = KIND) -> None:
    for _ in range(100):
        world.pools["p"].hedges.observe(kind, 0.0, delay, 0.0)


@contextmanager
def given_back(world: World) -> Iterator[None]:
    """Nothing is held afterwards."""
    yield
    assert not world.gateway.calls
    assert not world.gateway.ids
    for member in world.pools.members():
        assert (member.inflight, member.pending, member.unstreamed) == (0, 0, 0)
        assert member.backlog == pytest.approx(0)
    assert [pool.inflight for pool in world.pools.by_name().values()] == [0, 0, 0]
    assert world.pools["p"].hedges.account.lent == pytest.approx(0)


def outcomes(world: World) -> dict[str, int]:
    return {outcome: count for (_, outcome), count in totals(world).hedges.items()}


def totals(world: World):  # type: ignore[no-untyped-def]
    return world.gateway.observer._totals  # type: ignore[attr-defined]


def a(world: World) -> Member:
    return world.pools["p"].members[0]


def test_the_hedge_answers_and_the_first_is_cancelled_at_once() -> None:
    async def scenario() -> None:
        world, exchange = hedged(SLOW, SOON), FakeExchange()
        with given_back(world):
            await world.gateway.serve(exchange)
        assert exchange.said == [(1.2, "soon"), (1.7, "!"), (1.7, "END")]
        assert world.transport.log == ["to a", "to b", "closed a", "kept b"]
        assert world.adapter.ids == ["r1", "r1-2"]
        record = world.records[0]
        assert (record.endpoint, record.beside, record.hedge, record.attempts) == (B.id, A.id, "won", 2)
        assert (record.ttft_s, record.tokens_in, record.tokens_out) == (1.2, 3, 2)
        assert record.failures == ()
        assert outcomes(world) == {"won": 1}
        assert totals(world).attempts == {("p", A.id, "cancelled"): 1, ("p", B.id, "ok"): 1}
        assert a(world).failures == a(world).health.consecutive == 0

    run(scenario)


def test_the_first_answers_after_all_and_the_hedge_is_cancelled() -> None:
    async def scenario() -> None:
        world, exchange = hedged([(200, [1.5, b"one", 1.0, b"!"])], SLOW), FakeExchange()
        with given_back(world):
            await world.gateway.serve(exchange)
        assert exchange.said == [(1.5, "one"), (2.5, "!"), (2.5, "END")]
        assert world.transport.log == ["to a", "to b", "closed b", "kept a"]
        assert (world.records[0].endpoint, world.records[0].beside, world.records[0].hedge) == (A.id, B.id, "lost")
        assert outcomes(world) == {"lost": 1}
        assert totals(world).hedge_tokens == {("p",): 1}
        left = (1000 * math.exp(-1 / 300) - 17) * math.exp(-1.5 / 300) + 17
        assert world.pools["p"].hedges.account.credit(2.5) == pytest.approx(left - 1 + 0.05 * 5, abs=0.1)

    run(scenario)


def test_who_answers_in_time_is_not_hedged() -> None:
    async def scenario() -> None:
        world, exchange = hedged([(200, [0.9, b"one", 2.0, b"!"])], SOON), FakeExchange()
        with given_back(world):
            await world.gateway.serve(exchange)
        assert world.transport.log == ["to a", "kept a"]
        assert outcomes(world) == {}
        assert world.records[0].hedge == ""

    run(scenario)


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        pytest.param([(200, [2.0, UpstreamError("x", retryable=True)])], [(200, [3.0, b"b!"])], "b!", id="fails"),
        pytest.param([(200, [2.0, b"err"])], [(200, [3.0, b"b!"])], "b!", id="says that it fails"),
        pytest.param([(200, [2.0, UpstreamError("x", status=500)])], [(200, [3.0, b"b!"])], "b!", id="500"),
        pytest.param([(200, [3.0, b"a!"])], [REFUSED], "a!", id="the hedge is refused"),
        pytest.param([(200, [3.0, b"a!"])], [], "a!", id="the hedge cannot connect"),
        pytest.param([(200, [3.0, b"a!"])], [(400, [b"no"])], "a!", id="the hedge has it worse"),
        pytest.param([(200, [3.0, b"a!"])], [(200, [1.0, b"err"])], "a!", id="the hedge fails"),
        pytest.param([(200, [2.0, b"err"])], [(200, [3.0, b"err"])], "far!", id="both fail, so the fallback"),
        pytest.param([(200, [3.0, b"err"])], [(200, [1.0, b"err"])], "far!", id="both fail the other way round"),
    ],
)
def test_each_leg_is_the_others_failover(first: Answers, second: Answers, said: str) -> None:
    async def scenario() -> None:
        world, exchange = hedged(first, second), FakeExchange()
        with given_back(world):
            assert await world.ask(exchange) == [said, "END"]
        assert world.records[0].status == 200
        assert world.records[0].tokens_in == 3

    run(scenario)


def test_what_an_engine_says_of_the_request_itself_is_the_answer() -> None:
    async def scenario() -> None:
        world = hedged([(200, [2.0, UpstreamError("too long", status=400)])], SLOW)
        with given_back(world):
            assert await world.ask(FakeExchange()) == ["FAIL 400 upstream_error"]
        assert world.transport.log == ["to a", "to b", "closed a", "closed b"]

    run(scenario)


def test_if_both_fail_for_good_the_client_is_told_the_first_ones_failure() -> None:
    async def scenario() -> None:
        world = hedged([(200, [2.0, UpstreamError("x", status=500)])], [(200, [3.0, UpstreamError("y", status=501)])])
        with given_back(world):
            assert await world.ask(FakeExchange()) == ["FAIL 500 upstream_error"]
        assert world.records[0].failures == ((A.id, "upstream_error"), (B.id, "upstream_error"))

    run(scenario)


def test_an_answer_that_breaks_is_broken_whichever_leg_it_is() -> None:
    async def scenario() -> None:
        world = hedged(SLOW, [(200, [b"soon", UpstreamError("died", retryable=True)])])
        with given_back(world):
            said = await world.ask(FakeExchange())
        assert said[0] == "soon"
        assert said[1].startswith("FAIL")
        assert world.records[0].hedge == "won"

    run(scenario)


def test_both_first_tokens_in_one_moment_are_one_answer() -> None:
    async def scenario() -> None:
        world = hedged([(200, [1.5, b"a", b"!"])], [(200, [0.5, b"b", b"!"])])
        with given_back(world):
            said = await world.ask(FakeExchange())
        assert said in (["a", "!", "END"], ["b", "!", "END"])
        assert world.records[0].endpoint == (A if said[0] == "a" else B).id
        assert len(outcomes(world)) == 1

    run(scenario)


def test_a_client_that_leaves_ends_both() -> None:
    async def scenario() -> None:
        world = hedged(SLOW, SLOW)
        with given_back(world), trio.move_on_after(2.0):
            await world.gateway.serve(FakeExchange())
        assert sorted(world.transport.log) == ["closed a", "closed b", "to a", "to b"]
        assert (world.records[0].status, world.records[0].reason) == (499, "client_gone")
        assert outcomes(world) == {"left": 1}

    run(scenario)


def test_the_deadline_is_both_legs() -> None:
    async def scenario() -> None:
        world = hedged([(200, [None])], [(200, [None])])
        exchange = FakeExchange()
        exchange.request = msgspec.structs.replace(exchange.request, deadline=3.0)
        with given_back(world):
            await with_watch(world, lambda: world.gateway.serve(exchange))
        assert exchange.said[0][0] <= 3.3
        assert exchange.said[0][1].startswith("FAIL 504")

    run(scenario)


def test_a_first_leg_that_is_cut_leaves_the_second_its_time() -> None:
    async def scenario() -> None:
        world = hedged([(200, [None])], [(200, [9.5, b"b!"])])
        with given_back(world):
            exchange = FakeExchange()
            await with_watch(world, lambda: world.gateway.serve(exchange))
        assert exchange.said == [(10.5, "b!"), (10.5, "END")]

    run(scenario)


def test_the_process_ends_both() -> None:
    async def scenario() -> None:
        world, exchange = hedged([(200, [None])], [(200, [None])]), FakeExchange()
        with given_back(world):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(world.gateway.serve, exchange)
                await trio.sleep(2)
                assert len(world.gateway.calls) == 1
                world.gateway.give_up()
        assert exchange.said[0][1].startswith("FAIL 503")

    run(scenario)


def test_a_role_is_no_answer_while_a_hedge_may_come() -> None:
    """Shown to the client, it would tie it to the engine that is slow."""

    async def scenario() -> None:
        world, exchange = hedged([(200, [b"role", 9.0, b"late!"])], SOON), FakeExchange()
        with given_back(world):
            await with_watch(world, lambda: world.gateway.serve(exchange))
        assert exchange.said[0] == (1.2, "soon")

    run(scenario)


def test_a_role_is_shown_once_the_first_is_alone() -> None:
    async def scenario() -> None:
        world, exchange = hedged([(200, [b"role", 5.0, b"late!"])], [REFUSED]), FakeExchange()
        with given_back(world):
            await with_watch(world, lambda: world.gateway.serve(exchange))
        assert exchange.said[0][0] < 2.0
        assert [what for _, what in exchange.said] == ["role", "late!", "END"]

    run(scenario)


def test_a_role_is_shown_once_the_second_is_alone() -> None:
    async def scenario() -> None:
        world = hedged([(200, [2.0, b"err"])], [(200, [0.5, b"role", 5.0, b"late!"])])
        exchange = FakeExchange()
        with given_back(world):
            await with_watch(world, lambda: world.gateway.serve(exchange))
        assert exchange.said[0][0] < 3.0
        assert [what for _, what in exchange.said] == ["role", "late!", "END"]

    run(scenario)


def test_one_hedge_a_request() -> None:
    async def scenario() -> None:
        world = hedged([(200, [2.0, b"err"])], [(200, [3.0, b"err"])])
        world.gateway.route = lambda request: Target("p", request.model, (Target("q", hedge=True),), hedge=True)
        with given_back(world):
            await world.ask(FakeExchange())
        assert world.records[0].attempts == 3
        assert outcomes(world) == {"failed": 1}

    run(scenario)


def unhedged(change: Callable[[World, FakeExchange], None], outcome: dict[str, int]) -> None:
    async def scenario() -> None:
        world, exchange = hedged([(200, [5.0, b"a!"])], SOON), FakeExchange()
        change(world, exchange)
        before = [member.inflight for member in world.pools["p"].members]
        await world.gateway.serve(exchange)
        assert [what for _, what in exchange.said] == ["a!", "END"]
        assert world.transport.log == ["to a", "kept a"]
        assert outcomes(world) == outcome
        assert [member.inflight for member in world.pools["p"].members] == before

    run(scenario)


def _asks(body: bytes, operation: Operation = Operation.CHAT) -> Callable[[World, FakeExchange], None]:
    def change(world: World, exchange: FakeExchange) -> None:
        exchange.request = msgspec.structs.replace(exchange.request, body=body, operation=operation)
        learn(world, 1.0, (operation, True))

    return change


def _off(world: World, exchange: FakeExchange) -> None:
    world.gateway.route = lambda request: Target("p", request.model, (Target("q"),))


def _unlearned(world: World, exchange: FakeExchange) -> None:
    world.pools["p"].hedges = type(world.pools["p"].hedges)()


def _poor(world: World, exchange: FakeExchange) -> None:
    assert world.pools["p"].hedges.account.lend(995, 0.0)


def _no_share(world: World, exchange: FakeExchange) -> None:
    world.gateway.hedging = Hedging(budget=0)


def _tries(world: World, exchange: FakeExchange) -> None:
    world.pools["p"].policy = Policy(10, 10, 2, attempts=1)


def _down(world: World, exchange: FakeExchange) -> None:
    world.pools["p"].members[1].up = False


def _busy(world: World, exchange: FakeExchange) -> None:
    """The other would itself take longer than the first has had."""
    world.pools["p"].members[1].until = 100.0


def _full(world: World, exchange: FakeExchange) -> None:
    other = world.pools["p"].members[1]
    other.room.full(1, 0.0)
    other.inflight = 1


def _home(world: World, exchange: FakeExchange) -> None:
    world.pools["p"].profile.at_home = lambda ask, left: True  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("change", "outcome"),
    [
        (_off, {}),
        (_unlearned, {}),
        (_no_share, {}),
        (_tries, {}),
        (_home, {}),
        (_asks(b'{"n":2}'), {}),
        (_asks(b'{"store":true}'), {}),
        (_asks(b'{"input":"x"}', Operation.RESPONSES), {}),
        (_poor, {"no_budget": 1}),
        (_down, {"no_room": 1}),
        (_busy, {"no_room": 1}),
        (_full, {"no_room": 1}),
    ],
)
def test_when_there_is_no_hedge(change: Callable[[World, FakeExchange], None], outcome: dict[str, int]) -> None:
    unhedged(change, outcome)


def test_where_others_wait_for_room_nothing_is_asked_twice() -> None:
    async def scenario() -> None:
        world, first, waits = hedged([(200, [5.0, b"a!"]), (200, [b"x!"])], SOON), FakeExchange(), FakeExchange()
        world.pools.fairness = Fairness(enabled=True, max_concurrent=1)
        world.pools.apply(world.specs)
        waits.request = msgspec.structs.replace(waits.request, id="r2")
        with given_back(world):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(world.gateway.serve, first)
                await trio.sleep(0.1)
                nursery.start_soon(world.gateway.serve, waits)
        assert first.said == [(5.0, "a!"), (5.0, "END")]
        assert outcomes(world) == {"no_room": 1}

    run(scenario)


def test_the_callers_permit_is_one() -> None:
    async def scenario() -> None:
        world, exchange = hedged(SLOW, SOON), FakeExchange()
        world.pools.fairness = Fairness(enabled=True)
        world.pools.apply(world.specs)
        gate = world.pools["p"].gate
        assert gate is not None
        with given_back(world):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(world.gateway.serve, exchange)
                await trio.sleep(1.1)
                assert (gate.inflight, world.pools["p"].inflight) == (1, 2)
        assert (gate.inflight, gate.coming, gate.released) == (0, 0, 1)

    run(scenario)


def test_who_waits_gets_the_place_of_a_loser_at_once() -> None:
    async def scenario() -> None:
        world, first, waits = hedged([*SLOW, (200, [b"next!"])], SOON), FakeExchange(), FakeExchange()
        world.pools.fairness = Fairness(enabled=True)
        world.pools.apply(world.specs)
        waits.request = msgspec.structs.replace(waits.request, id="r2")
        with given_back(world):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(world.gateway.serve, first)
                await trio.sleep(1.1)
                for member in world.pools["p"].members:
                    member.room.full(1, trio.current_time())
                await world.gateway.serve(waits)
        assert waits.said[0] == (1.2, "next!")

    run(scenario)


def test_whole_answers_are_hedged_too() -> None:
    async def scenario() -> None:
        world = hedged([(200, [9.0, b"late!"])], [(200, [0.5, b"whole!"])])
        learn(world, 1.0, (Operation.EMBEDDINGS, False))
        exchange = FakeExchange(stream=False)
        exchange.request = msgspec.structs.replace(exchange.request, operation=Operation.EMBEDDINGS)
        with given_back(world):
            await world.gateway.serve(exchange)
        assert exchange.said == [(1.5, "whole!"), (1.5, "END")]

    run(scenario)


def test_what_passes_as_it_is_is_asked_once() -> None:
    async def scenario() -> None:
        world, exchange = hedged([(200, [5.0, b"a"])], SOON), FakeExchange()
        await world.gateway.serve(exchange, raw=UpstreamRequest(b"POST", b"/x"))
        assert world.transport.log == ["to a", "kept a"]

    run(scenario)


def test_what_is_learned_is_the_first_legs_time_at_least() -> None:
    """A hedge that wins is no fast request, but a slow one that is known to be."""

    async def scenario() -> None:
        world = hedged(SLOW, SOON)
        seen: list[float] = []

        class Spy(Hedges):
            def observe(self, kind: tuple[str, bool], expected: float, observed: float, now: float) -> None:
                seen.append(observed)
                super().observe(kind, expected, observed, now)

        hedges = world.pools["p"].hedges = Spy()
        learn(world, 1.0)
        hedges.account.earn(1000, 0.0)
        believed = a(world).speed.takes(1.0)
        await world.gateway.serve(FakeExchange())
        assert seen[100:] == [1.2]
        assert a(world).speed.takes(1.0) > believed

    run(scenario)


def test_requests_pay_for_hedges() -> None:
    async def scenario() -> None:
        world = hedged([(200, [b"a!"])], SOON)
        account = world.pools["p"].hedges.account
        account.lend(account.credit(0.0), 0.0)
        await world.gateway.serve(FakeExchange())
        assert account.credit(trio.current_time()) == pytest.approx(0.05 * 4)

    run(scenario)


def test_a_hedge_is_a_span_and_an_explanation_tells_of_it() -> None:
    class Traces:
        def __init__(self) -> None:
            self.traces: list[Trace] = []

        def begin(self, request: InferenceRequest, now: float) -> Trace:
            numbers = iter(range(1, 100))
            return Trace(None, 7, True, lambda bits: next(numbers))

        def end(self, trace: Trace, record: Record) -> None:
            self.traces.append(trace)

    async def scenario() -> None:
        world, traces = hedged(SLOW, SOON), Traces()
        world.gateway.tracer = traces
        await world.gateway.serve(FakeExchange())
        steps = [step for step in traces.traces[0].steps if step.name == "attempt"]
        assert [step.attributes.get("infer_gateway.hedge") for step in steps] == [None, True]
        assert [step.attributes["infer_gateway.endpoint"] for step in steps] == [A.id, B.id]
        assert [step.events for step in steps] == [(), (("first token", 1.2),)]
        decision = world.gateway.decisions.newest()[0]
        assert (decision["tried"], decision["hedge"]) == ([A.id, B.id], "won")

    run(scenario)


@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize("first", [SLOW, [(200, [2.0, b"err"])], [(200, [2.0, UpstreamError("x", status=500)])]])
def test_a_finished_race_is_freed_without_the_garbage_collector(first: Answers) -> None:
    async def scenario() -> None:
        world = hedged(first, [(200, [3.0, b"b!"])])
        exchange = FakeExchange()
        gone = weakref.ref(exchange)
        await world.gateway.serve(exchange)
        del exchange
        await trio.lowlevel.checkpoint()
        assert gone() is None

    run(scenario)


def test_a_defect_in_the_second_leg_is_not_kept_quiet() -> None:
    async def scenario() -> None:
        world = hedged(SLOW, SOON)
        sending = world.transport.send

        def broken(endpoint: object, request: object) -> object:
            if endpoint == B:
                raise RuntimeError("a defect")
            return sending(endpoint, request)  # type: ignore[arg-type]

        world.transport.send = broken  # type: ignore[assignment, method-assign]
        with given_back(world), pytest.raises(RuntimeError, match="a defect"):
            await world.gateway.serve(FakeExchange())

    run(scenario)


times = st.floats(0, 4).map(lambda value: round(value, 1))
endings: st.SearchStrategy[list[Step]] = st.sampled_from(
    [[b"one", b"!"], [b"one", 0.3, b"two!"], [b"role", 0.4, b"two!"], [b"err"], [b"role", b"err"], [b"role"],
     [UpstreamError("x", status=500)], [UpstreamError("x", status=400)], [UpstreamError("x", retryable=True)],
     [b"one", UpstreamError("x", retryable=True)], [None]],
)  # fmt: skip
legs = st.tuples(times, endings, st.sampled_from([200, 200, 200, 503]))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(legs, legs, st.floats(0.1, 6)), min_size=1, max_size=6), st.floats(0, 60))
def test_whatever_happens_when_one_answer_at_most_and_everything_is_given_back(
    plan: list[tuple[tuple[float, list[Step], int], tuple[float, list[Step], int], float]], budget: float
) -> None:
    """Many at once, each leg as slow and as broken as chance has it, some clients impatient."""

    async def scenario() -> None:
        scripts: Scripts = {A: [], B: []}
        for first, second, _ in plan:
            for endpoint, (wait, ending, status) in ((A, first), (B, second)):
                scripts[endpoint].append((status, [wait, *ending] if status == 200 else [b"busy"]))
        world = hedged(scripts[A], scripts[B], delay=0.7)
        account = world.pools["p"].hedges.account
        account.lend(account.credit(0.0), 0.0)
        account.lent = 0.0
        account.earn(budget, 0.0)
        world.gateway.hedging = Hedging(budget=1e-9, min_delay=Duration(0.05))
        exchanges = [FakeExchange() for _ in plan]

        async def ask(index: int) -> None:
            exchange = exchanges[index]
            exchange.request = msgspec.structs.replace(exchange.request, id=f"r{index}")
            with trio.move_on_after(plan[index][2]):
                await world.gateway.serve(exchange)

        async def everybody() -> None:
            async with trio.open_nursery() as nursery:
                for index in range(len(plan)):
                    nursery.start_soon(ask, index)

        with given_back(world):
            await with_watch(world, everybody)
        for exchange, record in zip(exchanges, sorted(world.records, key=lambda each: each.id), strict=True):
            said = "".join(what for _, what in exchange.said)
            ends = said.count("END") + said.count("FAIL")
            assert ends <= 1
            assert ends == 1 or record.status == 499
            whole = said.replace("role", "").replace("END", "").replace("far!", "")
            assert whole.partition("FAIL")[0] in ("", "one", "one!", "onetwo!", "two!")
            assert record.attempts <= 3
        assert totals(world).hedge_tokens.get(("p",), 0) <= budget + len(plan)

    run(scenario)
