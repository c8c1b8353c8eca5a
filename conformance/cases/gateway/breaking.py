"""An answer that breaks is told as broken: never a false end, never a 200 that is none. (T)

All need simulated engines ``--behind``.
"""

from __future__ import annotations

import trio

from conformance.cases import behind
from conformance.cases.gateway.errors import envelope
from conformance.cases.gateway.profile import PROFILE
from conformance.suite import check
from conformance.suite.answer import Answer, Stream
from conformance.suite.case import Level
from conformance.suite.target import CHAT, Target
from conformance.suite.wire import WireError

_BEHIND = ("behind",)
_HONEST = "openai-python raises for an event with `error`, and for a body that ends early; it trusts [DONE]"


async def _broken(target: Target, spec: str, **members: object) -> tuple[Answer | None, bool]:
    """What a request gets while all engines fail so, and whether that came to an orderly end."""
    engines = await behind.simulators(target)
    async with behind.failing(target, engines, spec):
        try:
            async with target.open(CHAT, target.chat(max_tokens=16, **members)) as answer:
                return answer, await _read(answer)
        except WireError:
            return None, False


async def _read(answer: Answer) -> bool:
    """Whether it came to an orderly end."""
    try:
        await answer.read()
    except WireError:
        return False
    return True


def _honest(answer: Answer, orderly: bool) -> Stream:
    """A stream that broke after it had begun."""
    stream = Stream(bytes(answer.body))
    check.equal(stream.done, 0, "the number of [DONE] of a stream that broke")
    check.equal(stream.finish(), [], "the finish reasons of a stream that broke")
    check.true(
        stream.errors or not orderly, "a stream that broke ends as if it were whole", "an error event", answer.text
    )
    return stream


def _breaking(name: str, title: str, spec: str) -> None:
    async def run(target: Target) -> None:
        answer, orderly = await _broken(target, spec, stream=True)
        if answer is None:
            return
        if answer.status != 200:
            envelope(answer, f"a stream that broke ({spec})")
            return
        _honest(answer, orderly)

    PROFILE.case(f"broken.{name}", title, source=_HONEST, alone=True, needs=_BEHIND)(run)


_breaking("cut", "A stream that the engine cuts has no [DONE] and no finish reason", "cut:3")
_breaking("error-event", "A stream in which the engine fails has no [DONE] and no finish reason", "error-event:3")
_breaking("rubbish-events", "A stream of rubbish has no [DONE] and no finish reason", "rubbish:sse")


@PROFILE.case(
    "broken.last-event",
    "A stream that breaks ends with an error event",
    source=_HONEST,
    level=Level.SHOULD,
    alone=True,
    needs=_BEHIND,
)
async def last_event(target: Target) -> None:
    answer, orderly = await _broken(target, "cut:3", stream=True)
    if answer is None or answer.status != 200:
        target.skip("the stream had not begun")
    stream = _honest(answer, orderly)
    check.true(stream.errors, "no event tells the error", 'data: {"error": …}', answer.text)
    check.true(stream.chunks[-1].get("error"), "the error event is not the last one")
    error = check.kind(stream.errors[-1]["error"], dict, "the error")
    check.kind(error.get("message"), str, "the error's message")
    check.kind(error.get("code"), (str, type(None)), "the error's code")


@PROFILE.case(
    "broken.closes",
    "…and then the connection closes",
    source="what follows on it could be taken for its rest",
    level=Level.SHOULD,
    alone=True,
    needs=_BEHIND,
)
async def closes(target: Target) -> None:
    engines = await behind.simulators(target)
    document = target.chat(max_tokens=16, stream=True)
    async with behind.failing(target, engines, "cut:3"), target.open(CHAT, document) as answer:
        if await _read(answer):
            with trio.move_on_after(2) as scope:
                await answer.connection.silence()
            check.true(
                not scope.cancelled_caught, "a stream broke, its connection stays open", "closed", "open after 2 s"
            )


