"""What a configuration changes in the live fleet, and that it changes nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

import msgspec
import pytest
import trio

from gateway.config.snapshot import PoolSpec, Snapshot
from gateway.discover import Answer, Discovery
from gateway.entrance import MAIN, Entrances
from gateway.fleet import Fleet
from gateway.httproute import HttpRoute, HttpRouteTable, HttpRule, Laid
from gateway.member import Member
from gateway.pools import Pools
from gateway.ports import Adapter
from gateway.route import Route, RouteTable, Rule, Share
from gateway.scrape import Scrapes
from gateway.types import Endpoint, ModelCard
from tests.gateway.scripted import A, B, C, FakeAdapter, least_in_flight

AUTO = Endpoint("auto", "http", "auto", 1)


class Watched:
    """Discovery and scraping as the fleet sees them. What is asked is in the log, once."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.answers: dict[Endpoint, Answer] = {}

    def news(self) -> list[str]:
        news, self.log = self.log, []
        return news


class Asking(Watched):
    def __init__(self) -> None:
        super().__init__()
        self.known: set[Endpoint] = set()

    def __getitem__(self, endpoint: Endpoint) -> Answer:
        return self.answers.get(endpoint, Answer())

    def add(self, endpoint: Endpoint) -> None:
        if endpoint not in self.known:
            self.known.add(endpoint)
            self.log.append(f"+{endpoint.host}")

    def drop(self, endpoint: Endpoint) -> None:
        self.known.remove(endpoint)
        self.answers.pop(endpoint, None)
        self.log.append(f"-{endpoint.host}")

    def hurry(self, endpoint: Endpoint) -> None:
        self.log.append(f"!{endpoint.host}")


class Scraping(Watched):
    def __init__(self) -> None:
        super().__init__()
        self.known: set[Endpoint] = set()

    def add(self, endpoint: Endpoint, adapter: Adapter) -> None:
        self.known.add(endpoint)

    def drop(self, endpoint: Endpoint) -> None:
        self.known.discard(endpoint)


class World:
    def __init__(self, *backends: Endpoint) -> None:
        self.made: list[str] = []
        self.routes = RouteTable()
        self.entrances: Entrances | None = None
        self.gone: list[Member] = []
        self.asking, self.scraping = Asking(), Scraping()
        self.pools = Pools({"fake": FakeAdapter(), "other": FakeAdapter()}, least_in_flight)
        self.fleet = Fleet(
            self.pools,
            cast(Discovery, self.asking),
            cast(Scrapes, self.scraping),
            backends=backends,
            serve=self.serve,
            gone=self.gone.append,
        )

    def serve(self, snapshot: Snapshot) -> None:
        former, self.routes = self.entrances, snapshot.routes
        self.entrances = snapshot.entrances
        # whatever was in force until now, or is from now on, leads to pools that are there
        tables = [table for each in (former, self.entrances) if each is not None for table in each.http.values()]
        rules = [rule for route in self.routes.routes for rule in route.rules]
        shares = [share for rule in rules for share in rule.shares]
        shares += [share for table in tables for each in table.routes for way in each.rules for share in way.shares]
        for share in shares:
            assert self.pools.get(share.pool) is not None

    def answers(self, endpoint: Endpoint, up: bool = True, engine: str = "fake", cards: Sequence[str] = ()) -> None:
        self.asking.answers[endpoint] = Answer(up, engine, tuple(map(ModelCard, cards)))
        self.fleet.answered(endpoint)

    def fails(self, endpoint: Endpoint, why: str) -> None:
        self.asking.answers[endpoint] = Answer(False, "fake", why=why)
        self.fleet.answered(endpoint)

    def members(self, pool: str) -> dict[str, bool | None]:
        return {member.endpoint.host: member.up for member in self.pools[pool].members}


def spec(name: str, *endpoints: Endpoint, external: bool = False) -> PoolSpec:
    return PoolSpec(name, "fake", endpoints, external=external)


def snapshot(*pools: PoolSpec) -> Snapshot:
    routes = RouteTable(Route(f"to {pool.name}", model=pool.name, rules=(Rule((Share(pool.name),)),)) for pool in pools)
    return Snapshot(pools=pools, routes=routes)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patched:
        patched.setattr(trio, "current_time", lambda: 1000.0)
        yield


def test_what_comes_is_asked_and_scraped_once_it_answers_and_what_goes_no_more() -> None:
    world = World()
    world.fleet.apply(snapshot(spec("p", A, B)))
    assert sorted(world.asking.news()) == [f"+{A.host}", f"+{B.host}"]
    assert world.scraping.known == set()
    world.answers(A)
    assert world.members("p") == {A.host: True, B.host: None}
    assert world.scraping.known == {A}
    world.answers(A, up=False)
    assert world.members("p") == {A.host: False, B.host: None}
    assert world.scraping.known == set()
    world.answers(A)
    world.fleet.apply(snapshot(spec("p", B, C)))
    assert sorted(world.asking.news()) == [f"+{C.host}", f"-{A.host}"]
    assert [member.endpoint for member in world.gone] == [A]
    assert world.scraping.known == set()
    world.fleet.apply(snapshot())
    assert world.asking.known == set()
    assert list(world.pools.by_name()) == []


