"""A request that is placed here and forwarded by a proxy: it counts where it went, and gives everything back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import SimpleNamespace

import msgspec
import pytest
import trio

from gateway.addresses import FRESH_S, Addresses
from gateway.config.sharing import Fairness
from gateway.config.snapshot import PoolSpec
from gateway.destination import implied
from gateway.directives import Directives, Objective, Rewrite, RewriteRule
from gateway.errors import Forbidden, GatewayError, ModelNotFound, NoEndpoints, Overloaded, UpstreamTimeout
from gateway.meter import Record, Totals
from gateway.observe import Observers
from gateway.pick import MAX_KEPT, Pick, pick
from gateway.picker_door import Picker
from gateway.route import Target
from gateway.types import Endpoint, Identity, InferenceRequest, Load, ModelCard, Operation
from tests.gateway.scripted import A, B, World, run, with_watch


class Known(Addresses):
    """Three hosts have addresses."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.names = {"a": "10.0.0.1", "b": "10.0.0.2", "c": "fd00::3"}

    async def _look_up(self, host: str) -> str:
        self.asked.append(host)
        await trio.lowlevel.checkpoint()
        return self.names.get(host, "")


def request(model: str = "m", *, stream: bool = True, only: tuple[str, ...] | None = None) -> InferenceRequest:
    return InferenceRequest(
        "r1", Operation.CHAT, model, b"{}", stream=stream, only=only, identity=Identity(user="u"), protocol="ext_proc",
        view=SimpleNamespace(model=model),
    )  # fmt: skip


def fair() -> World:
    """One request at a time at one endpoint of the pool; the other is down."""
    world = World({})
    world.pools.fairness = Fairness(enabled=True)
    world.pools.apply(world.specs)
    for member in world.pools["p"].members:
        member.up = member.endpoint == A
        member.room.full(1, float("inf"))
    return world


def idle(world: World) -> bool:
    gates = [pool.gate for pool in world.pools.by_name().values() if pool.gate is not None]
    counted = [(gate.inflight, gate.coming, len(gate.order)) for gate in gates]
    return not any(member.inflight for member in world.pools.members()) and counted == [(0, 0, 0)] * len(gates)


def of(member: str, world: World) -> int:
    return next(each.inflight for each in world.pools.members() if each.endpoint.host == member)


Given = Callable[[Pick], Awaitable[None]]


async def picked(world: World, what: Given, asked: InferenceRequest | None = None, pool: str | None = None) -> None:
    async with pick(world.gateway, asked or request(), pool, addresses=Known()) as found:
        await what(found)


async def nothing(found: Pick) -> None:
    found.finish()


def test_an_answer_that_is_shown_is_counted_and_learned_from() -> None:
    async def scenario() -> None:
        world = World({})

        async def what(found: Pick) -> None:
            assert found.addresses == ("10.0.0.1:1", "10.0.0.2:1")
            assert (found.model, of("a", world)) == ("m", 1)
            found.responded(200, ((b"content-type", b"text/event-stream"),))
            await trio.sleep(1)
            found.feed(b"token")
            assert world.pools["p"].members[0].pending == 0
            found.feed(b"end!")
            found.finish()
            assert found.usage is not None

        await picked(world, what)
        (record,) = world.records
        assert (record.status, record.reason, record.endpoint, record.ttft_s) == (200, "", "a:1", 1.0)
        assert (record.tokens_in, record.tokens_out) == (3, 2)
        assert idle(world)

    run(scenario)


def test_a_client_that_leaves_gives_everything_back() -> None:
    async def scenario() -> None:
        world = fair()

        async def what(found: Pick) -> None:
            found.responded(200, ())
            found.feed(b"token")

        await picked(world, what)
        assert [(record.status, record.reason) for record in world.records] == [(499, "client_gone")]
        assert idle(world)

    run(scenario)


def test_whoever_really_served_it_is_charged_and_judged() -> None:
    async def scenario() -> None:
        world = World({})

        async def what(found: Pick) -> None:
            found.responded(200, (), "10.0.0.2:1")
            assert (of("a", world), of("b", world)) == (0, 1)
            found.feed(b"token!")
            found.finish()

        await picked(world, what)
        assert [(record.endpoint, record.attempts) for record in world.records] == [("b:1", 2)]
        assert idle(world)

    run(scenario)