@PROFILE.case(
    "broken.kept",
    "What had come before the break is passed on",
    source="SDK users keep partial answers",
    level=Level.SHOULD,
    alone=True,
    needs=_BEHIND,
)
async def kept(target: Target) -> None:
    answer, _ = await _broken(target, "cut:3", stream=True)
    if answer is None or answer.status != 200:
        check.fail("nothing of the three tokens came", 200, answer and answer.status)
    check.at_least(len(Stream(bytes(answer.body)).text().split()), 3, "the number of words that came")


@PROFILE.case(
    "broken.first",
    "An error before the first token has its own status",
    source="openai-python decides by the status",
    alone=True,
    needs=_BEHIND,
)
async def first(target: Target) -> None:
    answer, _ = await _broken(target, "error-event:0", stream=True)
    if answer is None:
        check.fail("no answer at all", "a status from 500 on")
    check.at_least(answer.status, 500, "the status of a stream that failed before its first token")
    envelope(answer, "a stream that failed before its first token")


@PROFILE.case(
    "broken.whole",
    "A whole answer that breaks is no 200",
    source="RFC 9112 §8: an incomplete message",
    alone=True,
    needs=_BEHIND,
)
async def whole(target: Target) -> None:
    answer, orderly = await _broken(target, "cut:3")
    if answer is None or (answer.status == 200 and not orderly):
        return
    check.at_least(answer.status, 500, "the status of an answer that the engine cut")
    envelope(answer, "an answer that the engine cut")


def _rubbish(word: str, title: str, level: Level = Level.MUST, **members: object) -> None:
    async def run(target: Target) -> None:
        answer, _ = await _broken(target, f"rubbish:{word}", **members)
        if answer is None:
            check.fail("no answer at all", 502)
        check.equal(answer.status, 502, f"the status where engines answer rubbish ({word})")
        envelope(answer, "an engine's rubbish")

    name = f"broken.rubbish-{word}{'-stream' if members else ''}"
    PROFILE.case(name, title, source="RFC 9110 §15.6.3", level=level, alone=True, needs=_BEHIND)(run)


_rubbish("json", "An answer that is not JSON is a 502", Level.SHOULD)
_rubbish("http", "An answer that is not HTTP is a 502")
_rubbish("json", "An answer that is no stream of events is a 502", stream=True)


@PROFILE.case(
    "broken.500",
    "An engine's 500 stays a server error, with the error object",
    source="RFC 9110 §15.6",
    alone=True,
    needs=_BEHIND,
)
async def server_error(target: Target) -> None:
    answer, _ = await _broken(target, "status:500")
    if answer is None:
        check.fail("no answer at all", "a status from 500 on")
    check.at_least(answer.status, 500, "the status")
    envelope(answer, "an engine's 500")


@PROFILE.case(
    "broken.400",
    "An engine's 400 is told in OpenAI's shape, whatever the engine's",
    source="OpenAI's openapi.json, ErrorResponse",
    alone=True,
    needs=_BEHIND,
)
async def client_error(target: Target) -> None:
    for stream in (False, True):
        answer, _ = await _broken(target, "status:400", stream=stream)
        if answer is None:
            check.fail("no answer at all", 400)
        envelope(answer.expect(400, 422), "an engine's 400")


@PROFILE.case(
    "broken.afterwards",
    "After engines have failed and are well again, requests are served",
    source="health is about now",
    alone=True,
    needs=_BEHIND,
    timeout=60.0,
)
async def afterwards(target: Target) -> None:
    engines = await behind.simulators(target)
    async with behind.failing(target, engines, "refuse"):
        for _ in range(4):
            try:
                answer = await target.ask(CHAT, target.chat())
                check.at_least(answer.status, 500, "the status while no engine answers")
            except WireError as error:
                check.fail("the gateway does not answer while no engine does", "502 or 503", error.message)
    (await target.ask(CHAT, target.chat())).expect(200)
