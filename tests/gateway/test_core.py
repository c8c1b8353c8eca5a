"""The data walk under virtual time: failover, timeouts, cancellation, what a stream says when it breaks."""

from __future__ import annotations

import math
import weakref

import msgspec
import pytest
import trio
import trio.testing

from gateway.config.snapshot import Policy, PoolSpec
from gateway.core import RetryBudget
from gateway.errors import GatewayError, UpstreamError
from gateway.outliers import ERRING, STUCK
from gateway.route import Target
from gateway.types import Headers, Identity, ModelCard, Usage
from tests.gateway.scripted import A, B, C, FakeDecoder, FakeExchange, Step, World, run, with_watch


def test_a_stream_passes_through_and_everything_is_given_back() -> None:
    async def scenario() -> None:
        world = World({A: [(200, [b"role", b"one", 1.0, b"two!"])]})
        world.prefer(A)
        exchange = FakeExchange()
        assert await world.ask(exchange) == ["roleone", "two!", "END"]
        assert world.transport.log == ["to a", "kept a"]
        record = world.records[0]
        assert (record.status, record.reason, record.tokens_out, record.attempts) == (200, "", 2, 1)
        assert (record.ttft_s, record.duration_s) == (0.0, 1.0)
        assert [member.inflight for member in world.pools["p"].members] == [0, 1]
        assert not world.gateway.calls

    run(scenario)


def test_the_record_of_a_request_has_each_thing_in_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    class Telling(FakeDecoder):
        def finish(self) -> bytes:
            out = super().finish()
            self.usage = Usage(prompt=30, completion=20, cached=10, reasoning=5)
            return out

    async def scenario() -> None:
        world = World({A: [(503, [b"busy"])], B: [(200, [1.0, b"one", 2.0, b"two!"])]})
        world.prefer(A)
        monkeypatch.setattr(world.adapter, "decoder", lambda *_: Telling())
        world.gateway.route = lambda request: Target("p", "theirs", (), "route")
        exchange = FakeExchange()
        identity = Identity(user="user", tenant="tenant", tier="tier")
        exchange.request = msgspec.structs.replace(exchange.request, id="id", protocol="grpc", identity=identity)
        await world.ask(exchange)
        assert msgspec.structs.asdict(world.records[0]) == {
            "model": exchange.request.model,
            "pool": "p",
            "endpoint": B.id,
            "operation": exchange.request.operation,
            "status": 200,
            "reason": "",
            "stream": exchange.request.stream,
            "started": 0.0,
            "ended": 3.0,
            "ttft_s": 1.0,
            "tokens_in": 30,
            "tokens_out": 20,
            "tokens_cached": 10,
            "attempts": 2,
            "user": "user",
            "id": "id",
            "tenant": "tenant",
            "tier": "tier",
            "route": "route",
            "queue_s": pytest.approx(math.nan, nan_ok=True),
            "tokens_reasoning": 5,
            "protocol": "grpc",
            "why": "",
            "engine": "fake",
            "failures": ((A.id, "upstream_error"),),
            "trace_id": "",
            "sampled": False,
            "target": "theirs",
            "asked": "",
            "hedge": "",
            "beside": "",
        }

    run(scenario)


@pytest.mark.parametrize(
    "first",
    [
        pytest.param([], id="cannot connect"),
        pytest.param([(503, [b"busy"])], id="503"),
        pytest.param([(200, [b"err"])], id="an error event first"),
        pytest.param([(200, [b"role", b"err"])], id="an error event before the first token"),
        pytest.param([(200, [b"role", b""])], id="ends before the first token"),
        pytest.param([(200, [UpstreamError("broke", retryable=True)])], id="breaks before the first byte"),
    ],
)
def test_what_fails_before_the_first_token_is_tried_elsewhere_unseen(first: list[tuple[int, list[Step]]]) -> None:
    async def scenario() -> None:
        world = World({A: first, B: [(200, [b"fine!"])]})
        world.prefer(A)
        assert await world.ask(FakeExchange()) == ["fine!", "END"]
        assert world.transport.log[0] == "to a"
        assert world.transport.log[-2:] == ["to b", "kept b"]
        assert world.records[0].attempts == 2

    run(scenario)


