"""The live feed: what it shows, to whom, and what it costs others."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import msgspec
import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

import gateway
from gateway import live
from gateway.config.sharing import Fairness, Tier
from gateway.config.snapshot import PoolSpec, Snapshot
from gateway.flows import FlowStatistics
from gateway.gate import Gate
from gateway.live import WATCHERS, Crowded, Live
from gateway.live_json import encode
from gateway.live_state import SHOWN
from gateway.live_view import FLOWS, flows, foremost, routes, serving, ways
from gateway.meter import Record, Totals
from gateway.outliers import SLOW
from gateway.pools import Pools
from gateway.route import Match, Route, RouteTable, Rule, Share, TextMatch
from gateway.schedule.explain import Decisions
from gateway.store.redis import Statistics
from gateway.types import Endpoint, Load, ModelCard
from tests.gateway.scripted import FakeAdapter, least_in_flight

HOSTILE = "</script><img src=x onerror=alert(1)>\x1b[31m\n\u2028\u202e\ud800"


class FakeCore:
    def __init__(self) -> None:
        self.decisions = Decisions()


class FakeState:
    def __init__(self) -> None:
        self.store: Statistics | None = None

    def limits(self) -> Statistics | None:
        return self.store


class FakeLog:
    lost = dropped = 0


class FakeParts:
    """A gateway without requests."""

    def __init__(self, *specs: PoolSpec, table: RouteTable | None = None) -> None:
        self.pools = Pools({"fake": FakeAdapter()}, least_in_flight, random.Random(1))
        self.pools.apply(specs)
        self.snapshot = Snapshot(routes=table or RouteTable(), pools=specs)
        self.gateway = FakeCore()
        self.totals = Totals()
        self.draining = False
        self.state = FakeState()
        self.usage, self.access_log, self.tracing = FakeLog(), FakeLog(), FakeLog()

    def ready(self) -> bool:
        return True

    def connections(self) -> dict[str, int]:
        return {"http": 3}


def spec(name: str, count: int = 1) -> PoolSpec:
    return PoolSpec(name, "fake", tuple(Endpoint("fake", "http", name, 1 + port) for port in range(count)))


def feed(parts: FakeParts) -> Live:
    return Live(cast(Any, parts), lambda: ["bad"], clock=lambda: 1000.0 + trio.current_time())


def watching(parts: FakeParts, visit: Callable[[Live], Any]) -> None:
    """Run ``visit`` beside a feed, in no time."""

    async def main() -> None:
        told = feed(parts)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(told.run)
            await trio.testing.wait_all_tasks_blocked()
            await visit(told)
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


async def event(events: trio.MemoryReceiveChannel[live.Event], wanted: str) -> dict[str, Any]:
    name, data = await events.receive()
    assert name == wanted
    decoded = json.loads(data)
    assert isinstance(decoded, dict)
    return decoded


@contextmanager
def never_cut(told: Live) -> Iterator[trio.MemoryReceiveChannel[live.Event]]:
    with told.watch(lambda: pytest.fail("was cut")) as events:
        yield events


def test_one_who_comes_gets_everything_and_then_what_changes() -> None:
    parts = FakeParts(spec("p", 2))

    async def visit(told: Live) -> None:
        await trio.sleep(400)
        with never_cut(told) as events:
            hello = await event(events, "hello")
            assert (hello["version"], hello["started"], hello["interval"]) == (gateway.__version__, 1000.0, 1.0)
            assert len(hello["history"]) == 300
            assert {len(row) for row in hello["history"]} == {9}
            assert hello["history"] == sorted(hello["history"], key=lambda row: row[0])
            state = hello["state"]
            assert (state["ready"], state["draining"], state["problems"]) == (True, False, ["bad"])
            assert state["pools"][0]["rps"] is None, "nobody looked before"
            said = "The last change of the configuration was refused: bad"
            assert state["verdict"] == [{"level": "warn", "about": "configuration", "text": said}]
            good = Record(model="m", pool="p", stream=True, tokens_in=40, tokens_cached=10, tokens_out=20, ttft_s=0.3)
            parts.totals.finished(msgspec.structs.replace(good, ended=2.0))
            parts.totals.finished(Record(model="m", pool="p", status=502, reason="upstream_error"))
            parts.totals.finished(Record(model="m", pool="p", status=429, reason="rate_limited"))
            for _ in range(10):
                state = await event(events, "state")
            shown = state["totals"]
            assert [shown[name] for name in ("rps", "errors", "refused", "tokens_in", "hit_ratio", "streams")] == [
                pytest.approx(0.3), pytest.approx(0.1), pytest.approx(0.1), pytest.approx(4.0), 0.25, 0
            ]  # fmt: skip
            assert 0.2 <= shown["ttft_p50"] <= 0.4
            assert shown["connections"] == {"http": 3}
            (row,) = state["pools"]
            assert row["rps"] == pytest.approx(0.3)
            assert (row["ready"], row["members"], row["ttft_p50"]) == (2, 2, shown["ttft_p50"])
            for _ in range(12):
                state = await event(events, "state")
            assert (state["totals"]["rps"], state["totals"]["ttft_p50"], state["pools"][0]["rps"]) == (0, None, 0)

    watching(parts, visit)


def test_endpoints_that_are_out_and_a_queue_that_grows_are_told_of() -> None:
    parts = FakeParts(spec("p", 2), spec("q"))
    for member in parts.pools["p"].members[:1]:
        member.up = False

    async def visit(told: Live) -> None:
        await trio.sleep(40)
        told._history[-30][-1] = 0
        told._under_way = lambda: (0, 50)  # type: ignore[method-assign]
        with never_cut(told) as events:
            verdict = (await event(events, "hello"))["state"]["verdict"]
        assert [(problem["about"], problem.get("endpoint")) for problem in verdict] == [
            ("configuration", None), ("requests", None), ("endpoint", "p:1")
        ]  # fmt: skip

    watching(parts, visit)


def test_a_pool_is_as_full_as_its_slots_and_an_endpoint_is_gone_for_its_newest_reason() -> None:
    parts = FakeParts(spec("p", 2))
    pool = parts.pools["p"]
    for member in pool.members:
        member.room.full(2.0, 0.0)
    pool.members[0].health._open(0.0, SLOW)
    pool.members[0].health.reached(0.0, False, "no such file")
    pool.gate = Gate(pool, Fairness())
    pool.gate.inflight = 3

    async def visit(told: Live) -> None:
        with never_cut(told) as events:
            state = (await event(events, "hello"))["state"]
        assert [(row["ready"], row["saturation"]) for row in state["pools"]] == [(1, 1.5)]
        assert [row["why"] for row in state["endpoints"]] == ["no such file", ""]
        assert "p:1 is down: no such file" in [each["text"] for each in state["verdict"]]

    watching(parts, visit)


def test_attempts_that_fail_are_told_of_at_once_and_no_longer_than_they_do() -> None:
    parts = FakeParts(spec("p", 2))

    async def visit(told: Live) -> None:
        texts: list[list[str]] = []
        await trio.sleep(100.5)
        for _ in range(28):
            parts.totals.attempted("p", "p:1", "upstream_error")
            parts.totals.attempted("p", "p:2", "ok")
        for wait in (0, 5, 20):
            await trio.sleep(wait)
            with never_cut(told) as events:
                texts.append([each["text"] for each in (await event(events, "hello"))["state"]["verdict"][1:]])
        said = ["Attempts at p:1 fail: 28 of 28 (errors or no connection)"]
        assert texts == [said, said, []]

    watching(parts, visit)


def test_what_is_lost_beside_requests_is_told_of_for_a_minute() -> None:
    parts = FakeParts()
    parts.totals.restarts["scrapes"] = 3

    async def visit(told: Live) -> None:
        async def texts() -> list[str]:
            with never_cut(told) as events:
                return [each["text"] for each in (await event(events, "hello"))["state"]["verdict"][1:]]

        await trio.sleep(70.5)
        parts.state.store = Statistics(True, "", 0, 0, 0, 0, 0.0)
        assert await texts() == []
        parts.usage.lost, parts.access_log.lost, parts.tracing.dropped = 2, 4, 6
        parts.totals.restarts["scrapes"] = 5
        parts.state.store = Statistics(False, "refused", 1, 0, 0, 0, 0.0)
        await trio.sleep(1)
        small = ["Lost within a minute: access log lines: 4, usage events: 2 and traces: 6",
                 "Background tasks that failed and began anew within a minute: scrapes: 2"]  # fmt: skip
        assert await texts() == ["The shared store is away, limits are kept by this process alone: refused", *small]
        parts.state.store = Statistics(True, "", 1, 0, 0, 0, 0.0)
        await trio.sleep(50)
        assert await texts() == ["The shared store was away within the last minute", *small]
        await trio.sleep(20)
        assert await texts() == []

    watching(parts, visit)


def test_a_few_requests_that_fail_are_told_of_within_a_minute() -> None:
    parts = FakeParts(spec("p"))

    async def visit(told: Live) -> None:
        texts: list[list[str]] = []
        with never_cut(told) as events:
            await event(events, "hello")
            for second in range(80):
                if second in (2, 15, 30):
                    parts.totals.finished(Record(model="m", pool="p", status=502, reason="upstream_error"))
                verdict = (await event(events, "state"))["verdict"]
                texts.append([each["text"] for each in verdict if each["about"] == "requests"])
        assert [bool(each) for each in texts].index(True) in (30, 31)
        assert texts[40] == ["3 of 3 requests failed within a minute"]
        assert texts[-1] == []

    watching(parts, visit)


def test_a_pool_is_saturated_once_it_has_been_full_for_some_seconds() -> None:
    parts = FakeParts(spec("p"))
    (member,) = parts.pools["p"].members

    async def visit(told: Live) -> None:
        told_of = []
        with never_cut(told) as events:
            await event(events, "hello")
            for second in range(16):
                full = second not in (0, 4)
                member.load = Load(at=trio.current_time(), running=0.0, kv_usage=1.0 if full else 0.1)
                state = await event(events, "state")
                assert ((state["pools"][0]["saturation"] >= 1.0), state["pools"][0]["fairness"]) == (full, False)
                told_of.append("Pool p is saturated" in [each["text"] for each in state["verdict"]])
        assert told_of.index(True) == 10
        assert all(told_of[10:])

    watching(parts, visit)


def test_endpoints_tell_what_their_engines_say() -> None:
    parts = FakeParts(spec("p"))
    (member,) = parts.pools["p"].members
    member.cards = tuple(ModelCard(f"model-{number}") for number in range(20))
    member.up = True

    async def visit(told: Live) -> None:
        with never_cut(told) as events:
            (shown,) = (await event(events, "hello"))["state"]["endpoints"]
            assert [shown[name] for name in ("running", "waiting", "kv", "hit", "age")] == [None] * 5
            for step in range(12):
                now = trio.current_time()
                member.load = Load(at=now, running=2.0, kv_usage=0.5, generated_tokens=100.0 * step,
                                   queried_tokens=10.0 * step, hit_tokens=4.0 * step)  # fmt: skip
                member.requests = 3 * step
                (shown,) = (await event(events, "state"))["endpoints"]
            assert (shown["id"], shown["pool"], shown["state"], shown["kv"]) == ("p:1", "p", "ready", 0.5)
            assert shown["hit"] == pytest.approx(0.4)
            assert shown["rps"] == pytest.approx(3.0)
            assert shown["tokens_out"] == pytest.approx(100.0)
            assert shown["models"] == [f"model-{number}" for number in range(8)]
            member.load = Load(at=trio.current_time(), running=0.0)
            (shown,) = (await event(events, "state"))["endpoints"]
            assert (shown["tokens_out"], shown["hit"]) == (0.0, None), "it was restarted"

    watching(parts, visit)


def test_of_thousands_the_first_are_shown_and_others_get_their_turns() -> None:
    parts = FakeParts(spec("a", 3), spec("b", 5000))
    turns = 0

    class Turns(trio.abc.Instrument):
        def after_io_wait(self, timeout: float) -> None:
            nonlocal turns
            turns += 1

    async def visit(told: Live) -> None:
        trio.lowlevel.add_instrument(Turns())
        before = turns
        with never_cut(told) as events:
            state = (await event(events, "hello"))["state"]
        assert turns - before > 15
        assert (len(state["endpoints"]), state["endpoints_left_out"]) == (SHOWN, 5003 - SHOWN)
        assert [shown["pool"] for shown in state["endpoints"][:4]] == ["a", "a", "a", "b"]
        assert [row["members"] for row in state["pools"]] == [3, 5000]

    watching(parts, visit)


def test_nothing_is_worked_out_while_nobody_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = FakeParts(spec("p"))
    taken = 0

    async def visit(told: Live) -> None:
        nonlocal taken
        plain = told._picture.take

        async def take(*args: Any) -> bytes:
            nonlocal taken
            taken += 1
            return await plain(*args)

        monkeypatch.setattr(told._picture, "take", take)
        await trio.sleep(50)
        assert taken == 0
        with never_cut(told) as first, never_cut(told) as second:
            for events in (first, second):
                await event(events, "hello")
            for _ in range(5):
                for events in (first, second):
                    await event(events, "state")
        seen = taken
        assert seen in (6, 7), "once for both"
        await trio.sleep(50)
        assert taken == seen

    watching(parts, visit)


def test_one_who_does_not_read_is_cut_and_the_others_are_not() -> None:
    async def visit(told: Live) -> None:
        cuts: list[float] = []
        with told.watch(lambda: cuts.append(trio.current_time())) as stuck, never_cut(told) as events:
            await event(events, "hello")
            for _ in range(20):
                await event(events, "state")
            assert len(cuts) == 1
            assert [name for name, _ in [stuck.receive_nowait() for _ in range(4)]] == ["hello", *["state"] * 3]
            with pytest.raises(trio.EndOfChannel):
                stuck.receive_nowait()

    watching(FakeParts(spec("p")), visit)


def test_so_many_may_watch_and_places_come_free() -> None:
    async def visit(told: Live) -> None:
        watchers = [told.watch(lambda: None) for _ in range(WATCHERS)]
        for watcher in watchers:
            watcher.__enter__()
        with pytest.raises(Crowded), told.watch(lambda: None):
            pass
        watchers.pop().__exit__(None, None, None)
        with never_cut(told) as events:
            await event(events, "hello")
        for watcher in watchers:
            watcher.__exit__(None, None, None)

    watching(FakeParts(), visit)


def test_the_end_is_told_and_waited_for() -> None:
    async def visit(told: Live) -> None:
        with never_cut(told) as events:
            await event(events, "hello")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(told.end)
                await trio.testing.wait_all_tasks_blocked()
                with pytest.raises(trio.EndOfChannel):
                    await events.receive()
                nursery.cancel_scope.cancel()
        with pytest.raises(Crowded), told.watch(lambda: None):
            pass
        before = trio.current_time()
        await told.end()
        assert trio.current_time() == before, "nobody is there to wait for"

    watching(FakeParts(), visit)


def test_nobody_is_cut_off_while_the_end_is_on_its_way() -> None:
    async def visit(told: Live) -> None:
        with never_cut(told) as events:
            await event(events, "hello")
            await event(events, "state")
            await trio.sleep(0.9)
            await told.end()  # which waits for this one into the next second
            with pytest.raises(trio.EndOfChannel):
                await events.receive()

    watching(FakeParts(), visit)


# --- rows -------------------------------------------------------------------------------------------------------------


def flow(tenant: str, caller: str, served: float, queued: int = 0, weight: float = 1.0, priority: int = 0) -> Any:
    return FlowStatistics(tenant, caller, queued, 0, served, 0.0, 0.0, 3.0, weight, priority)


def test_tenants_share_alike_and_callers_within_them_by_weight() -> None:
    tiers = {"gold": Tier(weight=3.0), "plain": Tier(), "twin": Tier(), "first": Tier(priority=5)}
    rows = flows(
        "p",
        [flow("t", "a", 60.0, weight=3.0), flow("t", "b", 20.0, queued=2), flow("u", "c", 20.0, priority=5)],
        tiers,
    )
    assert [row["share"] for row in rows] == [0.6, 0.2, 0.2]
    assert [row["fair"] for row in rows] == [1.5 / 3, 0.5 / 3, 1 / 3]
    assert [row["tier"] for row in rows] == ["gold", "", "first"], "two have the same terms: which it is nobody knows"
    assert [row["wait"] for row in rows] == [None, 3.0, None]


def test_those_who_wait_and_those_who_were_served_most_are_shown() -> None:
    rows = flows("p", [flow("t", str(n), float(n), queued=int(n < 40)) for n in range(200)], {})
    shown = foremost(rows)
    assert len(shown) == FLOWS
    assert sum(row["queued"] > 0 for row in shown) == FLOWS // 2
    assert shown[0]["caller"] == "199"


def test_routes_are_put_into_words_with_what_they_carry() -> None:
    canary = Rule((Share("old", 90), Share("new", 10, "m-2")), "canary")
    matched = Rule(
        (Share("old"),),
        match=Match(headers=((b"x-who", TextMatch(exact="me")),), uri=TextMatch(prefix="/v1/chat"), model="m-3"),
    )
    table = RouteTable([Route("default/r", model="m", loras=("l",), rules=(matched, canary))])
    totals = Totals()
    static = routes(table.routes)
    nothing = ways(totals.routes)
    for target, count in (("old", 30), ("new", 10)):
        for number in range(count):
            totals.finished(Record(route="default/r", pool=target, status=200 if number else 502,
                                   reason="" if number else "upstream_error"))  # fmt: skip
    now = ways(totals.routes)
    first, second = serving(static, now, nothing, nothing, 10.0)
    assert first["match"] == "model m, l · header x-who is me · path begins with /v1/chat · model name is m-3"
    assert second["name"] == "default/r/canary"
    assert [target["weight"] for target in second["targets"]] == [0.9, 0.1]
    assert [target["share"] for target in second["targets"]] == [0.75, 0.25]
    assert [target["rps"] for target in second["targets"]] == [3.0, 1.0]
    assert [target["errors"] for target in second["targets"]] == [0.1, 0.1]
    (_, unseen) = serving(static, now, now, now, 0.0)
    assert [(each["share"], each["rps"]) for each in unseen["targets"]] == [(None, None)] * 2


def test_hostile_names_are_text() -> None:
    rows = flows(HOSTILE, [flow(HOSTILE, HOSTILE, 1.0)], {})
    text = bytes(encode({HOSTILE: rows, "nan": float("nan")})).decode()
    assert text.isprintable()
    decoded = json.loads(text)
    (key, *_) = decoded
    assert decoded[key][0]["caller"] == HOSTILE.replace("\ud800", "\\ud800")
    assert decoded["nan"] is None


@given(st.text(), st.text())
def test_json_shows_everything_and_says_the_same(key: str, value: str) -> None:
    found = bytes(encode({"\x7f\x9b\u202e\U000e0041\U0001f600" + key: [value], "inner": encode([value])})).decode()
    assert found.isprintable()
    if not any("\ud800" <= character <= "\udfff" for character in key + value):
        assert list(json.loads(found).values()) == [[value], [value]]
