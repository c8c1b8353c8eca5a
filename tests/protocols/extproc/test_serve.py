from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing

from gateway.errors import NoEndpoints, Overloaded, Unauthorized
from gateway.types import Headers, Identity, Operation, Usage
from gateway.wire.grpc import Code, GrpcError
from protocols.extproc.messages import Mode
from protocols.extproc.serve import METHOD, Deadlines, ExternalProcessor
from protocols.extproc.session import Settings, Watch
from tests.protocols.extproc.fakes import FakeCore, FakePick, FakeStream, played
from tests.protocols.extproc.proxy import DESTINATION, Proxy, body, heads, trailers

REQUEST = [(":path", "/v1/completions"), (":method", "POST"), ("x-request-id", "r-1")]
RESPONSE = [(":status", "200"), ("content-type", "application/json")]
EVENTS = [(":status", "200"), ("content-type", "text/event-stream")]
PROMPT = b'{"model":"m","prompt":"hi"}'
ANSWER = b'{"model":"m","choices":[{"text":"a"}],"usage":{"prompt_tokens":7,"completion_tokens":3}}'
HEADERS, LAST = heads("request_headers", REQUEST), body("request_body", PROMPT, True)
REPLIED, ANSWERED = heads("response_headers", RESPONSE), body("response_body", ANSWER, True)
GET = heads("request_headers", [(":path", "/v1/models"), (":method", "GET")], end=True)


def run(main: Callable[[], Awaitable[None]]) -> None:
    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def play(core: FakeCore, *said: Any, settings: Settings | None = None, **options: Any) -> Proxy:
    """One exchange, everything said at once."""
    proxy = Proxy()

    async def main() -> None:
        await played(ExternalProcessor(core, settings=settings, **options), proxy, *said)

    run(main)
    return proxy


def dropped(proxy: Proxy) -> str:
    found = {option.header.key: option.header.raw_value for option in proxy.immediate.headers.set_headers}
    return found.get("x-llm-d-request-dropped-reason", b"").decode()


def test_whole_exchange() -> None:
    core = FakeCore("10.0.0.1:8000", "10.0.0.2:8000")
    proxy = play(core, HEADERS, LAST, REPLIED, ANSWERED)
    (pick,) = core.picks
    assert proxy.order == ["request_headers", "request_body", "response_headers", "response_body"]
    assert proxy.value(DESTINATION) == "10.0.0.1:8000,10.0.0.2:8000"
    assert (proxy.sent, proxy.received) == (PROMPT, ANSWER)
    assert (pick.request.operation, pick.request.model, pick.request.id) == (Operation.COMPLETIONS, "m", "r-1")
    assert pick.usage == Usage(prompt=7, completion=3)
    assert (pick.finished, pick.left, core.inside) == (1, True, 0)


def test_service_is_called_by_envoys_name() -> None:
    assert METHOD == "/envoy.service.ext_proc.v3.ExternalProcessor/Process"
    assert list(ExternalProcessor(FakeCore()).__mapping__()) == [METHOD]


@pytest.mark.parametrize("size", [1, 7, 50, 1000])
def test_usage_is_read_across_any_cut(size: int) -> None:
    usage = b'{"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":1}}'
    events = b'data: {"model":"m","choices":[{"text":"a"}]}\n\ndata: %b\n\ndata: [DONE]\n\n' % usage
    core = FakeCore()
    streamed = body("request_body", PROMPT[:-1] + b',"stream":true,"stream_options":{"include_usage":true}}', True)
    cuts = [body("response_body", events[at : at + size]) for at in range(0, len(events), size)]
    proxy = play(core, HEADERS, streamed, heads("response_headers", EVENTS), *cuts, body("response_body", b"", True))
    assert core.picks[0].usage == Usage(prompt=7, completion=1)
    assert proxy.received == events