@pytest.mark.parametrize("status", [500, 404])
def test_what_an_engine_refuses_is_what_is_recorded(status: int) -> None:
    async def scenario() -> None:
        world = World({})

        async def what(found: Pick) -> None:
            found.responded(status, ())
            found.feed(b"whatever")
            found.finish()

        for _ in range(5):
            await picked(world, what)
        assert [record.status for record in world.records] == [status] * 5
        blocked = [member.health.blocked_until > 0 for member in world.pools["p"].members]
        assert any(blocked) is (status == 500)
        assert idle(world)

    run(scenario)


def test_an_answer_that_breaks_off_is_a_failure_of_its_engine() -> None:
    async def scenario() -> None:
        world = World({})

        async def what(found: Pick) -> None:
            found.responded(200, ())
            found.feed(b"token")
            found.finish()
            assert found.failure is not None

        await picked(world, what)
        assert [(record.status, record.reason) for record in world.records] == [(200, "upstream_error")]
        assert idle(world)

    run(scenario)


def test_what_nobody_knows_the_meaning_of_says_nothing_of_its_engine() -> None:
    async def scenario() -> None:
        world = World({})

        async def what(found: Pick) -> None:
            found.responded(200, ())
            found.feed(b"token")
            found.finish()
            assert found.failure is None

        for _ in range(5):
            await picked(world, what, msgspec.structs.replace(request(), body=b"", view=None))
        assert [(record.status, record.reason, record.tokens_out) for record in world.records] == [(200, "", 0)] * 5
        assert not any(member.health.blocked_until > 0 for member in world.pools["p"].members)
        assert idle(world)

    run(scenario)


