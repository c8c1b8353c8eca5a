"""What metrics are read from while a gateway runs: counts that belong to pools, and what is under way."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import trio
from prometheus_client.parser import text_string_to_metric_families

from gateway import gauges
from gateway.config.access import APIKey, Auth
from gateway.config.decode import Hidden
from gateway.config.settings import Settings
from gateway.config.sharing import Fairness, LimitMatch, RateLimits, Tier
from gateway.config.snapshot import PoolSpec
from gateway.health import DOWN, FAILING, RECOVERED, UP
from gateway.meter import Totals
from gateway.observe import Observers
from gateway.pools import Pools
from gateway.ports import Candidate
from gateway.prefix import Holdings
from gateway.schedule.parts import Parts, Settled
from gateway.schedule.profile import Profile, Weighted
from gateway.schedule.reuse import PrefixCache, PrefixCacheScorer
from gateway.state import State
from gateway.telemetry import Telemetry
from gateway.types import Load
from tests.gateway.scripted import A, B, C, FakeAdapter, FakeExchange, World, least_in_flight, run

P = PoolSpec("p", "fake", (A, B))


class Lost:
    lost, dropped, busy, idle, opened = 1, 2, 3, 4, 5


class Program:
    """A program around scripted endpoints."""

    def __init__(self, world: World) -> None:
        self.pools, self.gateway, self.totals, self.state = world.pools, world.gateway, Totals(), State(world.pools)
        world.gateway.observer = Observers(self.totals)
        self.usage = self.access_log = self.tracing = self.transport = Lost()
        self.cluster = None

    def connections(self) -> dict[str, int]:
        return {"http": 1}


async def shown(parts: Program, *names: str) -> dict[str, list[tuple[str, float]]]:
    """Samples of these families: (values of the labels, value)."""
    text, _ = await Telemetry(gauges.sources(parts, lambda: ())).render()
    found: dict[str, list[tuple[str, float]]] = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            if sample.name in names:
                found.setdefault(sample.name, []).append((" ".join(sample.labels.values()), sample.value))
    return found


def test_what_is_under_way_and_what_became_of_it_is_shown() -> None:
    async def scenario() -> None:
        world = World({A: [(503, [b"full"])], B: [(200, [b"role", 1.0, b"x", 0.5, b"y", b"z!"])]})
        parts = Program(world)
        world.prefer(A)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.ask, FakeExchange())
            await trio.sleep(0.5)
            during = await shown(parts, "infer_gateway_requests_in_flight", "infer_gateway_streams")
        assert during == {"infer_gateway_requests_in_flight": [("http", 1)], "infer_gateway_streams": [("http", 1)]}
        after = await shown(
            parts,
            "infer_gateway_requests_in_flight",
            "infer_gateway_failovers_total",
            "infer_gateway_attempts_total",
            "infer_gateway_scheduler_decisions_total",
            "infer_gateway_route_requests_total",
            "infer_gateway_inter_token_latency_seconds_count",
            "infer_gateway_upstream_connections",
            "infer_gateway_traces_lost_total",
        )
        assert after == {
            "infer_gateway_requests_in_flight": [("http", 0)],
            "infer_gateway_failovers_total": [("p upstream_error", 1)],
            "infer_gateway_attempts_total": [("p a:1 upstream_error", 1), ("p b:1 ok", 1)],
            "infer_gateway_scheduler_decisions_total": [("p", 1)],
            "infer_gateway_route_requests_total": [(" p m ok", 1), (" p m refused", 0), (" p m failed", 0)],
            "infer_gateway_inter_token_latency_seconds_count": [("p", 1)],
            "infer_gateway_upstream_connections": [("busy", 3), ("idle", 4)],
            "infer_gateway_traces_lost_total": [("", 2)],
        }

    run(scenario)


def fleet() -> Pools:
    pools = Pools({"fake": FakeAdapter()}, least_in_flight)
    pools.apply([P, PoolSpec("q", "fake", (C,))])
    for member in pools.members():
        member.up = True
    return pools


def test_health_is_counted_by_pool_whoever_leaves() -> None:
    pools = fleet()
    pool = pools["p"]
    before = dict(pool.changes)
    for _ in range(3):
        pool.members[0].failed(1.0)
    pool.members[0].health.reached(2.0, False)
    pool.members[1].health.reached(2.0, False)
    pools.put(msgspec.structs.replace(P, endpoints=(B,)))
    pool.members[0].health.reached(3.0, True)
    pools.put(msgspec.structs.replace(P, endpoints=(A, B)))
    for _ in range(3):
        pool.members[0].failed(4.0)
    changes = {what: count - before.get(what, 0) for what, count in pool.changes.items()}
    assert changes == {UP: 1, FAILING: 2, DOWN: 2}
    pools["q"].members[0].failed(1.0)
    assert FAILING not in pools["q"].changes


def test_one_that_is_well_again_has_recovered() -> None:
    pool = fleet()["p"]
    member = pool.members[0]
    for _ in range(3):
        member.failed(1.0)
    probe = member.place()
    member.succeeded(60.0, probe)
    member.leave(probe)
    assert pool.changes[RECOVERED] == 1


def test_questions_for_loads_are_counted_by_pool() -> None:
    pools = fleet()
    pools.loaded(A, Load(at=1.0))
    pools.unheard(A)
    pools.unheard(B)
    assert (pools["p"].scrapes, pools["p"].scrape_errors, pools["q"].scrapes) == (1, 2, 0)


def pick(candidates: Sequence[Candidate], scores: Sequence[float]) -> Sequence[Candidate]:
    return candidates


def test_what_a_profile_believes_to_be_where_is_the_sum_of_its_indexes() -> None:
    small, large = PrefixCache().scorer(Parts(Settled())), PrefixCacheScorer().scorer(Parts(Settled()))
    profile = Profile(
        (), (Weighted("small", small), Weighted("large", large), Weighted("none", lambda *_: [])), lambda *_: ()
    )
    assert profile.holdings() == Holdings(0, 0, 0)
    small.index.place("a:1", [1, 2], 128)  # type: ignore[attr-defined]
    small.index.place("b:1", [1], 64)  # type: ignore[attr-defined]
    large.index.place("a:1", [1], 256)  # type: ignore[attr-defined]
    assert profile.holdings() == Holdings(2, 4, 448)


def test_tiers_are_those_that_the_configuration_names() -> None:
    key = APIKey("ci", Hidden("0" * 64), tier="batch")
    settings = Settings(
        auth=Auth(api_keys=(key,)),
        fairness=Fairness(tiers={"gold": Tier()}),
        limits=(RateLimits(LimitMatch(tier="free"), requests_per_minute=1), RateLimits(requests_per_minute=2)),
    )
    assert gauges.tiers(settings) == {"batch", "gold", "free"}
