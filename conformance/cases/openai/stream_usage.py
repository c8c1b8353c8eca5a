"""Usage in streams: there when asked for, at the end, by itself; and not there when it was not. (P)"""

from __future__ import annotations

from typing import Any

from conformance.cases.openai.answers import well_ended
from conformance.cases.openai.profile import CHAT_OBJECT, PROFILE, STREAM_OPTIONS
from conformance.cases.openai.shapes import Usage, conform
from conformance.suite import check
from conformance.suite.answer import Stream
from conformance.suite.case import Level
from conformance.suite.target import CHAT, Target

ASKED = {"include_usage": True}


def _said(stream: Stream) -> list[dict[str, Any]]:
    """The chunks that tell usage."""
    return [chunk for chunk in stream.chunks if chunk.get("usage") is not None]


@PROFILE.case(
    "stream.usage", "Usage that was asked for comes in a chunk with no choices, before [DONE]", source=STREAM_OPTIONS
)
async def last_chunk(target: Target) -> None:
    stream = await target.streamed(stream_options=ASKED)
    well_ended(stream)
    last = stream.chunks[-1]
    check.equal(last.get("choices"), [], "the choices of the last chunk, which has the usage,")
    usage = conform(last.get("usage"), Usage, "usage in the last chunk")
    check.equal(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens, "total_tokens, as a sum,")
    check.at_least(usage.prompt_tokens, 1, "prompt_tokens")


@PROFILE.case(
    "stream.usage-once",
    "Usage is told once",
    source=f"{STREAM_OPTIONS}: all other chunks have a null usage",
    level=Level.SHOULD,
)
async def once(target: Target) -> None:
    check.equal(len(_said(await target.streamed(stream_options=ASKED))), 1, "the number of chunks with usage")


@PROFILE.case(
    "stream.usage-null-elsewhere",
    "With usage asked for, all other chunks say usage: null",
    source=STREAM_OPTIONS,
    level=Level.INFO,
)
async def null_elsewhere(target: Target) -> None:
    for chunk in (await target.streamed(stream_options=ASKED)).chunks[:-1]:
        check.contains(chunk, "usage", "a chunk before the last")


@PROFILE.case(
    "stream.usage-unasked",
    "Without usage asked for there is no chunk without choices",
    source=f"{STREAM_OPTIONS}; clients read choices[0] of every chunk",
)
async def unasked(target: Target) -> None:
    _without(await target.streamed(), "without stream_options")


@PROFILE.case(
    "stream.usage-false", "Nor is there one where include_usage is false", source=f"{STREAM_OPTIONS}: include_usage"
)
async def refused(target: Target) -> None:
    _without(await target.streamed(stream_options={"include_usage": False}), "with include_usage: false")


def _without(stream: Stream, when: str) -> None:
    well_ended(stream)
    empty = [chunk for chunk in stream.chunks if not chunk.get("choices")]
    check.equal(empty, [], f"the chunks without choices {when}")


@PROFILE.case(
    "stream.usage-only-when-asked", "Usage is told when it is asked for", source=STREAM_OPTIONS, level=Level.SHOULD
)
async def only_when_asked(target: Target) -> None:
    check.equal(_said(await target.streamed()), [], "the chunks with usage that nobody asked for")


@PROFILE.case(
    "stream.usage-same",
    "A stream's usage is that of the same answer given whole",
    source=f"{STREAM_OPTIONS}; {CHAT_OBJECT}: usage",
    level=Level.SHOULD,
)
async def same(target: Target) -> None:
    asked = {"temperature": 0}
    whole = check.member(await target.chatted("Count.", **asked), "usage")
    stream = (await target.streamed("Count.", **asked, stream_options=ASKED)).usage
    for name in ("prompt_tokens", "completion_tokens"):
        check.equal(check.member(stream, name, "the stream's usage"), check.member(whole, name, "usage"), name)


@PROFILE.case(
    "stream.options-alone",
    "stream_options without stream are refused or ignored, by a status of 200 or 400",
    source=f"{STREAM_OPTIONS}: only set this when stream is true",
    level=Level.SHOULD,
)
async def options_alone(target: Target) -> None:
    answer = await target.ask(CHAT, target.chat(stream_options=ASKED))
    answer.expect(200, 400, 422)
    target.note("ignored" if answer.status == 200 else "refused")
