"""Requests whose target is told and whose answers pass as they are, under virtual time."""

from __future__ import annotations

import pytest

from gateway.errors import UpstreamError
from gateway.route import Target
from gateway.types import Headers, UpstreamRequest
from tests.gateway.scripted import A, B, C, FakeExchange, Step, World, run, with_watch

GET = UpstreamRequest(b"GET", b"/any")


class Noting(FakeExchange):
    status = 0

    async def start(self, status: int, headers: Headers, /) -> None:
        self.status = status
        await super().start(status, headers)


def test_an_answer_passes_whatever_it_says() -> None:
    async def scenario() -> None:
        world = World({C: [(404, [b"no", 1.0, b"pe"])]}, headers=((b"x-own", b"1"),))
        exchange = Noting(stream=False)
        await world.gateway.serve(exchange, Target("q", route="ns/r"), GET)
        assert (exchange.status, exchange.headers[b"x-own"]) == (404, b"1")
        assert exchange.said == [(0.0, "no"), (1.0, "pe"), (1.0, "END")]
        assert world.transport.log == ["to c", "kept c"]
        record = world.records[0]
        assert (record.status, record.reason, record.pool, record.route) == (404, "", "q", "ns/r")
        assert not world.adapter.bodies
        assert world.pools["q"].members[0].inflight == 0

    run(scenario)


def test_of_an_answer_to_head_no_body_is_waited_for() -> None:
    async def scenario() -> None:
        world = World({C: [(200, [None])]})
        exchange = Noting(stream=False)
        await world.gateway.serve(exchange, Target("q"), UpstreamRequest(b"HEAD", b"/any"))
        assert exchange.said == [(0.0, ""), (0.0, "END")]
        assert world.transport.log == ["to c", "closed c"]

    run(scenario)


def test_who_cannot_be_reached_is_replaced() -> None:
    async def scenario() -> None:
        world = World({B: [(200, [b"fine"])]})
        world.prefer(A)
        exchange = Noting(stream=False)
        await world.gateway.serve(exchange, Target("p"), GET)
        assert [what for _, what in exchange.said] == ["fine", "END"]
        assert world.transport.log == ["to a", "to b", "kept b"]

    run(scenario)


@pytest.mark.parametrize(
    ("script", "status", "reason"),
    [
        pytest.param([b"half", UpstreamError("broke", retryable=True)], 200, "upstream_error", id="breaks off"),
        pytest.param([b"half", None], 200, "upstream_timeout", id="falls silent"),
    ],
)
def test_an_answer_that_began_is_not_replaced(script: list[Step], status: int, reason: str) -> None:
    async def scenario() -> None:
        world = World({A: [(200, script)], B: [(200, [b"fine"])]})
        world.prefer(A)
        exchange = Noting(stream=False)
        await with_watch(world, lambda: world.gateway.serve(exchange, Target("p"), GET))
        assert exchange.said[0] == (0.0, "half")
        assert exchange.said[1][1].startswith("FAIL 50")
        assert exchange.said[1][0] < 3.0
        assert world.transport.log == ["to a", "closed a"]
        assert (world.records[0].status, world.records[0].reason) == (status, reason)

    run(scenario)


def test_a_told_target_is_asked_in_its_engines_dialect() -> None:
    async def scenario() -> None:
        world = World({C: [(200, [b"one!"])]})
        exchange = FakeExchange()
        await world.gateway.serve(exchange, Target("q"))
        assert [what for _, what in exchange.said] == ["one!", "END"]
        assert len(world.adapter.bodies) == 1

    run(scenario)