def test_the_fallback_target_comes_after_the_pool_and_nothing_is_tried_twice() -> None:
    async def scenario() -> None:
        world = World({C: [(200, [b"saved!"])]})
        assert await world.ask(FakeExchange()) == ["saved!", "END"]
        assert sorted(world.transport.log) == ["kept c", "to a", "to b", "to c"]

    run(scenario)


def test_the_last_error_is_what_the_client_sees() -> None:
    async def scenario() -> None:
        world = World(
            {A: [(503, [b"x"])], B: [(503, [b"x"])], C: [(429, [b"slow down"])]}, headers=[(b"retry-after", b"7")]
        )
        exchange = FakeExchange()
        assert await world.ask(exchange) == ["FAIL 429 upstream_error"]
        assert all(member.health.cool_until > 0 for member in world.pools.members())

    run(scenario)


@pytest.mark.parametrize(
    ("status", "after", "cooled", "failures", "full"),
    [
        pytest.param(413, b"50", False, 0, False, id="one request is too large, others are not"),
        pytest.param(400, b"50", False, 0, False, id="one request is wrong for now"),
        pytest.param(503, b"50", True, 0, False, id="full for a while"),
        pytest.param(503, b"0", False, 0, True, id="full for no time at all"),
        pytest.param(502, b"0", False, 1, False, id="broken for no time at all"),
    ],
)
def test_when_to_come_back_is_heeded_where_it_is_said_of_the_endpoint(
    status: int, after: bytes, cooled: bool, failures: int, full: bool
) -> None:
    async def scenario() -> None:
        world = World({A: [(status, [b"x"])], B: [(200, [b"one!"])]}, headers=[(b"retry-after", after)])
        world.prefer(A)
        await world.ask(FakeExchange())
        member = next(member for member in world.pools.members() if member.endpoint == A)
        now = trio.current_time()
        assert (member.health.cool_until > now, member.failures) == (cooled, failures)
        assert (member.health.full_until > now) == full

    run(scenario)