def test_header_only_requests_are_picked_at_once() -> None:
    core = FakeCore()
    proxy = play(core, GET, heads("response_headers", RESPONSE, end=True), pool="main")
    assert proxy.order == ["request_headers", "response_headers"]
    assert (core.picks[0].request.model, core.picks[0].request.path) == ("", "/v1/models")
    assert core.pools == ["main"]
    assert core.picks[0].finished == 1


def test_skipped_responses_end_the_stream_with_the_request() -> None:
    core = FakeCore()
    proxy = play(core, HEADERS, LAST, settings=Settings(response=Watch.SKIP))
    assert proxy.order == ["request_headers", "request_body"]
    assert (core.picks[0].finished, core.picks[0].head) == (1, None)


@pytest.mark.parametrize(
    "said", [(HEADERS, LAST), (HEADERS, LAST, REPLIED), (HEADERS, LAST, REPLIED, body("response_body", b"x"))]
)
def test_stream_that_ends_early_is_a_client_that_has_gone(said: tuple[Any, ...]) -> None:
    core = FakeCore()
    play(core, *said)
    assert (core.picks[0].finished, core.picks[0].left, core.inside) == (0, True, 0)


def test_where_no_body_is_shown_the_end_of_the_stream_is_the_end_of_the_response() -> None:
    core = FakeCore()
    first = heads("request_headers", REQUEST, modes=(Mode.DUPLEX, Mode.NONE))
    play(core, first, LAST, REPLIED)
    assert core.picks[0].finished == 1


def test_nothing_is_picked_for_a_request_that_never_comes() -> None:
    core = FakeCore()
    assert play(core, HEADERS, body("request_body", b"{")).order == []
    assert play(core).order == []
    watched = heads("request_headers", REQUEST)
    watched.observability_mode = True
    assert play(core, watched, LAST).order == []
    assert core.picks == []


def test_response_alone_passes() -> None:
    core = FakeCore()
    proxy = Proxy()
    proxy.order.append("request_headers")
    run(lambda: played(ExternalProcessor(core), proxy, REPLIED, ANSWERED))
    assert proxy.received == ANSWER
    assert core.picks == []


def test_trailers_end_the_response() -> None:
    core = FakeCore()
    proxy = play(core, HEADERS, LAST, REPLIED, body("response_body", ANSWER), trailers("response_trailers"))
    assert proxy.order[-1] == "response_trailers"
    assert core.picks[0].finished == 1


def test_names_change_on_the_way_and_back() -> None:
    core = FakeCore(models={"m": "engine/m"})
    answer = ANSWER.replace(b'"m"', b'"engine/m"')
    proxy = play(core, HEADERS, LAST, REPLIED, body("response_body", answer, True))
    assert proxy.sent == PROMPT.replace(b'"m"', b'"engine/m"')
    assert proxy.received == ANSWER


# -- who asks -------------------------------------------------------------------------------------------------------


def test_identity_comes_of_the_forwarded_headers() -> None:
    core = FakeCore()
    seen: list[Headers] = []
    core.who = lambda headers: seen.append(headers)  # type: ignore[func-returns-value]
    play(core, heads("request_headers", [*REQUEST, ("authorization", "Bearer k")]), LAST)
    assert (b"authorization", b"Bearer k") in seen[0]
    assert core.picks[0].request.identity == Identity(user="found")


def test_strangers_are_told_apart_by_the_fairness_id() -> None:
    core = FakeCore()
    play(core, heads("request_headers", [*REQUEST, ("x-gateway-inference-fairness-id", "flow-1")]), LAST)
    assert core.picks[0].request.identity.user == "flow-1"


def test_who_is_refused_is_noted_and_told() -> None:
    core = FakeCore()

    def refuse(headers: Headers) -> Identity:
        raise Unauthorized

    core.who = refuse
    proxy = play(core, HEADERS, LAST)
    assert proxy.immediate.status.code == 401
    assert core.refusals == [(Operation.COMPLETIONS, "unauthorized", None)]
    assert core.picks == []


