"""Discovery under virtual time: what answers is used, what does not is asked again, and nobody waits for a hung one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType

import pytest
import trio
import trio.testing

from gateway.discover import Discovery
from gateway.errors import UpstreamError
from gateway.types import Endpoint, Headers, ModelCard, UpstreamRequest

A, B = Endpoint("fake", "http", "a", 1), Endpoint("auto", "http", "b", 1)
Answer = bytes | UpstreamError | None
"""A body; an error; None: no answer at all."""


class FakeAdapter:
    def models_path(self) -> bytes:
        return b"/v1/models"

    def parse_models(self, body: bytes, /) -> Sequence[ModelCard]:
        if body == b"rubbish":
            raise ValueError("not a listing")
        if body == b"nested":
            raise RecursionError("a thousand brackets")
        return [ModelCard(name, created=int(trio.current_time())) for name in body.decode().split()]


class Reply:
    headers = ()
    complete = True

    def __init__(self, body: bytes) -> None:
        self.status = 200 if body else 404
        self.body = body

    async def receive(self) -> bytes:
        return self.body


class Fleet:
    """A transport whose endpoints answer what ``answers`` says now."""

    def __init__(self) -> None:
        self.answers: dict[tuple[str, str], Answer] = {}
        self.asked: list[tuple[float, str]] = []
        self.fields: list[Headers] = []

    def send(self, endpoint: Endpoint, request: UpstreamRequest, /) -> FakeSending:
        self.asked.append((trio.current_time(), endpoint.host))
        self.fields.append(request.extra)
        return FakeSending(self.answers.get((endpoint.host, request.path.decode()), b""))


class FakeSending:
    def __init__(self, answer: Answer) -> None:
        self.answer = answer

    async def __aenter__(self) -> Reply:
        await trio.lowlevel.checkpoint()
        if self.answer is None:
            await trio.sleep_forever()
        if isinstance(self.answer, UpstreamError):
            raise self.answer
        assert self.answer is not None
        return Reply(self.answer)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...

    def abort(self) -> None: ...


def run(scenario: Callable[[Discovery, Fleet, list[float]], Awaitable[None]]) -> None:
    async def main() -> None:
        fleet, changes = Fleet(), list[float]()
        discovery = Discovery(
            fleet,
            {"fake": FakeAdapter(), "anthropic": FakeAdapter(), "plain": FakeAdapter()},  # type: ignore[dict-item]
            lambda endpoint: changes.append(trio.current_time()),
            detect=lambda answers: {b"1": "fake", b"anthropic": "anthropic"}.get(answers.get("/version", b"")),
            detect_paths=["/version"],
            fields={"anthropic": ((b"version", b"1"),)},
            wall=lambda: 1e9 + trio.current_time(),
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(discovery.run)
            await scenario(discovery, fleet, changes)
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_a_public_provider_is_asked_seldom_and_told_what_it_wants_to_be_told() -> None:
    async def scenario(discovery: Discovery, fleet: Fleet, changes: list[float]) -> None:
        fleet.answers["p", "/v1/models"] = fleet.answers["a", "/v1/models"] = b"one"
        discovery.watch([Endpoint("anthropic", "https", "p", 443)])
        await trio.sleep(130)
        assert fleet.asked == [(0, "p"), (60, "p"), (120, "p")]
        assert [*map(tuple, fleet.fields)] == [((b"version", b"1"),)] * 3
        discovery.watch([Endpoint("anthropic", "https", "p", 443, headers=((b"version", b"2"),))])
        await trio.sleep(1)
        assert not fleet.fields[-1]
        discovery.watch([A])
        await trio.sleep(1)
        assert not fleet.fields[-1]

    run(scenario)


def test_a_new_endpoint_is_asked_at_once_however_many_wait_for_their_turn() -> None:
    async def scenario(discovery: Discovery, fleet: Fleet, changes: list[float]) -> None:
        down = [Endpoint("fake", "http", f"down{n}", 1) for n in range(2000)]  # of which 500 can be asked a second
        fleet.answers |= {(each.host, "/v1/models"): UpstreamError("refused") for each in down}
        discovery.watch(down)
        await trio.sleep(30)
        fleet.answers["a", "/v1/models"] = b"one"
        discovery.add(A)
        await trio.sleep(0.05)
        assert discovery[A].up

    run(scenario)


def test_a_model_without_a_time_was_made_when_it_was_found() -> None:
    async def scenario(discovery: Discovery, fleet: Fleet, changes: list[float]) -> None:
        fleet.answers["a", "/v1/models"] = b"one"  # at the clock's 0
        discovery.watch([A])
        await trio.sleep(7)
        fleet.answers["a", "/v1/models"] = b"one two"
        await trio.sleep(7)
        assert [(card.id, card.created) for card in discovery[A].cards] == [("one", 10**9), ("two", 10)]

    run(scenario)


def test_what_answers_is_known_and_only_changes_are_told() -> None:
    async def scenario(discovery: Discovery, fleet: Fleet, changes: list[float]) -> None:
        fleet.answers["a", "/v1/models"] = b"one two"
        discovery.watch([A])
        await discovery.wait_settled()
        assert discovery[A].up
        assert [card.id for card in discovery[A].cards] == ["one", "two"]
        await trio.sleep(60)
        assert changes == [0]  # a listing's `created` moves at vLLM: that is no news
        fleet.answers["a", "/v1/models"] = b"one two three"
        await trio.sleep(6)
        assert len(changes) == 2

    run(scenario)


def test_a_refused_connection_is_down_at_once_and_asked_until_it_is_back() -> None:
    async def scenario(discovery: Discovery, fleet: Fleet, changes: list[float]) -> None:
        fleet.answers["a", "/v1/models"] = b"one"
        discovery.watch([A])
        await discovery.wait_settled()
        fleet.answers["a", "/v1/models"] = UpstreamError("refused")
        await trio.sleep(5.5)
        assert (discovery[A].up, discovery[A].why) == (False, "refused")
        assert [card.id for card in discovery[A].cards] == ["one"]
        fleet.answers["a", "/v1/models"] = b"one"
        await trio.sleep(2)
        assert (discovery[A].up, discovery[A].why) == (True, "")


def test_what_is_wrong_with_one_that_is_down_is_what_was_found_last() -> None:
    async def scenario(discovery: Discovery, fleet: Fleet, changes: list[float]) -> None:
        fleet.answers["a", "/v1/models"] = UpstreamError("refused")
        discovery.watch([A])
        await discovery.wait_settled()
        fleet.answers["a", "/v1/models"] = None
        await trio.sleep(7)
        assert (discovery[A].up, discovery[A].why) == (False, "no answer in time")
        assert len(changes) == 2  # which those who show it hear of

    run(scenario)

    run(scenario)


def test_a_slow_answer_is_forgiven_twice() -> None:
    async def scenario(discovery: Discovery, fleet: Fleet, changes: list[float]) -> None:
        fleet.answers["a", "/v1/models"] = b"one"
        discovery.watch([A])
        await discovery.wait_settled()
        fleet.answers["a", "/v1/models"] = None
        await trio.sleep(5 + 2 * 5 + 1)
        assert discovery[A].up
        await trio.sleep(6)
        assert discovery[A].up is False

    run(scenario)


def test_a_hung_endpoint_delays_nobody() -> None:
    async def scenario(discovery: Discovery, fleet: Fleet, changes: list[float]) -> None:
        fleet.answers["a", "/v1/models"] = b"one"
        fleet.answers["b", "/version"] = None
        discovery.watch([A, B])
        await trio.testing.wait_all_tasks_blocked()
        assert discovery[A].up
        assert discovery[B].up is None
        await discovery.wait_settled()
        assert discovery[B].up is False

    run(scenario)


def test_an_unknown_engine_is_recognised_once_it_answers() -> None:
    async def scenario(discovery: Discovery, fleet: Fleet, changes: list[float]) -> None:
        discovery.watch([B])
        await discovery.wait_settled()
        assert (discovery[B].up, discovery[B].engine) == (False, "")
        fleet.answers["b", "/version"] = b"1"
        fleet.answers["b", "/v1/models"] = b"one"
        await trio.sleep(5)
        assert (discovery[B].up, discovery[B].engine) == (True, "fake")

    run(scenario)


def test_another_engine_at_the_same_address_is_recognised() -> None:
    """…when the one before has gone; what is not told in time stays what it was."""

    async def scenario(discovery: Discovery, fleet: Fleet, changes: list[float]) -> None:
        fleet.answers |= {("b", "/version"): b"1", ("b", "/v1/models"): b"one"}
        discovery.watch([B])
        await discovery.wait_settled()
        for version, engine in ((b"anthropic", "anthropic"), (b"", "anthropic"), (None, "anthropic"), (b"1", "fake")):
            fleet.answers |= {("b", "/version"): UpstreamError("gone"), ("b", "/v1/models"): UpstreamError("gone")}
            await trio.sleep(6)
            assert discovery[B].up is False
            fleet.answers |= {("b", "/version"): version, ("b", "/v1/models"): b"two"}
            await trio.sleep(6)
            assert (discovery[B].up, discovery[B].engine) == (True, engine)

    run(scenario)


@pytest.mark.parametrize("rubbish", [b"rubbish", b"nested", b""])
def test_rubbish_is_no_listing_until_it_is_one(rubbish: bytes) -> None:
    async def scenario(discovery: Discovery, fleet: Fleet, changes: list[float]) -> None:
        fleet.answers["a", "/v1/models"] = rubbish
        discovery.watch([A])
        await discovery.wait_settled()
        assert discovery[A].up is False
        fleet.answers["a", "/v1/models"] = b"one"
        await trio.sleep(2)
        assert discovery[A].up

    run(scenario)


def test_what_is_watched_no_more_before_it_was_asked_stays_unknown() -> None:
    async def scenario(discovery: Discovery, fleet: Fleet, changes: list[float]) -> None:
        fleet.answers["a", "/v1/models"] = b"one"
        await trio.testing.wait_all_tasks_blocked()
        discovery.watch([A])
        discovery.watch([])
        await trio.sleep(60)
        assert discovery[A].up is None
        assert changes == []
        discovery.watch([A])
        discovery.watch([])
        discovery.watch([A])
        await discovery.wait_settled()
        assert discovery[A].up

    run(scenario)


def test_what_is_no_longer_watched_is_asked_no_more() -> None:
    async def scenario(discovery: Discovery, fleet: Fleet, changes: list[float]) -> None:
        fleet.answers["a", "/v1/models"] = b"one"
        discovery.watch([A])
        await discovery.wait_settled()
        discovery.watch([])
        fleet.asked.clear()
        await trio.sleep(60)
        assert fleet.asked == []
        assert discovery[A].up is None

    run(scenario)


def test_what_is_known_to_serve_is_used_though_it_answers_like_no_engine_and_looked_at_again() -> None:
    any_of_a_pool = Endpoint("any", "http", "b", 1)

    async def scenario(discovery: Discovery, fleet: Fleet, changes: list[float]) -> None:
        discovery.watch([any_of_a_pool, B])
        await discovery.wait_settled()
        assert (discovery[any_of_a_pool].up, discovery[any_of_a_pool].engine) == (True, "plain")
        assert discovery[B].up is False
        fleet.answers.update({("b", "/version"): b"1", ("b", "/v1/models"): b"one"})
        await trio.sleep(6)
        assert discovery[any_of_a_pool].engine == "fake"
        assert [card.id for card in discovery[any_of_a_pool].cards] == ["one"]
        fleet.answers["b", "/v1/models"] = fleet.answers["b", "/version"] = UpstreamError("refused")
        await trio.sleep(6)
        assert discovery[any_of_a_pool].up is False

    run(scenario)