@pytest.mark.parametrize(
    ("listed", "code", "expected"),
    [
        pytest.param(("other",), "model_not_found", ["one!", "END"], id="it lists others"),
        pytest.param(("other", "m"), "model_not_found", ["FAIL 404 model_not_found"], id="it lists it"),
        pytest.param((), "model_not_found", ["FAIL 404 model_not_found"], id="it lists none"),
        pytest.param(("other",), "not_found", ["FAIL 404 not_found"], id="it is not the model that is not there"),
    ],
)
def test_who_does_not_know_the_model_but_others_is_not_believed(
    listed: tuple[str, ...], code: str, expected: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Its address was another's before: clients are not told that there is no such model, nor is it ill."""

    async def scenario() -> None:
        world = World({A: [(404, [b"x"])] * 3, B: [(200, [b"one!"])] * 3})
        world.adapter.error = lambda *_: UpstreamError("no such model", status=404, code=code)  # type: ignore[method-assign]
        member = next(member for member in world.pools.members() if member.endpoint == A)
        member.cards = tuple(map(ModelCard, listed))
        world.gateway.budget = RetryBudget(0.0, 0.0)
        for _ in range(3):
            world.prefer(A)
            assert await world.ask(FakeExchange()) == expected
        assert (member.failures, member.usable(trio.current_time())) == (0, True)
        assert len([told for told in caplog.messages if "does not serve m" in told]) == (expected[-1] == "END")

    run(scenario)


def test_a_4xx_and_a_refusal_by_the_adapter_are_never_retried() -> None:
    async def scenario() -> None:
        world = World({A: [(400, [b"bad"])], B: [(400, [b"bad"])]})
        assert await world.ask(FakeExchange()) == ["FAIL 400 upstream_error"]
        assert len([entry for entry in world.transport.log if entry.startswith("to")]) == 1
        assert await world.ask(FakeExchange("picky")) == ["FAIL 400 unsupported_parameter"]

    run(scenario)


ODD = b'{"n":2,"seed":7,"x":1}'


@pytest.mark.parametrize("stream", [True, False])
def test_what_an_engine_would_ignore_is_refused_or_left_out_as_the_route_says(stream: bool) -> None:
    async def scenario() -> None:
        world = World({A: [(200, [b"one!"])]})
        world.adapter.ignored["a"] = world.adapter.ignored["b"] = ("n", "seed")
        exchange = FakeExchange(stream=stream, body=ODD)
        assert await world.ask(exchange) == ["FAIL 400 unsupported_parameter"]
        world.drop = True
        exchange = FakeExchange(stream=stream, body=ODD)
        assert await world.ask(exchange) == ["one!", "END"]
        assert world.adapter.bodies == [b'{"x":1}']
        assert exchange.headers[b"x-infer-gateway-dropped"] == b"n, seed"
        exchange = FakeExchange("picky", body=ODD)  # needed, or in no member of the body
        assert await world.ask(exchange) == ["FAIL 400 unsupported_parameter"]

    run(scenario)


def test_each_engine_is_spared_what_it_does_not_know_and_the_header_is_of_the_one_that_answered() -> None:
    async def scenario() -> None:
        world = World({A: [(503, [b"full"])], B: [(200, [b"one!"])]})
        world.drop = True
        world.prefer(A)
        world.adapter.ignored = {"a": ("n",), "b": ("seed",)}
        exchange = FakeExchange(body=ODD)
        assert await world.ask(exchange) == ["one!", "END"]
        assert world.adapter.bodies == [b'{"seed":7,"x":1}', b'{"n":2,"x":1}']
        assert exchange.headers[b"x-infer-gateway-dropped"] == b"seed"
        plain = FakeExchange(body=b"{}")
        world.transport.scripts[B] = [(200, [b"two!"])]
        await world.ask(plain)
        assert b"x-infer-gateway-dropped" not in plain.headers

    run(scenario)


def test_an_engine_that_cannot_be_asked_does_not_speak_for_the_one_that_was_full() -> None:
    async def scenario() -> None:
        world = World({A: [(503, [b"full"])], C: [(200, [b"one!"])]})
        world.prefer(A)
        world.adapter.ignored = {"b": ("n",)}
        assert await world.ask(FakeExchange(body=ODD)) == ["one!", "END"]
        world = World({A: [(503, [b"full"])]})
        world.prefer(A)
        world.adapter.ignored = {"b": ("n",), "c": ("n",)}
        assert await world.ask(FakeExchange(body=ODD)) == ["FAIL 503 upstream_error"]
        world.prefer(B)
        assert await world.ask(FakeExchange(body=ODD)) == ["FAIL 400 unsupported_parameter"]

    run(scenario)


def test_a_comment_that_begins_the_reply_tells_what_was_left_out() -> None:
    async def scenario() -> None:
        world = World({A: [(200, [3.0, b"one!"])]})
        world.drop = True
        world.prefer(A)
        world.gateway.keep_alive_s = 1.0
        world.adapter.ignored["a"] = ("n",)
        exchange = FakeExchange(body=ODD)
        await with_watch(world, lambda: world.ask(exchange))
        assert exchange.said[0][1] == ":"
        assert exchange.headers[b"x-infer-gateway-dropped"] == b"n"

    run(scenario)


def test_a_third_party_that_names_what_is_not_there_is_not_asked_for_ever() -> None:
    async def scenario() -> None:
        world = World({A: [(200, [b"one!"])]})
        world.drop = True
        world.adapter.ignored = {"a": ("deep",), "b": ("deep",)}
        exchange = FakeExchange(body=b'{"x":{"deep":1}}')
        assert await world.ask(exchange) == ["FAIL 400 unsupported_parameter"]

    run(scenario)


@pytest.mark.parametrize(
    ("left", "first", "later"),
    [
        (b"0 5", "b", "a"),  # no request left for 5 s
        (b"0 600", "b", "b"),  # bounded, but by more than what is waited for here
        (b"1 5", "a", "a"),
        (b"inf 0 0 5", "b", "a"),
        (b"inf 0 1 5", "a", "a"),  # the prompt is one token, as far as anybody knows
        (b"inf 0 0.5 5", "b", "a"),
    ],
)
def test_an_endpoint_whose_ration_is_used_up_is_left_alone_until_there_is_more(
    left: bytes, first: str, later: str
) -> None:
    async def scenario() -> None:
        world = World({A: [(200, [b"one!"])] * 9, B: [(200, [b"one!"])] * 9}, headers=((b"left", left),))
        world.prefer(A)
        await world.ask(FakeExchange())
        world.transport.headers = ()
        await world.ask(FakeExchange())
        assert world.transport.log[-1] == f"kept {first}"
        await trio.sleep(6)
        await world.ask(FakeExchange())
        assert world.transport.log[-1] == f"kept {later}"

    run(scenario)


def test_what_is_sent_meanwhile_counts_against_the_ration() -> None:
    async def scenario() -> None:
        world = World({A: [(200, [b"one!"])] * 9, B: [(200, [b"one!"])] * 9}, headers=((b"left", b"2 5"),))
        world.prefer(A)
        await world.ask(FakeExchange())
        world.transport.headers = ()
        for _ in range(3):
            await world.ask(FakeExchange())
        assert [entry for entry in world.transport.log if entry.startswith("to")] == ["to a", "to a", "to a", "to b"]

    run(scenario)


def test_a_prompt_beyond_what_is_left_goes_elsewhere_and_a_short_one_does_not() -> None:
    async def scenario() -> None:
        world = World({A: [(200, [b"one!"])] * 9, B: [(200, [b"one!"])] * 9}, headers=((b"left", b"inf 0 100 5"),))
        world.prefer(A)
        await world.ask(FakeExchange())
        world.transport.headers = ()
        await world.ask(FakeExchange(body=b'{"x":"%b"}' % (b"x" * 1000)))
        assert world.transport.log[-1] == "kept b"
        await world.ask(FakeExchange())
        assert world.transport.log[-1] == "kept a"

    run(scenario)


def test_a_pool_that_is_left_alone_gives_way_to_the_rules_next_target() -> None:
    async def scenario() -> None:
        world = World({A: [(200, [b"a!"])], B: [(200, [b"b!"])], C: [(200, [b"c!"])]})
        for member in world.pools["p"].members:
            member.cool(0.0, 5.0)
        assert await world.ask(FakeExchange()) == ["c!", "END"]
        world.transport.scripts.pop(C)
        assert (await world.ask(FakeExchange()))[-1] == "END"  # rather than nobody
        assert [entry for entry in world.transport.log if entry.startswith("to")][:2] == ["to c", "to c"]

    run(scenario)


def test_an_error_after_the_first_token_is_the_last_event() -> None:
    async def scenario() -> None:
        for broken in (b"err", b"", UpstreamError("reset", retryable=True)):
            world = World({A: [(200, [b"one", broken])], B: [(200, [b"never!"])]})
            world.prefer(A)
            said = await world.ask(FakeExchange())
            assert said[0] == "one"
            assert said[-1].startswith("FAIL")
            assert "END" not in said
            assert world.records[0].status == 200
            assert world.records[0].reason

    run(scenario)


def test_an_answer_of_which_nothing_can_be_shown_is_an_error_and_not_begun() -> None:
    async def scenario() -> None:
        world = World({A: [(200, [b"useless"])]})
        assert await world.ask(FakeExchange()) == ["FAIL 502 upstream_error"]
        assert world.records[0].status == 502

    run(scenario)


def test_an_engine_that_gives_no_token_in_time_is_cut_and_not_retried() -> None:
    async def scenario() -> None:
        world = World({A: [(200, [b"role", None])], B: [(200, [b"never!"])]})
        world.prefer(A)
        exchange = FakeExchange()
        await with_watch(world, lambda: world.ask(exchange))
        assert exchange.said[-1] == (10.25, "FAIL 504 upstream_timeout")
        assert world.transport.log == ["to a", "closed a"]

    run(scenario)


def test_an_engine_that_falls_silent_is_cut_by_the_between_tokens_timeout() -> None:
    async def scenario() -> None:
        world = World({A: [(200, [b"one", 1.5, b"two", None])]})
        world.prefer(A)
        exchange = FakeExchange()
        await with_watch(world, lambda: world.ask(exchange))
        assert exchange.said == [(0.0, "one"), (1.5, "two"), (3.75, "FAIL 504 upstream_timeout")]
        assert world.transport.log == ["to a", "closed a"]

    run(scenario)


def test_a_silent_stream_shows_life() -> None:
    async def scenario() -> None:
        world = World({A: [(200, [20.0, b"one", 16.0, b"two!"])]}, policy=Policy(first_token=100, between_tokens=100))
        world.prefer(A)
        exchange = FakeExchange()
        await with_watch(world, lambda: world.ask(exchange))
        assert exchange.said == [(15.0, ":"), (20.0, "one"), (35.0, ":"), (36.0, "two!"), (36.0, "END")]

    run(scenario)


def test_a_sign_of_life_does_not_stand_in_the_way_of_failover() -> None:
    async def scenario() -> None:
        world = World({A: [(200, [20.0, b"err"])], B: [(200, [b"fine!"])]}, policy=Policy(first_token=100))
        world.prefer(A)
        exchange = FakeExchange()
        await with_watch(world, lambda: world.ask(exchange))
        assert [what for _, what in exchange.said] == [":", "fine!", "END"]

    run(scenario)


def test_a_preamble_is_not_held_for_long() -> None:
    async def scenario() -> None:
        world = World({A: [(200, [b"role", 3.0, b"one!"])]})
        world.prefer(A)
        exchange = FakeExchange()
        await with_watch(world, lambda: world.ask(exchange))
        assert exchange.said == [(0.5, "role"), (3.0, "one!"), (3.0, "END")]

    run(scenario)


@pytest.mark.parametrize("script", [[None], [b"role", None], [b"one", None]])
def test_a_client_that_leaves_closes_the_engines_connection_at_once(script: list[Step]) -> None:
    async def scenario() -> None:
        world = World({A: [(200, script)]})
        world.prefer(A)
        with trio.move_on_after(1):
            await world.ask(FakeExchange())
        assert world.transport.log == ["to a", "closed a"]
        assert world.records[0].status == 499
        assert world.pools["p"].members[0].inflight == 0
        assert not world.gateway.calls

    run(scenario)


def test_a_request_deadline_bounds_all_attempts() -> None:
    async def scenario() -> None:
        world = World({A: [(200, [None])]}, policy=Policy(first_token=100, request=5))
        world.prefer(A)
        exchange = FakeExchange()
        await with_watch(world, lambda: world.ask(exchange))
        assert exchange.said == [(5.25, "FAIL 504 upstream_timeout")]

    run(scenario)


def test_a_client_whose_own_deadline_has_passed_is_a_timeout() -> None:
    """Its transport cancels the call at that moment, sooner than any watch."""

    async def scenario() -> None:
        for patience, told in ((3.0, (504, "upstream_timeout")), (2.0, (499, "client_gone"))):
            world = World({A: [(200, [None])]})
            world.prefer(A)
            exchange = FakeExchange()
            exchange.request = msgspec.structs.replace(exchange.request, deadline=trio.current_time() + 3.0)
            with trio.move_on_after(patience):
                await world.gateway.serve(exchange)
            assert [(record.status, record.reason) for record in world.records] == [told]

    run(scenario)


def test_who_is_being_served_when_the_process_ends_is_told() -> None:
    async def scenario() -> None:
        world = World({A: [(200, [b"one", None])], B: [(200, [b"never!"])]})
        world.prefer(A)
        exchange = FakeExchange()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.ask, exchange)
            await trio.testing.wait_all_tasks_blocked()
            world.gateway.give_up()
        assert [what for _, what in exchange.said] == ["one", "FAIL 503 overloaded"]
        assert world.transport.log == ["to a", "closed a"]

    run(scenario)