def test_a_pool_that_is_the_same_object_is_not_touched() -> None:
    world = World()
    p, q = spec("p", A), spec("q", B)
    world.fleet.apply(snapshot(p, q))
    members, pool = world.pools["p"].members, world.pools["p"]
    world.fleet.apply(snapshot(p, spec("q", B, C)))
    assert world.pools["p"].members is members
    assert world.pools["p"] is pool
    assert list(world.members("q")) == [B.host, C.host]
    assert world.fleet.snapshot.pools[0] is p


def test_http_routes_are_in_force_once_their_pools_are_there_and_before_others_go() -> None:
    def configured(pool: PoolSpec) -> Snapshot:
        route = HttpRoute("d/r", rules=(HttpRule((Share(pool.name),)),))
        return Snapshot(pools=(pool,), entrances=Entrances(http={MAIN: HttpRouteTable([Laid.of(route)])}))

    world = World()
    for each in (configured(spec("a", A)), configured(spec("b", B)), snapshot()):
        world.fleet.apply(each)
        assert world.entrances is each.entrances


def test_an_endpoint_of_two_pools_is_asked_until_it_has_left_both() -> None:
    world = World()
    world.fleet.apply(snapshot(spec("p", A), spec("q", A, B)))
    world.answers(A)
    world.asking.news()
    world.fleet.apply(snapshot(spec("q", A, B)))
    assert world.asking.news() == []
    assert world.scraping.known == {A}
    world.fleet.apply(snapshot(spec("q", B)))
    assert world.asking.news() == [f"-{A.host}"]
    assert world.scraping.known == set()


def test_one_that_is_recognised_joins_and_the_snapshot_says_as_what() -> None:
    world = World()
    configured = PoolSpec("p", "auto", (AUTO, A))
    world.fleet.apply(snapshot(configured))
    assert world.members("p") == {A.host: None}
    assert world.fleet.snapshot.pools == (configured,)
    world.answers(AUTO, engine="other")
    assert world.members("p") == {"auto": True, A.host: None}
    recognised = msgspec.structs.replace(AUTO, engine="other")
    assert world.fleet.snapshot.pools[0].endpoints == (recognised, A)
    assert world.scraping.known == {recognised}
    world.fleet.unreachable(recognised)
    assert world.asking.news()[-1] == "!auto"
    member = world.pools["p"].members[0]
    world.fleet.apply(snapshot(PoolSpec("p", "auto", (AUTO, B))))
    assert world.pools["p"].members[0] is member
    world.fleet.apply(snapshot())
    assert world.asking.known == world.scraping.known == set()


def test_one_that_is_down_says_what_asking_it_came_to() -> None:
    world = World()
    world.fleet.apply(snapshot(spec("p", A)))
    world.fails(A, "refused")
    (told,) = world.pools.statistics()
    assert (told.state, told.why) == ("down", "refused")
    world.answers(A)
    (told,) = world.pools.statistics()
    assert (told.state, told.why) == ("slow-start", "")


def test_public_providers_are_not_asked_and_count_as_answering() -> None:
    world = World()
    world.fleet.apply(snapshot(spec("p", A, external=True)))
    assert world.members("p") == {A.host: True}
    assert world.asking.news() == []
    assert world.scraping.known == set()


def test_backends_are_served_by_what_they_tell_beside_what_is_configured() -> None:
    world = World(AUTO, C)
    assert sorted(world.asking.news()) == sorted(["+auto", f"+{C.host}"])
    world.fleet.apply(snapshot(spec("p", A)))
    assert world.fleet.unanswered()
    world.answers(AUTO, cards=["m"])
    world.answers(C, cards=["m", "n"])
    assert not world.fleet.unanswered()
    assert [card.id for card in world.routes.models()] == ["m", "n", "p"]
    assert world.members("discovered/m") == {"auto": True, C.host: True}
    member = world.pools["discovered/m"].members[0]
    world.fleet.apply(snapshot(spec("q", A)))
    assert world.pools["discovered/m"].members[0] is member
    assert list(world.pools.by_name()) == ["q", "discovered/m", "discovered/n"]
    world.answers(C, cards=["m"])
    assert list(world.pools.by_name()) == ["q", "discovered/m"]
    assert [pool.name for pool in world.fleet.snapshot.pools] == ["q", "discovered/m"]


def test_other_labels_make_another_endpoint_whose_place_is_the_same() -> None:
    world = World()
    world.fleet.apply(snapshot(spec("p", A)))
    relabelled = msgspec.structs.replace(A, labels=(("zone", "b"),))
    world.fleet.apply(snapshot(spec("p", relabelled)))
    assert world.asking.known == {relabelled}
    world.answers(relabelled)
    assert world.scraping.known == {relabelled}
    assert [member.endpoint for member in world.gone] == [A]


def test_a_long_change_gives_way_and_a_newer_one_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    many = [spec(f"p{n}", Endpoint("fake", "http", f"h{n}", 1)) for n in range(100)]

    async def main() -> None:
        world = World()
        turns = 0

        async def others() -> None:
            nonlocal turns
            while True:
                turns += 1
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(others)
            await world.fleet.follow(snapshot(*many))
            assert turns > 5
            assert len(world.routes.routes) == 100
            nursery.start_soon(world.fleet.follow, snapshot())
            while len(world.routes.routes) == 100:
                await trio.lowlevel.checkpoint()
            world.fleet.apply(snapshot(*many[:50]))
            for _ in range(50):
                await trio.lowlevel.checkpoint()
            assert len(world.routes.routes) == len(world.pools.by_name()) == len(world.asking.known) == 50
            nursery.cancel_scope.cancel()

    trio.run(main)