@pytest.mark.parametrize("known", [True, False])
def test_of_an_answer_that_is_larger_than_any_nothing_is_kept(known: bool) -> None:
    async def scenario() -> None:
        world = fair()
        gate = world.pools["p"].gate
        assert gate is not None

        async def what(found: Pick) -> None:
            found.responded(200, ())
            for _ in range(MAX_KEPT // 1_000_000 + 1):
                found.feed(b":" + bytes(1_000_000))
            assert found._attempt.decoder is None
            found.feed(b"token")
            found.finish()

        asked = request() if known else msgspec.structs.replace(request(), body=b"", view=None)
        await picked(world, what, asked)
        assert [(record.status, record.reason, record.tokens_out) for record in world.records] == [(200, "", 0)]
        assert (sum(flow.served for flow in gate.flows(0.0)) > 0) is known
        assert idle(world)

    run(scenario)


def test_an_engine_that_falls_silent_is_judged_by_it() -> None:
    async def scenario() -> None:
        world = World({})

        async def what(found: Pick) -> None:
            raise UpstreamTimeout("nothing came")

        for _ in range(5):
            with pytest.raises(UpstreamTimeout):
                await picked(world, what)
        assert [(record.status, record.reason) for record in world.records] == [(504, "upstream_timeout")] * 5
        assert any(member.health.blocked_until > 0 for member in world.pools["p"].members)
        assert idle(world)

    run(scenario)


def test_only_those_the_proxy_names() -> None:
    async def scenario() -> None:
        world = World({})

        async def nothing(found: Pick) -> None:
            assert found.addresses == ("10.0.0.2:1",)
            found.finish()

        await picked(world, nothing, request(only=("10.0.0.2:1",)))
        await picked(world, nothing, request(only=("10.0.0.2", "192.168.0.1")))
        for none in ((), ("10.0.0.2:2",), ("10.0.0",)):
            with pytest.raises(NoEndpoints):
                await picked(world, nothing, request(only=none))

    run(scenario)


def test_the_pool_a_picker_is_for() -> None:
    async def scenario() -> None:
        async def nothing(found: Pick) -> None:
            assert found.addresses == ("[fd00::3]:1",)
            found.finish()

        await picked(World({}), nothing, pool="q")
        await picked(World({}), nothing, request(only=("[fd00::3]:1",)), pool="q")
        await picked(World({}), nothing, request(only=("fd00::3",)), pool="q")
        with pytest.raises(NoEndpoints):
            await picked(World({}), nothing, pool="none")

    run(scenario)


def test_a_pick_waits_its_turn_and_one_that_is_cancelled_there_holds_nothing() -> None:
    async def scenario() -> None:
        world = fair()
        order: list[str] = []

        async def one(name: str, seconds: float, patience: float = float("inf")) -> None:
            with trio.move_on_after(patience):
                async with pick(world.gateway, request(), addresses=Known()) as found:
                    order.append(name)
                    await trio.sleep(seconds)
                    found.finish()

        async def work() -> None:
            async with trio.open_nursery() as nursery:
                for given in (("first", 2.0), ("impatient", 1.0, 1.0), ("second", 1.0)):
                    nursery.start_soon(one, *given)
                    await trio.testing.wait_all_tasks_blocked()

        await with_watch(world, work)
        assert order == ["first", "second"]
        assert [record.status for record in world.records] == [499, 200, 200]
        assert idle(world)

    run(scenario)


def test_what_is_shown_to_nobody_is_charged_as_expected() -> None:
    """The proxy was told not to send answers: what they took is not known, and not nothing."""

    async def scenario() -> None:
        world = fair()
        gate = world.pools["p"].gate
        assert gate is not None

        async def unseen(found: Pick) -> None:
            found.finish()

        await picked(world, unseen)
        flows = gate.flows(0.0)
        assert sum(flow.served for flow in flows) > 0
        assert [record.status for record in world.records] == [200]

    run(scenario)


def test_who_may_not_have_the_model_is_told_before() -> None:
    async def scenario() -> None:
        world = World({})

        async def never(found: Pick) -> None:
            raise AssertionError

        asked = msgspec.structs.replace(request(), identity=Identity(user="u", models=("other*",)))
        with pytest.raises(Forbidden):
            await picked(world, never, asked)
        assert [record.status for record in world.records] == [403]

    run(scenario)


def test_a_bug_of_whoever_forwards_gives_everything_back() -> None:
    async def scenario() -> None:
        world = fair()

        async def fails(found: Pick) -> None:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await picked(world, fails)
        assert [record.status for record in world.records] == [GatewayError.status]
        assert idle(world)

    run(scenario)


def test_names_are_looked_up_once_a_while_and_not_forgotten() -> None:
    async def scenario() -> None:
        known = Known()
        assert await known.of(A) == await known.of(A) == "10.0.0.1:1"
        assert known.asked == ["a"]
        known.names = {}
        await trio.sleep(FRESH_S)
        assert await known.of(A) == "10.0.0.1:1"
        assert known.asked == ["a", "a"]
        assert await known.of(B) == ""
        assert await known.of(Endpoint("fake", "http", "127.0.0.1", 80)) == "127.0.0.1:80"
        assert known.asked == ["a", "a", "b"]

    run(scenario)


def test_who_has_no_address_cannot_be_picked() -> None:
    async def scenario() -> None:
        world = World({})
        known = Known()
        known.names.pop("a")
        async with pick(world.gateway, request(), addresses=known) as found:
            assert found.addresses == ("10.0.0.2:1",)
            assert of("b", world) == 1
            found.finish()
        nowhere = Known()
        nowhere.names = {}
        with pytest.raises(NoEndpoints):
            async with pick(World({}).gateway, request(), addresses=nowhere) as found:
                found.finish()

    run(scenario)


def test_a_picker_for_one_pool_goes_by_the_name_its_route_gives_the_model() -> None:
    async def scenario() -> None:
        world = World({})

        async def renamed(found: Pick) -> None:
            assert (found.model, found.addresses) == ("there", ("[fd00::3]:1",))
            found.finish()

        world.gateway.route = lambda request: Target("p", "here", (Target("q", "there"),), route="r")
        await picked(world, renamed, pool="q")
        assert [record.route for record in world.records] == ["r"]

    run(scenario)


def unknown(request: InferenceRequest) -> Target:
    raise ModelNotFound("no such model")


def bare(*specs: PoolSpec) -> World:
    """A world without routes, of InferencePools."""
    world = World({})
    world.pools.apply([msgspec.structs.replace(spec, bare=True) for spec in specs or world.specs[:2]])
    for member in world.pools.members():
        member.up = True
    world.gateway.route = unknown
    return world


async def gone_to(
    world: World, model: str = "m", only: tuple[str, ...] | None = None, pool: str | None = None, objective: str = ""
) -> str:
    """The pool that a request is recorded under."""
    asked = msgspec.structs.replace(request(model, only=only), objective=objective)
    await picked(world, nothing, asked, pool)
    return world.records[-1].pool


def test_what_an_unknown_answers_says_nothing_of_it() -> None:
    async def scenario() -> None:
        plain = Endpoint("plain", "http", "a", 1)
        world = World({})
        world.pools.adapters = {**world.pools.adapters, "plain": world.pools.adapters["fake"]}
        world.pools.apply([PoolSpec("p", "plain", (plain,))])

        async def what(found: Pick) -> None:
            found.responded(200, ())
            found.feed(b"err")
            found.finish()
            assert found.failure is None

        for _ in range(5):
            await picked(world, what)
        assert [(record.status, record.reason) for record in world.records] == [(200, "")] * 5
        assert not any(member.health.blocked_until > 0 for member in world.pools.members())
        assert idle(world)

    run(scenario)


def test_without_a_route_an_inference_pool_is_found_by_what_the_proxy_lists_or_by_the_model() -> None:
    async def scenario() -> None:
        world = bare()
        assert await gone_to(world, only=("10.0.0.2:1",)) == "p"
        assert await gone_to(world, only=("fd00::3", "192.168.0.1")) == "q"
        with pytest.raises(NoEndpoints):
            await gone_to(world, only=("192.168.0.1",))
        with pytest.raises(ModelNotFound, match=r"several pools \(p, q\)"):
            await gone_to(world)
        world.pools["q"].members[0].cards = (ModelCard("m"),)
        assert await gone_to(world) == "q"
        world.pools["p"].members[1].cards = (ModelCard("m"),)
        with pytest.raises(ModelNotFound):
            await gone_to(world)
        assert await gone_to(world, pool="p") == "p"

    run(scenario)


def test_a_name_that_only_clients_know_becomes_no_label() -> None:
    async def scenario() -> None:
        world = bare(PoolSpec("p", "fake", (A,)))
        world.pools["p"].members[0].cards = (ModelCard("m"),)
        for model in ("m", "made-up", "m"):
            await gone_to(world, model)
        assert [record.model for record in world.records] == ["m", "", "m"]

    run(scenario)


def test_the_only_inference_pool_is_asked_for_whatever_model() -> None:
    async def scenario() -> None:
        world = bare()
        world.pools.apply([world.specs[0], msgspec.structs.replace(world.specs[1], bare=True)])
        assert await gone_to(world, "whatever") == "q"
        world.pools.apply(world.specs)
        with pytest.raises(ModelNotFound, match="no such model"):
            await gone_to(world, "whatever")

    run(scenario)


def test_listed_members_of_several_pools_share_by_their_number() -> None:
    async def scenario() -> None:
        world = bare()
        listed = msgspec.structs.replace(request(), only=("a:1", "b:1", "c"))
        pools = world.pools.by_name().values()
        found = [implied(listed, pools, world.gateway.directives, chance) for chance in (0.0, 0.66, 0.67, 0.99)]
        assert found == [["p", "q"], ["p", "q"], ["q", "p"], ["q", "p"]]
        assert {await gone_to(world, only=("10.0.0.1:1", "10.0.0.2:1", "fd00::3")) for _ in range(50)} == {"p", "q"}
        for member in world.pools["p"].members:
            member.up = False
            member.health.drain()
        assert {await gone_to(world, only=("10.0.0.1:1", "10.0.0.2:1", "fd00::3")) for _ in range(20)} == {"q"}

    run(scenario)


def test_a_rewrite_says_which_model_is_asked_and_which_pool_is_meant() -> None:
    counted: list[tuple[str, str, str]] = []
    models: list[str] = []
    records: list[Record] = []

    async def what(found: Pick) -> None:
        models.append(found.model)
        found.finish()

    async def scenario() -> None:
        world = bare()
        world.gateway.observer = Observers(Totals(), records.append)
        world.gateway.observer.rewrote = lambda *told: counted.append(told)
        exact, generic = RewriteRule(("m",), (("m-2", 1),)), RewriteRule((), (("any", 1),))
        world.gateway.directives = Directives(rewrites=[Rewrite("ns/r", "q", (exact, generic))])
        header = msgspec.structs.replace(request(), model="by-a-header")
        await picked(world, what)
        await picked(world, what, request("other"), "q")
        await picked(world, what, request("other"), "p")
        await picked(world, what, header, "q")
        await picked(world, what, request(""), "q")

    run(scenario)
    assert models == ["m-2", "any", "other", "m-2", ""]
    assert counted == [("ns/r", "m", "m-2"), ("ns/r", "", "any"), ("ns/r", "m", "m-2")]
    assert [record.model for record in records] == ["m", "", "", "", ""]


def test_a_rewrite_comes_before_the_name_that_a_route_gives() -> None:
    async def scenario() -> None:
        world = World({})
        world.gateway.directives = Directives(rewrites=[Rewrite("ns/r", "p", (RewriteRule((), (("new", 1),)),))])
        world.gateway.route = lambda request: Target("p", "mapped", (Target("q", "there"),), route="r")

        async def what(found: Pick) -> None:
            assert found.model == "new"
            found.finish()

        await picked(world, what)
        for member in world.pools["p"].members:
            member.health.drain()

        async def elsewhere(found: Pick) -> None:
            assert found.model == "there"
            found.finish()

        await picked(world, elsewhere)
        assert [record.route for record in world.records] == ["r", "r"]

    run(scenario)


def load(waiting: float) -> Load:
    return Load(at=trio.current_time(), waiting=waiting, kv_usage=0.1)


def test_what_may_be_shed_is_refused_where_engines_are_full_and_nothing_else_is() -> None:
    async def scenario() -> None:
        world = World({})
        urgency = (Objective("ns/shed", "p", -1), Objective("ns/urgent", "p", 1), Objective("ns/of-q", "q", -1))
        world.gateway.directives = Directives(urgency)

        async def ask(objective: str) -> None:
            await picked(world, nothing, msgspec.structs.replace(request(), objective=objective), "p")

        await ask("shed")
        for member in world.pools["p"].members:
            world.pools.loaded(member.endpoint, load(6.0))
        for objective in ("", "urgent", "unknown", "of-q"):
            await ask(objective)
        with pytest.raises(Overloaded, match="sheddable request dropped"):
            await ask("shed")
        assert [(record.status, record.reason) for record in world.records] == [
            *[(200, "")] * 5,
            (503, "overloaded"),
        ]
        world.pools.loaded(A, load(0.0))
        await ask("shed")
        for member in world.pools["p"].members:
            world.pools.loaded(member.endpoint, load(6.0))
            member.health.drain()
        with pytest.raises(NoEndpoints):  # there is nothing to wait for
            await ask("shed")
        assert idle(world)

    run(scenario)


def test_who_waits_goes_by_its_objective_and_what_may_be_shed_does_not_wait() -> None:
    async def scenario() -> None:
        world = fair()
        world.gateway.directives = Directives([Objective("ns/shed", "p", -1), Objective("ns/urgent", "p", 5)])
        order: list[str] = []

        async def one(name: str) -> None:
            asked = msgspec.structs.replace(request(), id=name, objective=name)
            async with pick(world.gateway, asked, addresses=Known()) as found:
                order.append(name)
                await trio.sleep(1)
                found.finish()

        async def work() -> None:
            async with trio.open_nursery() as nursery:
                for name in ("first", "second", "urgent"):
                    nursery.start_soon(one, name)
                    await trio.testing.wait_all_tasks_blocked()
                with pytest.raises(Overloaded, match="sheddable request dropped"):
                    await one("shed")
            await one("shed")

        await with_watch(world, work)
        assert order == ["first", "urgent", "second", "shed"]
        assert idle(world)

    run(scenario)


def test_a_request_without_a_model_goes_where_there_is_no_choice() -> None:
    async def scenario() -> None:
        world = World({})
        core = SimpleNamespace(gateway=world.gateway, known=None, identify=None)
        picker = Picker(core, 2)
        picker._addresses = Known()

        world.gateway.route = unknown
        with pytest.raises(ModelNotFound):
            async with picker.pick(request("")):
                pass
        world.pools.apply(world.specs[:1])
        async with picker.pick(request("")) as found:
            assert len(found.addresses) == 2
            found.finish()
        with pytest.raises(ModelNotFound):
            async with picker.pick(request("other")):
                pass

    run(scenario)