def test_no_usable_endpoint_is_503() -> None:
    async def scenario() -> None:
        world = World({})
        for member in world.pools.members():
            member.up = False
        assert await world.ask(FakeExchange()) == ["FAIL 503 no_endpoints"]
        assert world.transport.log == []

    run(scenario)


def test_ids_that_engines_see_are_unique_among_what_is_in_flight() -> None:
    async def scenario() -> None:
        world = World({A: [(503, [b"busy"]), (200, [1.0, b"x!"])], B: [(200, [1.0, b"x!"])] * 2})
        world.prefer(A)
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(world.ask, FakeExchange())
        assert len(set(world.adapter.ids)) == 3
        assert world.adapter.ids[0] == "r1"
        assert "r1-2" in world.adapter.ids
        assert not world.gateway.ids

    run(scenario)


def test_retries_stay_within_their_budget() -> None:
    async def scenario() -> None:
        world = World({})
        for _ in range(100):
            for member in world.pools.members():
                member.succeeded(0.0, probe=True)
            await world.ask(FakeExchange())
        sent = len(world.transport.log)
        assert 100 + 10 <= sent <= 100 + 10 + 20 + 1

    run(scenario)


def test_an_endpoint_that_keeps_failing_is_set_aside_and_tried_again_later() -> None:
    async def scenario() -> None:
        world = World({B: [(200, [b"x!"])] * 9})
        for _ in range(6):
            world.prefer(A)
            await world.ask(FakeExchange())
        assert world.transport.log.count("to a") == 3
        await trio.sleep(1.5)
        world.prefer(A)
        await world.ask(FakeExchange())
        assert world.transport.log.count("to a") == 4

    run(scenario)


