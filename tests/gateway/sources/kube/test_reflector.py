"""Reflectors under a virtual clock: whatever the API server does, what is told adds up to what is there."""

from __future__ import annotations

import itertools
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from gateway.sources.kube.client import ApiError, Unreachable
from gateway.sources.kube.kinds import MODEL_ROUTE
from gateway.sources.kube.messages import Key
from gateway.sources.kube.outage import Outage
from gateway.sources.kube.reflector import Reflector
from tests.gateway.sources.kube.feed import BREAKING, Feed

AWAY = Unreachable("connection refused")


class Mirror:
    """What a reflector told, checked as it tells."""

    def __init__(self, feed: Feed, **options: Any) -> None:
        self.feed = feed
        self.objects: dict[str, int] = {}
        self.told: list[tuple[str, str]] = []
        self.synced = 0
        self.outage = Outage("https://server")
        self.reflector = Reflector[int](
            feed,  # type: ignore[arg-type]
            MODEL_ROUTE,
            decode,
            self.upsert,
            self.removed,
            self.sync,
            outage=self.outage,
            rng=random.Random(1),
            **options,
        )

    def upsert(self, key: Key, value: int) -> None:
        self.told.append(("upsert", key[1]))
        self.objects[key[1]] = value

    def removed(self, key: Key) -> None:
        self.told.append(("removed", key[1]))
        del self.objects[key[1]]
        times = sum(told == ("removed", key[1]) for told in self.told)
        assert times <= self.feed.deleted.get(key[1], 0), "gone, though it was never deleted"

    def sync(self) -> None:
        self.synced += 1

    @property
    def state(self) -> str:
        return self.reflector.statistics().state

    @property
    def agrees(self) -> bool:
        return self.objects == {name: value for name, (_, value) in self.feed.objects.items()}


def decode(raw: msgspec.Raw) -> int:
    value = msgspec.json.decode(raw)["spec"]["value"]
    if value < 0:
        raise ValueError("value is negative")
    return int(value)


def play(scenario: Callable[[Feed, Mirror], Awaitable[None]], **options: Any) -> None:
    async def main() -> None:
        feed = Feed()
        for number in range(5):
            feed.put(f"r{number}", number)
        mirror = Mirror(feed, **options)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(mirror.outage.run)
            nursery.start_soon(mirror.reflector.run)
            await scenario(feed, mirror)
            nursery.cancel_scope.cancel()
        assert feed.open == 0

    trio.run(main, clock=MockClock(autojump_threshold=0))


def kinds(feed: Feed) -> list[str]:
    return [what for _, what, _ in feed.asked]


def test_listed_in_parts_then_watched() -> None:
    async def scenario(feed: Feed, mirror: Mirror) -> None:
        await mirror.reflector.wait_synced()
        await trio.sleep(0.1)
        assert mirror.agrees
        assert (mirror.synced, mirror.state) == (1, "live")
        assert kinds(feed) == ["list", "list", "list", "watch"]
        feed.put("r1", 7)
        feed.delete("r2")
        feed.put("r2", 8)
        feed.put("new", 9)
        await trio.sleep(0.1)
        assert mirror.told[5:] == [("upsert", "r1"), ("removed", "r2"), ("upsert", "r2"), ("upsert", "new")]
        assert mirror.agrees
        statistics = mirror.reflector.statistics()
        assert (statistics.objects, statistics.events, statistics.lists, statistics.restarts) == (6, 4, 1, 0)

    play(scenario, page=2)


def test_a_part_that_is_too_long_is_asked_for_in_smaller_ones() -> None:
    async def scenario(feed: Feed, mirror: Mirror) -> None:
        feed.weights = {f"r{number}": 3 << 20 for number in range(2, 5)}
        await mirror.reflector.wait_synced()
        assert mirror.agrees
        assert [query["limit"] for _, what, query in feed.asked if what == "list"] == [250, 62, 15, 3, 3, 1, 1]
        feed.weights["r1"] = 65 << 20
        feed.break_streams("reset")
        feed.down = AWAY
        await trio.sleep(100)
        feed.delete("r2")
        feed.compact()
        feed.version += 1  # lists from now on can be continued
        feed.down = None
        await trio.sleep(60)
        assert mirror.state == "broken"
        assert {"r1", "r2"} <= mirror.objects.keys()
        feed.weights.clear()
        await trio.sleep(60)
        assert mirror.state == "live"
        assert [query["limit"] for _, what, query in feed.asked if what == "list"][-1] == 250

    play(scenario)