# -- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "said", "status", "why"),
    [
        (NoEndpoints("x"), (HEADERS, LAST), 503, "rejected-no-endpoints"),
        (NoEndpoints("x"), (GET,), 500, "rejected-no-endpoints"),
        (Overloaded("x"), (HEADERS, LAST), 429, "rejected-saturated"),
    ],
)
def test_core_refuses(error: Exception, said: tuple[Any, ...], status: int, why: str) -> None:
    core = FakeCore(error=error)
    proxy = play(core, *said)
    assert (proxy.immediate.status.code, dropped(proxy)) == (status, why)
    assert (core.inside, core.refusals) == (0, [])


def test_bad_bodies_and_bodies_too_large() -> None:
    core = FakeCore()
    proxy = play(core, HEADERS, body("request_body", b"no healthy upstream", True))
    assert proxy.immediate.status.code == 400
    assert [reason for _, reason, _ in core.refusals] == ["invalid_request"]
    proxy = play(core, HEADERS, body("request_body", b"x" * 11), settings=Settings(max_body=10))
    assert proxy.immediate.status.code == 413


@pytest.mark.parametrize("error", [RuntimeError("a scorer's bug"), ExceptionGroup("x", [KeyError("y")])])
def test_bugs_are_answered_and_logged(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    proxy = play(FakeCore(error=error), HEADERS, LAST)
    assert proxy.immediate.status.code == 500
    assert b"r-1" in proxy.immediate.body
    assert "failed unexpectedly" in caplog.text


def test_a_bug_in_who_looks_on_costs_no_answer(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def feed(pick: FakePick, data: bytes) -> None:
        raise RuntimeError("cannot read")

    monkeypatch.setattr(FakePick, "feed", feed)
    proxy = play(FakeCore(), HEADERS, LAST, REPLIED, body("response_body", ANSWER), body("response_body", b"", True))
    assert proxy.received == ANSWER
    assert len(caplog.records) == 1


def test_disorder_is_a_status(caplog: pytest.LogCaptureFixture) -> None:
    """And told: it is how the proxy is set up, and what it tells of it is a 500."""
    caplog.set_level(logging.INFO, "infer_gateway.extproc")
    with pytest.raises(GrpcError) as caught:
        play(FakeCore(), HEADERS, HEADERS)
    assert caught.value.code == Code.FAILED_PRECONDITION
    (record,) = caplog.records
    assert "does not keep to ext_proc: request_headers twice" in record.getMessage()


# -- time -----------------------------------------------------------------------------------------------------------

SHORT = Deadlines(body=1, pick=2, response=3, silence=4)


@pytest.mark.parametrize(
    ("said", "status", "why", "after"),
    [
        ((), 504, "rejected-timeout", 1),
        ((HEADERS,), 504, "rejected-timeout", 1),
        ((HEADERS, LAST), 504, "evicted-timeout", 3),
    ],
)
def test_every_phase_is_bounded(said: tuple[Any, ...], status: int, why: str, after: float) -> None:
    core, proxy = FakeCore(), Proxy()

    async def main() -> None:
        started = trio.current_time()
        await played(ExternalProcessor(core, deadlines=SHORT), proxy, *said, end=False)
        assert trio.current_time() - started == pytest.approx(after)

    run(main)
    assert (proxy.immediate.status.code, dropped(proxy)) == (status, why)
    assert core.inside == 0


def test_hung_scheduler_is_answered_for() -> None:
    core, proxy = FakeCore(), Proxy()

    async def main() -> None:
        core.waiting = trio.Event()
        await played(ExternalProcessor(core, deadlines=SHORT), proxy, HEADERS, LAST, end=False)
        assert trio.current_time() == pytest.approx(2)

    run(main)
    assert (proxy.immediate.status.code, dropped(proxy)) == (503, "rejected-ttl-expired")
    assert core.inside == 0


def test_answer_that_stops_is_broken_off() -> None:
    core, proxy = FakeCore(), Proxy()

    async def main() -> None:
        service = ExternalProcessor(core, deadlines=SHORT)
        await played(service, proxy, HEADERS, LAST, REPLIED, body("response_body", b"x"), end=False)

    with pytest.raises(GrpcError) as caught:
        run(main)
    assert caught.value.code == Code.DEADLINE_EXCEEDED
    assert (core.picks[0].finished, core.inside) == (0, 0)


def test_each_piece_gives_more_time_and_infinity_is_no_limit() -> None:
    core, proxy = FakeCore(), Proxy()

    async def main() -> None:
        stream = FakeStream(proxy)
        service = ExternalProcessor(core, deadlines=Deadlines(body=1, response=math.inf, silence=4))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(service.process, stream)
            stream.say(HEADERS)
            for piece in (PROMPT[:3], PROMPT[3:9]):
                await trio.sleep(0.9)
                stream.say(body("request_body", piece))
            await trio.sleep(0.9)
            stream.say(body("request_body", PROMPT[9:], True))
            await trio.sleep(10_000)
            stream.say(REPLIED)
            for piece in (ANSWER[:9], ANSWER[9:]):
                await trio.sleep(3.9)
                stream.say(body("response_body", piece))
            stream.say(body("response_body", b"", True))
        stream.hear_all()

    run(main)
    assert proxy.received == ANSWER


# -- leaving --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("said", [(HEADERS,), (HEADERS, LAST), (HEADERS, LAST, REPLIED, body("response_body", b"x"))])
@pytest.mark.parametrize("queued", [False, True])
def test_cancelled_streams_hold_nothing(said: tuple[Any, ...], queued: bool) -> None:
    core = FakeCore()

    async def main() -> None:
        if queued:
            core.waiting = trio.Event()
        stream = FakeStream(Proxy())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ExternalProcessor(core).process, stream)
            for message in said:
                stream.say(message)
            await trio.testing.wait_all_tasks_blocked()
            assert core.inside == (len(said) > 1)
            nursery.cancel_scope.cancel()

    run(main)
    assert core.inside == 0
    assert all(pick.left and not pick.finished for pick in core.picks)


def test_a_thousand_streams_at_once() -> None:
    core = FakeCore()
    proxies = [Proxy() for _ in range(1000)]

    async def one(service: ExternalProcessor, proxy: Proxy) -> None:
        stream = FakeStream(proxy)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(service.process, stream)
            stream.say(HEADERS)
            stream.say(LAST)
            await stream.hear(2)
            stream.say(REPLIED)
            await stream.hear()
            stream.say(ANSWERED)
            await stream.hear()

    async def main() -> None:
        core.waiting = trio.Event()
        service = ExternalProcessor(core)
        async with trio.open_nursery() as nursery:
            for proxy in proxies:
                nursery.start_soon(one, service, proxy)
            await trio.testing.wait_all_tasks_blocked()
            assert core.inside == 1000
            core.waiting.set()

    run(main)
    assert core.inside == 0
    assert all(proxy.sent == PROMPT and proxy.received == ANSWER for proxy in proxies)
    assert all(pick.finished == 1 for pick in core.picks)


def test_what_is_left_of_limits_reaches_the_client() -> None:
    core = FakeCore()
    core.limits = [(b"x-ratelimit-remaining-requests", b"4")]
    proxy = play(core, HEADERS, LAST, REPLIED, ANSWERED)
    assert dict(proxy.response_headers)["x-ratelimit-remaining-requests"] == b"4"


def test_scores_only_where_asked_for() -> None:
    core = FakeCore()
    core.scores = {"192.168.1.1:8000": 0.5}
    assert set(play(core, GET).metadata["envoy.lb"]) == {DESTINATION}
    told = play(core, GET, settings=Settings(scores=True)).metadata["envoy.lb"]
    assert told["x-gateway-destination-endpoint-scores"] == {"192.168.1.1:8000": 0.5}


def test_bugs_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    play(FakeCore(error=RuntimeError()), HEADERS, LAST)
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