def test_requests_do_not_wait_for_an_engine_that_is_stuck_though_it_could_be_reached() -> None:
    """Nor are their second tries charged to the budget: none of the twenty fails."""

    async def scenario() -> None:
        world = World({A: [(200, [b"x!"])] * 5 + [(200, [None])] * 20, B: [(200, [b"x!"])] * 25})
        for endpoint in (A, B):
            for _ in range(5):
                world.prefer(endpoint)
                await world.ask(FakeExchange())
        world.prefer(A)
        for member in world.pools["p"].members:
            member.inflight *= 100
        exchanges = [FakeExchange() for _ in range(20)]

        async def all_at_once() -> None:
            async with trio.open_nursery() as nursery:
                for exchange in exchanges:
                    nursery.start_soon(world.ask, exchange)

        await with_watch(world, all_at_once)
        assert trio.current_time() < 6.0
        assert all([what for _, what in exchange.said][-2:] == ["x!", "END"] for exchange in exchanges)
        stuck, well, *_ = world.pools.statistics()
        assert (stuck.state, stuck.why, well.state) == ("hung", "stuck", "ready")
        assert (stuck.inflight, well.failures) == (0, 0)

    run(scenario)


def test_a_late_first_token_is_waited_for_while_other_answers_of_its_engine_move() -> None:
    async def scenario() -> None:
        moving: list[Step] = [0.5, b"y"] * 20 + [b"x!"]
        world = World({A: [(200, [b"x!"])] * 5 + [(200, moving), (200, [8.0, b"x!"])], B: [(200, [b"x!"])] * 5})
        for endpoint in (A, B):
            for _ in range(5):
                world.prefer(endpoint)
                await world.ask(FakeExchange())
        world.pools["p"].members[1].inflight = 100
        late = FakeExchange()

        async def both() -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(world.ask, FakeExchange())
                await trio.sleep(0.1)
                nursery.start_soon(world.ask, late)

        await with_watch(world, both)
        assert late.said == [(8.1, "x!"), (8.1, "END")]

    run(scenario)