def test_a_server_put_back_to_an_earlier_state_is_listed_again() -> None:
    async def scenario(feed: Feed, mirror: Mirror) -> None:
        await mirror.reflector.wait_synced()
        feed.down = AWAY
        feed.break_streams("reset")
        await trio.sleep(10)
        feed.version = 5  # before anything that was told
        feed.history.clear()
        feed.objects = {"r0": (3, 30), "old": (4, 40)}
        feed.deleted = {f"r{number}": 1 for number in range(1, 5)}
        feed.unwatchable = ApiError(504, "Timeout", "Too large resource version: 15, current: 5")
        feed.down = None
        await trio.sleep(120)
        assert mirror.agrees
        feed.unwatchable = None
        await trio.sleep(60)
        assert mirror.state == "live"

    play(scenario)


def test_versions_that_are_given_out_for_the_second_time_hide_nothing() -> None:
    async def scenario(feed: Feed, mirror: Mirror) -> None:
        await mirror.reflector.wait_synced()
        feed.version = 14  # the last write is lost
        feed.objects = {"r0": feed.objects["r0"], "r1": (12, 99)}
        feed.deleted = {f"r{number}": 1 for number in range(2, 5)}
        feed.history.clear()
        feed.unwatchable = ApiError(504, "Timeout", "Too large resource version: 15, current: 14")
        feed.break_streams("reset")
        await trio.sleep(120)
        assert mirror.objects == {"r0": 0, "r1": 99}

    play(scenario)


