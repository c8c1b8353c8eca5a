"""Streams: as the engine has them, in time, with the usage that was asked for. (T)"""

from __future__ import annotations

from contextlib import aclosing

import trio

from conformance.cases import behind
from conformance.cases.gateway.profile import PROFILE
from conformance.suite import check
from conformance.suite.case import Level
from conformance.suite.target import CHAT, COMPLETIONS, Target

_REFERENCE = "OpenAI API reference, streaming"
_IN_TIME_S = 3.0


@PROFILE.case("stream.whole", "A stream has one finish reason and ends with exactly one [DONE]", source=_REFERENCE)
async def whole(target: Target) -> None:
    stream = await target.streamed()
    check.equal(len(stream.finish()), 1, "the number of finish reasons")
    check.equal((stream.done, stream.after_done), (1, 0), "the number of [DONE], and of events behind it")
    check.equal(stream.rest, b"", "what follows the last event")
    check.equal(len({chunk.get("id") for chunk in stream.chunks}), 1, "the number of ids in one stream")


@PROFILE.case(
    "stream.usage",
    "Usage comes if it is asked for, in an event without choices",
    source=f"{_REFERENCE}, stream_options",
)
async def usage(target: Target) -> None:
    stream = await target.streamed(stream_options={"include_usage": True})
    told = check.kind(stream.usage, dict, "the usage of a stream that asked for it")
    check.equal(told["total_tokens"], told["prompt_tokens"] + told["completion_tokens"], "total_tokens")
    check.at_least(told["prompt_tokens"], 1, "prompt_tokens")
    check.equal(stream.chunks[-1].get("choices"), [], "the choices of the last event, which tells the usage")


@PROFILE.case(
    "stream.no-usage",
    "No event without choices comes unasked",
    source=f"{_REFERENCE}, stream_options",
    level=Level.SHOULD,
)
async def no_usage(target: Target) -> None:
    for options in (None, {"include_usage": False}):
        stream = await target.streamed(stream_options=options)
        bare = [chunk for chunk in stream.chunks if not chunk.get("choices")]
        check.equal(bare, [], "the events without choices")
        check.equal(stream.usage, None, "the usage of a stream that did not ask for it")


@PROFILE.case("stream.completions", "Completions stream likewise", source=f"{_REFERENCE}, completions")
async def completions(target: Target) -> None:
    document = {"model": target.setup.model, "prompt": "Once", "max_tokens": 8, "stream": True}
    answer = target.may_refuse(await target.ask(COMPLETIONS, document))
    stream = answer.expect(200).stream()
    check.equal((stream.done, len(stream.finish())), (1, 1), "the number of [DONE], and of finish reasons")


@PROFILE.case(
    "stream.head",
    "Nothing between may store, pack or hold back a stream",
    source="WHATWG HTML §9.2; RFC 9111 §5.2.2.4",
    level=Level.SHOULD,
)
async def stream_head(target: Target) -> None:
    async with target.open(CHAT, target.chat(stream=True)) as answer:
        answer.expect(200)
        check.matches(answer.headers.get("cache-control", ""), r"no-(cache|store|transform)", "cache-control")
        check.equal(
            answer.headers.get("content-encoding", "identity"), "identity", "content-encoding, which was not asked for"
        )
        await answer.read()


@PROFILE.case(
    "stream.not-held",
    "What the engine has said is passed on while it goes on",
    source="streams pass with the engine's timing",
    alone=True,
    needs=("behind",),
)
async def not_held(target: Target) -> None:
    engines = await behind.simulators(target)
    async with behind.failing(target, engines, "stall:3"):
        with trio.move_on_after(_IN_TIME_S):
            document = target.chat(stream=True, max_tokens=16)
            async with target.open(CHAT, document) as answer, aclosing(answer.expect(200).events()) as events:
                said = 0
                async for event in events:
                    said += '"content"' in (event.data or "") and '"content":""' not in (event.data or "").replace(
                        " ", ""
                    )
                    if said >= 3:
                        return
        check.fail(
            f"three tokens of an engine that then pauses did not come within {_IN_TIME_S:g} s", 3, _so_far(target)
        )


def _so_far(target: Target) -> str:
    heard = target.traces[-1].answer
    return bytes(heard.body).decode("utf-8", "replace") if heard else "no answer"


@PROFILE.case(
    "stream.unicode",
    "Characters of several bytes come whole",
    source="RFC 8259 §8.1; WHATWG HTML §9.2: UTF-8",
    level=Level.SHOULD,
    alone=True,
    needs=("behind",),
)
async def unicode(target: Target) -> None:
    await behind.simulators(target)
    document = {"model": target.setup.model, "prompt": "é漢字👩‍👩‍👧 ñ", "max_tokens": 4, "stream": True, "echo": True}
    answer = target.may_refuse(await target.ask(COMPLETIONS, document), "echo")
    check.contains(answer.expect(200).stream().text(), "é漢字👩‍👩‍👧 ñ", "the echoed prompt")