@pytest.mark.parametrize(
    ("answer", "state"),
    [((200, [b"x!"]), "slow-start"), ((200, [b"role", UpstreamError("cut", retryable=True)]), "open")],
)
@pytest.mark.parametrize("stream", [True, False])
def test_the_probe_of_one_that_erred_decides(answer: tuple[int, list[Step]], state: str, stream: bool) -> None:
    async def scenario() -> None:
        world = World({C: [answer]})
        world.gateway.route = lambda request: Target("q", request.model)
        (member,) = world.pools["q"].members
        member.health._open(-4.0, ERRING)
        await world.ask(FakeExchange(stream=stream))
        assert member.statistics(0.0).state == state
        assert (member.inflight, member.unstreamed, member.health.probes) == (0, 0, 0)

    run(scenario)


def test_where_there_is_nobody_else_requests_wait_for_an_engine_that_is_stuck() -> None:
    async def scenario() -> None:
        world = World({C: [(200, [8.0, b"x!"])]})
        (member,) = world.pools["q"].members
        member.health._open(0.0, STUCK, stranded=True)
        world.gateway.route = lambda request: Target("q", request.model)
        exchange = FakeExchange()
        await with_watch(world, lambda: world.ask(exchange))
        assert exchange.said == [(8.0, "x!"), (8.0, "END")]
        assert member.health.state(8.0) == "slow-start"

    run(scenario)


CUT = UpstreamError("the connection broke", retryable=True)