@pytest.mark.parametrize("tokens", [("a", "b"), ("a",), None])
@pytest.mark.parametrize("items", [0, 2])
def test_a_list_without_an_end_is_left_and_told(
    tokens: tuple[str, ...] | None, items: int, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(feed: Feed, mirror: Mirror) -> None:
        given = map(str, itertools.count()) if tokens is None else itertools.cycle(tokens)
        feed.endless = lambda: (next(given), items)
        await trio.sleep(60)
        assert 20 < len(feed.asked) < 300
        assert (mirror.state, mirror.synced) == ("broken", 0)
        assert "the parts of the list have no end" in caplog.text
        feed.endless = None
        await trio.sleep(60)
        assert mirror.agrees

    play(scenario)


def test_what_has_no_watch_is_read_now_and_then() -> None:
    async def scenario(feed: Feed, mirror: Mirror) -> None:
        await trio.sleep(1)
        feed.put("r1", 7)
        feed.delete("r2")
        await trio.sleep(40)
        assert mirror.agrees
        assert mirror.state == "live"
        feed.down = AWAY
        await trio.sleep(100)
        assert mirror.agrees
        feed.down = None
        feed.put("r3", 9)
        await trio.sleep(80)
        assert mirror.agrees
        assert set(kinds(feed)) == {"list"}

    play(scenario, every=lambda: 40.0)


def test_a_watch_that_ends_in_order_goes_on_where_it_was() -> None:
    async def scenario(feed: Feed, mirror: Mirror) -> None:
        await trio.sleep(3000)
        assert kinds(feed).count("list") == 1
        assert 5 <= kinds(feed).count("watch") <= 10
        assert len({query["timeoutSeconds"] for _, what, query in feed.asked if what == "watch"}) > 3
        feed.put("r1", 7)
        await trio.sleep(1)
        assert mirror.agrees
        assert mirror.reflector.statistics().restarts == 0
        feed.version += 50  # what happened elsewhere
        await trio.sleep(700)
        assert feed.asked[-1][2]["resourceVersion"] == str(feed.version), "as the bookmark said"

    play(scenario)


def test_what_was_forgotten_is_listed_and_only_differences_are_told() -> None:
    async def scenario(feed: Feed, mirror: Mirror) -> None:
        await trio.sleep(1)
        mirror.told.clear()
        feed.faults.append("reset")
        feed.put("r1", 7)
        feed.down = AWAY
        await trio.sleep(100)
        assert (mirror.state, mirror.objects["r2"]) == ("broken", 2)
        feed.delete("r2")
        feed.put("r3", 9)
        feed.compact()
        feed.down = None
        mirror.reflector.hurry()
        await trio.sleep(0.1)
        assert mirror.told == [("upsert", "r1"), ("upsert", "r3"), ("removed", "r2")]
        assert (mirror.synced, mirror.state) == (2, "live")
        assert mirror.agrees

    play(scenario)


def test_the_rest_of_a_list_that_expires_begins_again_in_larger_parts() -> None:
    async def scenario(feed: Feed, mirror: Mirror) -> None:
        feed.token_floor = 10_000
        await mirror.reflector.wait_synced()
        assert [query["limit"] for _, what, query in feed.asked if what == "list"] == [1, 1, 4, 4, 16]
        await trio.sleep(0.1)
        assert mirror.agrees

    play(scenario, page=1)


@pytest.mark.parametrize("fault", [fault for fault in BREAKING if fault != "close"])
def test_a_stream_that_breaks_goes_on_from_the_last_good_event(fault: str, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(feed: Feed, mirror: Mirror) -> None:
        await trio.sleep(1)
        version = feed.version
        feed.break_streams(fault)
        await trio.sleep(700 if fault == "stall" else 2)
        assert kinds(feed)[:3] == ["list", "watch", "watch"]
        assert feed.asked[2][2]["resourceVersion"] == str(version)
        feed.put("r1", 7)
        await trio.sleep(1)
        assert mirror.agrees
        assert mirror.state == "live"
        assert mirror.reflector.statistics().restarts == 1

    with caplog.at_level(logging.WARNING):
        play(scenario)
    lost = fault in ("reset", "stall")  # a connection, and there was another at once: not worth a word
    assert len(caplog.records) == (not lost)
    assert lost or caplog.messages[0].startswith("modelroutes.networking.serving.volcano.sh: cannot be followed")


def test_garbage_at_the_same_place_again_leads_to_a_list() -> None:
    async def scenario(feed: Feed, mirror: Mirror) -> None:
        await trio.sleep(1)
        feed.faults.extend(["garbage", "garbage"])
        feed._wake()
        await trio.sleep(5)
        assert kinds(feed) == ["list", "watch", "watch", "list", "watch"]
        assert mirror.state == "live"

    play(scenario)


def test_silence_is_a_stall_where_bookmarks_come() -> None:
    async def scenario(feed: Feed, mirror: Mirror) -> None:
        await trio.sleep(65)
        feed.break_streams("stall")
        await trio.sleep(181)
        assert kinds(feed) == ["list", "watch", "watch"]
        assert feed.asked[2][0] < 260

    play(scenario)


def test_without_bookmarks_silence_may_last_as_long_as_the_watch() -> None:
    async def scenario(feed: Feed, mirror: Mirror) -> None:
        feed.bookmark_s = 10_000.0
        await trio.sleep(1)
        feed.break_streams("stall")
        lasts = float(feed.asked[1][2]["timeoutSeconds"])
        await trio.sleep(lasts + 28)
        assert len(feed.asked) == 2
        await trio.sleep(3)
        assert len(feed.asked) == 3

    play(scenario)


def test_pauses_grow_to_half_a_minute_and_start_over_after_a_healthy_one() -> None:
    async def scenario(feed: Feed, mirror: Mirror) -> None:
        feed.down = AWAY
        await trio.sleep(600)
        times = [at for at, _, _ in feed.asked]
        pauses = [b - a for a, b in itertools.pairwise(times)]
        assert pauses[0] <= 0.5
        assert pauses[1] <= 1.0
        assert all(pause <= 30.0 for pause in pauses)
        assert max(pauses) > 15.0
        assert 20 < len(times) < 100
        assert not mirror.objects
        feed.down = None
        await trio.sleep(100)
        assert mirror.agrees
        for _ in range(8):
            feed.break_streams("reset")
            before = trio.current_time()
            await trio.sleep(70)
            assert feed.asked[-1][0] - before <= 0.5

    play(scenario)


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_waited_for(status: int) -> None:
    async def scenario(feed: Feed, mirror: Mirror) -> None:
        feed.refusals.append(ApiError(status, "TooManyRequests", "later", retry_after=20.0))
        await trio.sleep(50)
        assert 20.0 <= feed.asked[1][0] - feed.asked[0][0] <= 20.5
        assert mirror.agrees

    play(scenario)


def test_watches_that_end_at_once_are_not_asked_for_in_a_loop() -> None:
    async def scenario(feed: Feed, mirror: Mirror) -> None:
        feed.faults.extend(["close"] * 100)
        await trio.sleep(60)
        assert len(feed.asked) < 30
        assert mirror.reflector.statistics().lists == 1

    play(scenario)


def test_a_server_that_forgets_all_the_time_is_not_asked_in_a_loop_and_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario(feed: Feed, mirror: Mirror) -> None:
        feed.floor = 10**9
        await trio.sleep(120)
        assert 5 < len(feed.asked) < 60
        assert mirror.agrees
        assert mirror.state == "broken"
        assert caplog.text.count("cannot be followed, what is known stays: 410 Expired: too old") == 1

    play(scenario)


@pytest.mark.parametrize(
    ("status", "state", "level", "words"),
    [
        (404, "absent", logging.INFO, "ModelRoutes: off, the API server does not know modelroutes.networking.serving"),
        (403, "forbidden", logging.WARNING, 'grant the verbs get, list and watch on "modelroutes" of API group'),
    ],
)
def test_a_kind_that_is_not_there_or_not_ours(
    status: int, state: str, level: int, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(feed: Feed, mirror: Mirror) -> None:
        feed.down = ApiError(status, "", "no")
        await mirror.reflector.wait_synced()
        assert (mirror.state, mirror.synced) == (state, 0)
        await trio.sleep(600)
        times = [at for at, _, _ in feed.asked]
        assert all(30 <= b - a <= 60 for a, b in itertools.pairwise(times))
        feed.down = None
        mirror.reflector.hurry()
        await trio.sleep(0.1)
        assert mirror.agrees
        assert mirror.state == "live"
        feed.down = ApiError(status, "", "no")
        feed.break_streams("reset")
        await trio.sleep(1)
        assert mirror.state == state
        assert mirror.agrees, "what was seen stays"

    with caplog.at_level(logging.INFO):
        play(scenario)
    told = [record for record in caplog.records if words in record.getMessage()]
    assert [record.levelno for record in told] == [level, level]


def test_a_watch_that_is_forbidden_leaves_what_was_listed() -> None:
    async def scenario(feed: Feed, mirror: Mirror) -> None:
        feed.unwatchable = ApiError(403, "Forbidden", "no watch")
        await trio.sleep(1)
        assert (mirror.state, mirror.agrees) == ("forbidden", True)
        feed.put("r1", 7)
        await trio.sleep(61)
        assert mirror.agrees, "it is listed now and then instead"

    play(scenario)


def test_refused_credentials_are_an_error_that_passes() -> None:
    async def scenario(feed: Feed, mirror: Mirror) -> None:
        feed.down = ApiError(401, "Unauthorized", "who are you")
        await trio.sleep(20)
        assert mirror.state == "broken"
        assert "who are you" in mirror.reflector.statistics().error
        feed.down = None
        await trio.sleep(31)
        assert (mirror.state, mirror.reflector.statistics().error) == ("live", "")

    play(scenario)


def test_an_object_that_cannot_be_decoded_is_left_as_it_was(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(feed: Feed, mirror: Mirror) -> None:
        await trio.sleep(1)
        feed.put("r1", -1)
        feed.put("r1", -2)
        feed.put("r2", 7)
        await trio.sleep(1)
        assert (mirror.objects["r1"], mirror.objects["r2"], mirror.state) == (1, 7, "live")
        feed.put("r1", 9)
        await trio.sleep(1)
        assert mirror.agrees

    with caplog.at_level(logging.WARNING):
        play(scenario)
    assert [message.split(": ", 1)[1] for message in caplog.messages] == [
        "n/r1 cannot be read, what was there before stays: value is negative"
    ]


def test_a_list_of_another_shape_takes_nothing_away(caplog: pytest.LogCaptureFixture) -> None:
    from gateway.sources.kube.client import Reply

    bodies = [b"", b"{}", b"<html>", b"null", b'{"metadata": {"resourceVersion": "99"}}',
              b'{"kind": "PodList", "metadata": {"resourceVersion": "99"}, "items": []}',
              b'{"metadata": {"resourceVersion": ""}, "items": []}', b'{"items": ' + b"[" * 100_000]  # fmt: skip

    async def scenario(feed: Feed, mirror: Mirror) -> None:
        await trio.sleep(1)
        feed.compact()
        ask, waiting = feed.request, list(bodies)

        async def garbled(*args: Any, **fields: Any) -> Reply:
            return Reply(200, waiting.pop(0)) if waiting else await ask(*args, **fields)

        feed.request = garbled  # type: ignore[method-assign]
        feed.put("r1", 7)
        feed.compact()
        await trio.sleep(200)
        assert not waiting
        assert mirror.agrees
        assert not [told for told in mirror.told if told[0] == "removed"]

    play(scenario)


def test_what_a_callback_raises_ends_the_run_and_is_told_again() -> None:
    async def main() -> None:
        feed = Feed()
        feed.put("a", 1)
        mirror = Mirror(feed)
        good, mirror.reflector._upsert = mirror.reflector._upsert, lambda key, value: {}[key]
        with pytest.raises(KeyError):
            await mirror.reflector.run()
        mirror.reflector._upsert = good
        with trio.move_on_after(1):
            await mirror.reflector.run()
        assert mirror.agrees
        assert feed.open == 0

    trio.run(main, clock=MockClock(autojump_threshold=0))


names = st.sampled_from(["a", "b", "c", "d"])
deeds = st.one_of(
    st.tuples(st.just("put"), names, st.integers(0, 3)),
    st.tuples(st.just("delete"), names),
    st.tuples(st.just("compact")),
    st.tuples(st.just("fault"), st.sampled_from(BREAKING)),
    st.tuples(st.just("refuse"), st.sampled_from([401, 403, 404, 410, 429, 500, 503, 0])),
    st.tuples(st.just("wait"), st.sampled_from([0.0, 0.1, 1.0, 10.0, 100.0, 1000.0])),
    st.tuples(st.just("hurry")),
)


@given(st.lists(deeds, max_size=25), st.integers(1, 3), st.integers(0, 2**32))
def test_whatever_happens_it_converges(story: list[tuple[Any, ...]], page: int, seed: int) -> None:
    async def scenario(feed: Feed, mirror: Mirror) -> None:
        for what, *rest in story:
            await act(feed, mirror, what, rest)
        feed.faults.clear()
        feed.refusals.clear()
        await trio.sleep(1000)
        assert mirror.agrees
        assert mirror.state == "live"

    play(scenario, page=page)


async def act(feed: Feed, mirror: Mirror, what: str, rest: list[Any]) -> None:
    match what:
        case "put":
            feed.put(*rest)
        case "delete":
            feed.delete(*rest)
        case "compact":
            feed.compact()
        case "fault":
            feed.break_streams(*rest)
        case "refuse":
            feed.refusals.append(ApiError(rest[0], "", "so there") if rest[0] else AWAY)
        case "wait":
            await trio.sleep(*rest)
        case "hurry":
            mirror.reflector.hurry()