@pytest.mark.parametrize("pause", [0.0, 1.0])
def test_a_dead_attempts_preamble_is_neither_shown_nor_in_the_way_of_the_next(pause: float) -> None:
    """In the pause before a retry the watch looks at what is held."""

    async def scenario() -> None:
        policy = Policy(first_token=10, between_tokens=2, retry_interval=pause)
        world = World({A: [(200, [b"role", CUT])], B: [(503, [b"full"])], C: [(200, [b"x!"])]}, policy=policy)
        world.prefer(A)
        exchange = FakeExchange()
        await with_watch(world, lambda: world.ask(exchange))
        assert [what for _, what in exchange.said] == ["x!", "END"]

    run(scenario)


def test_the_pause_before_a_retry_does_not_make_the_endpoint_look_slow() -> None:
    async def scenario() -> None:
        policy = Policy(first_token=10, between_tokens=2, retry_interval=30.0)
        world = World({A: [(503, [b"full"])], B: [(200, [0.5, b"x!"])]}, policy=policy)
        world.prefer(A)
        first, second = world.pools["p"].members
        seen: list[tuple[int, int]] = []

        async def look() -> None:
            await trio.sleep(15.0)
            seen.append((first.inflight, second.inflight - 1))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(look)
            await world.ask(FakeExchange())
        assert seen == [(0, 0)]
        assert world.records[0].ttft_s == 30.5
        assert world.pools["p"].pace.service == pytest.approx(0.5)

    run(scenario)


def test_a_release_that_comes_after_the_failure_says_nothing() -> None:
    async def scenario() -> None:
        world = World({A: [(200, [b"role", UpstreamError("cut")])]})
        world.prefer(A)

        class Watched(FakeExchange):
            """The watch ran just before the failure, in the same turn."""

            async def fail(self, error: GatewayError, /) -> None:
                (call,) = world.gateway.calls
                call.tick(trio.current_time() + 1.0, watch)
                await super().fail(error)

        exchange = Watched()
        async with trio.open_nursery() as watch:
            await world.ask(exchange)
            await trio.testing.wait_all_tasks_blocked()
        assert [what for _, what in exchange.said] == ["FAIL 502 upstream_error"]

    run(scenario)


def test_a_client_that_reads_slowly_is_not_the_engines_silence() -> None:
    class Slow(FakeExchange):
        async def send(self, chunk: bytes, /) -> None:
            if chunk == b"a":
                await trio.sleep(5)
            await super().send(chunk)

    async def scenario() -> None:
        world = World({A: [(200, [b"a", 0.1, b"b", 0.1, b"!"])]})
        world.prefer(A)
        exchange = Slow()
        await with_watch(world, lambda: world.ask(exchange))
        assert [what for _, what in exchange.said] == ["a", "b", "!", "END"]
        assert world.pools["p"].members[0].failures == 0

    run(scenario)


def test_an_endpoint_of_two_pools_is_tried_once() -> None:
    async def scenario() -> None:
        world = World({})
        world.pools.apply([PoolSpec("p", "fake", (A,)), PoolSpec("q", "fake", (A,))])
        await world.ask(FakeExchange())
        assert world.transport.log == ["to a"]

    run(scenario)


@pytest.mark.parametrize(
    "first",
    [
        pytest.param([(200, [b"x!"])], id="answered"),
        pytest.param([(503, [b"full"])], id="answered by another"),
        pytest.param([(400, [b"no"])], id="refused"),
        pytest.param([(200, [b"x", CUT])], id="broken"),
        pytest.param([(200, [b"x", None])], id="left"),
        pytest.param(None, id="nobody to ask"),
    ],
)
@pytest.mark.usefixtures("uncollected")
def test_a_finished_call_is_freed_without_the_garbage_collector(first: list[tuple[int, list[Step]]] | None) -> None:
    async def scenario() -> None:
        world = World({A: list(first or []), B: [(200, [b"x!"])]})
        world.prefer(A)
        if first is None:
            world.pools.apply([])
        exchange = FakeExchange()
        gone = weakref.ref(exchange)
        with trio.move_on_after(1):
            await world.gateway.serve(exchange)
        del exchange
        await trio.lowlevel.checkpoint()
        assert gone() is None

    run(scenario)


@pytest.mark.parametrize(
    ("rest", "fate"),
    [([], "kept"), ([b""], "kept"), ([0.1, b""], "kept"), ([None], "closed"), ([1.0, b"more", None], "closed")],
)
def test_what_says_that_nothing_follows_is_the_end_though_the_body_goes_on(rest: list[Step], fate: str) -> None:
    async def scenario() -> None:
        world = World({A: [(200, [b"one", b"two$", *rest])]})
        world.prefer(A)
        exchange = FakeExchange()
        await world.ask(exchange)
        assert exchange.said == [(0.0, "one"), (0.0, "two$"), (0.0, "END")]
        assert world.transport.log == ["to a", f"{fate} a"]
        assert world.records[0].reason == ""

    run(scenario)


def test_an_event_that_comes_in_dribs_is_silence_to_the_client() -> None:
    async def scenario() -> None:
        dribs: list[Step] = [b"half", 4.0] * 5
        world = World({A: [(200, [b"one", *dribs, b"two!"])]}, policy=Policy(first_token=100, between_tokens=100))
        world.prefer(A)
        exchange = FakeExchange()
        await with_watch(world, lambda: world.ask(exchange))
        assert exchange.said == [(0.0, "one"), (15.0, ":"), (20.0, "two!"), (20.0, "END")]

    run(scenario)


@pytest.mark.parametrize("sign", [b"half", b": alive"])
def test_an_engine_that_only_makes_noise_is_silent(sign: bytes) -> None:
    async def scenario() -> None:
        noise: list[Step] = [1.0, sign] * 5
        world = World({A: [(200, [b"one", *noise, b"two!"])]})
        world.prefer(A)
        exchange = FakeExchange()
        await with_watch(world, lambda: world.ask(exchange))
        assert exchange.said[-1] == (2.25, "FAIL 504 upstream_timeout")

    run(scenario)


def test_an_endpoint_that_is_full_is_not_charged_and_gives_way_for_a_moment() -> None:
    async def scenario() -> None:
        world = World({A: [(429, [b"full"]), (200, [b"a!"])], B: [(200, [b"b!"]), (200, [b"b!"])]})
        member = world.pools["p"].members[0]
        for _ in range(2):  # refused once, then not asked
            world.prefer(A)
            assert await world.ask(FakeExchange()) == ["b!", "END"]
        assert world.transport.log == ["to a", "kept a", "to b", "kept b", "to b", "kept b"]
        assert member.failures == 0
        await trio.sleep(1)
        world.prefer(A)
        assert await world.ask(FakeExchange()) == ["a!", "END"]

    run(scenario)


def test_going_elsewhere_for_want_of_room_costs_no_budget() -> None:
    async def scenario() -> None:
        world = World({A: [(503, [b"full"])] * 100, B: [(200, [b"b!"])] * 100})
        for _ in range(100):
            world.prefer(A)
            assert await world.ask(FakeExchange()) == ["b!", "END"]
            await trio.sleep(1)
        assert world.transport.log.count("to a") == 100

    run(scenario)


def test_a_bug_is_counted_as_one_and_gives_everything_back() -> None:
    async def scenario() -> None:
        world = World({A: [(200, [b"x!"])]})
        world.prefer(A)
        world.adapter.decoder = None  # type: ignore[method-assign,assignment]
        with pytest.raises(TypeError):
            await world.ask(FakeExchange())
        assert (world.records[0].status, world.records[0].reason) == (500, "internal")
        assert world.pools["p"].members[0].inflight == 0
        assert not world.gateway.calls

    run(scenario)


def test_a_bug_that_the_watch_meets_in_one_request_ends_no_watch_over_others(caplog: pytest.LogCaptureFixture) -> None:
    class Buggy(FakeExchange):
        def keep_alive(self, headers: Headers = (), /) -> None:
            raise RuntimeError("a bug of somebody's protocol")

    async def scenario() -> None:
        script: list[Step] = [40.0, b"one!"]
        world = World({A: [(200, script)] * 2}, policy=Policy(first_token=100, between_tokens=100))
        world.prefer(A)
        buggy, other = Buggy(), FakeExchange()

        async def both() -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(world.ask, buggy)
                nursery.start_soon(world.ask, other)

        await with_watch(world, both)
        assert [what for _, what in buggy.said] == ["one!", "END"]
        assert other.said == [(15.0, ":"), (30.0, ":"), (40.0, "one!"), (40.0, "END")]

    run(scenario)
    assert "the watch over request" in caplog.text
    assert "a bug of somebody's protocol" in caplog.text
