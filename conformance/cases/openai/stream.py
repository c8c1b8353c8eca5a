"""The grammar of a chat's stream: which events, in which order, ended how. (P)"""

from __future__ import annotations

from contextlib import aclosing

from conformance.cases.openai.answers import said, streamed, well_ended
from conformance.cases.openai.profile import CHUNK_OBJECT, NODE, PROFILE, PYTHON, STREAMING
from conformance.cases.openai.shapes import Chunk, conform
from conformance.suite import check
from conformance.suite.answer import Stream
from conformance.suite.case import Level
from conformance.suite.target import CHAT, Target

_SSE = "WHATWG HTML §9.2, server-sent events"
_APART = 0.02
"""Seconds between the first and the last event that no server's writing takes."""
_HELD = 0.1
"""Seconds by which the first of 64 tokens comes later than one alone does, if it waits for the others."""


@PROFILE.case("stream.content-type", "A stream is text/event-stream", source=f"{_SSE}; {STREAMING}")
async def content_type(target: Target) -> None:
    answer = await target.ask(CHAT, target.chat(stream=True))
    check.equal(answer.expect(200).media_type, "text/event-stream", "the content type of a stream")


@PROFILE.case("stream.shape", "Every event is a chunk of the published shape", source=CHUNK_OBJECT)
async def shape(target: Target) -> None:
    stream = await target.streamed()
    check.true(stream.chunks, "the stream has no chunk")
    for at, chunk in enumerate(stream.chunks):
        conform(chunk, Chunk, f"chunk {at}")


@PROFILE.case(
    "stream.required-members",
    "Every choice of a chunk has a finish_reason, null until the last",
    source=f"{CHUNK_OBJECT}: choices.finish_reason is required; SDKs read it as null, typed clients refuse the chunk",
    level=Level.SHOULD,
)
async def required_members(target: Target) -> None:
    for choice in (await target.streamed()).choices():
        check.contains(choice, "finish_reason", "a choice of a chunk")


@PROFILE.case(
    "stream.role-first",
    "The first delta of a choice says the role",
    source=f"{CHUNK_OBJECT}: delta.role; LangChain's chat model makes its message of it",
)
async def role_first(target: Target) -> None:
    deltas = (await target.streamed()).deltas()
    check.true(deltas, "the stream has no delta")
    check.equal(deltas[0].get("role"), "assistant", "the role in the first delta")


@PROFILE.case("stream.role-once", "The role is said once", source=CHUNK_OBJECT, level=Level.SHOULD)
async def role_once(target: Target) -> None:
    roles = [delta["role"] for delta in (await target.streamed()).deltas() if delta.get("role")]
    check.equal(roles, ["assistant"], "the roles said in the stream")


@PROFILE.case("stream.same-id", "All chunks have the same id", source=f"{CHUNK_OBJECT}: id, the same for each chunk")
async def same_id(target: Target) -> None:
    _same(await target.streamed(), "id")


@PROFILE.case(
    "stream.id",
    "A stream's id is not empty and belongs to it alone",
    source=f"{CHUNK_OBJECT}: id",
    level=Level.SHOULD,
)
async def own_id(target: Target) -> None:
    first, second = [check.member((await target.streamed()).chunks, "0.id", "the stream") for _ in range(2)]
    check.true(first, "the id is empty")
    check.true(first != second, "two streams have the same id", got=first)


@PROFILE.case(
    "stream.same-created",
    "All chunks have the same time of creation",
    source=f"{CHUNK_OBJECT}: created, the same for each chunk",
    level=Level.SHOULD,
)
async def same_created(target: Target) -> None:
    _same(await target.streamed(), "created")


@PROFILE.case(
    "stream.same-model", "All chunks name the model asked for", source=f"{CHUNK_OBJECT}: model", level=Level.SHOULD
)
async def same_model(target: Target) -> None:
    stream = await target.streamed()
    _same(stream, "model")
    check.equal(stream.chunks[0]["model"], target.setup.model, "the model that the chunks name")


def _same(stream: Stream, name: str) -> None:
    check.true(stream.chunks, "the stream has no chunk")
    values = {str(check.member(chunk, name, "a chunk")) for chunk in stream.chunks}
    check.true(len(values) == 1, f"{name} differs between chunks", "the same in all chunks", sorted(values))


@PROFILE.case("stream.finish-once", "Every choice is finished once", source=f"{CHUNK_OBJECT}: finish_reason")
async def finish_once(target: Target) -> None:
    stream = await target.streamed()
    check.equal(len(stream.finish()), 1, "the number of finish reasons")
    check.among(stream.finish()[0], ("stop", "length", "content_filter"), "the finish reason")


@PROFILE.case("stream.finish-last", "Nothing is said for a choice after its finish", source=CHUNK_OBJECT)
async def finish_last(target: Target) -> None:
    choices = (await target.streamed()).choices()
    check.true(choices, "the stream has no choice")
    check.true(choices[-1].get("finish_reason"), "something follows the finish reason", got=choices[-3:])


@PROFILE.case(
    "stream.finish-empty",
    "The delta with the finish reason is empty",
    source=f"{CHUNK_OBJECT}; OpenAI sends delta: {{}} there",
    level=Level.INFO,
)
async def finish_empty(target: Target) -> None:
    last = (await target.streamed()).deltas()[-1]
    check.true(not any(last.values()), "the delta with the finish reason says something", "{}", last)


@PROFILE.case("stream.done", "A stream ends with exactly one [DONE]", source=f"{STREAMING}: terminated by data: [DONE]")
async def done(target: Target) -> None:
    stream = await target.streamed()
    check.equal(stream.done, 1, "the number of [DONE]")
    check.equal(stream.after_done, 0, "the number of events behind [DONE]")


@PROFILE.case(
    "stream.done-exact",
    "The last event is [DONE] and nothing but it",
    source=f"{NODE}: compares the whole data, a trailing space is a SyntaxError",
)
async def done_exact(target: Target) -> None:
    events = (await target.streamed()).events
    check.true(events, "the stream has no event")
    check.equal(events[-1].data, "[DONE]", "the last event's data")


@PROFILE.case(
    "stream.data-only",
    "Events have data lines only: no names, ids or retry times",
    source=f"{PYTHON}: id: and retry: end in a JSONDecodeError; both SDKs: so does event: without data",
)
async def data_only(target: Target) -> None:
    for block in (await target.streamed()).blocks:
        check.true(
            set(block.fields) <= {"data"},
            "an event has fields that break clients",
            "data lines and comments",
            block.raw,
        )


@PROFILE.case(
    "stream.one-line",
    "An event's JSON is on one data line",
    source="clients that read line by line, LangChain4j and curl scripts among them",
    level=Level.SHOULD,
)
async def one_line(target: Target) -> None:
    for event in (await target.streamed()).events:
        check.equal(len(event.fields), 1, "the number of data lines of an event")


@PROFILE.case(
    "stream.whole-events",
    "The last event ends with a blank line",
    source=f"{_SSE}: an unfinished event is discarded; {PYTHON}",
)
async def whole_events(target: Target) -> None:
    check.equal((await target.streamed()).rest, b"", "what follows the last whole event")


@PROFILE.case(
    "stream.same-text",
    "A stream says what the whole answer says",
    source=f"{CHUNK_OBJECT}; temperature 0",
    level=Level.SHOULD,
)
async def same_text(target: Target) -> None:
    whole = await target.chatted("Count to five.", temperature=0, max_tokens=12)
    stream = await target.streamed("Count to five.", temperature=0, max_tokens=12)
    well_ended(stream)
    check.equal(streamed(stream), said(whole), "the text of the stream, against that of the whole answer,")


@PROFILE.case(
    "stream.arrives-over-time",
    "The first event comes long before the last one is made",
    source=f"{STREAMING}: tokens are sent as they become available",
    alone=True,
)
async def over_time(target: Target) -> None:
    """Buffered is what arrives at once, and later than one token takes. An answer too quick for that passes."""
    soonest, _ = await _arrival(target, 1)
    held = []
    for _ in range(3):
        first, last = await _arrival(target, 64)
        if last - first >= _APART:
            return
        held.append(first - soonest)
    if min(held) < _HELD:
        target.note(f"the stream arrives within {_APART} s: too quick to see how")
        return
    check.fail(
        "all of a stream arrives at once, long after its first token is made",
        f"events over {_APART} s and more",
        f"one token {soonest:.3f} s after the request, 64 tokens together {first:.3f} s after it",
    )


async def _arrival(target: Target, tokens: int) -> tuple[float, float]:
    """When the first and the last event with data of a stream of this many tokens came, in seconds."""
    async with target.open(CHAT, target.chat("Tell a long story.", stream=True, max_tokens=tokens)) as answer:
        answer.expect(200)
        async with aclosing(answer.events()) as events:
            arrived = [event.at - answer.sent async for event in events if event.data]
    check.true(arrived, "the stream has no event")
    return arrived[0], arrived[-1]


@PROFILE.case(
    "stream.utf8",
    "Characters are never cut between events",
    source="RFC 8259 §8.1; RFC 3629: an event's JSON is UTF-8, and no surrogate stands alone",
)
async def utf8(target: Target) -> None:
    text = "Repeat: 日本語のテキスト 👩‍👩‍👧‍👦 e\u0301 🏳️‍🌈 Ω"
    answer = (await target.ask(CHAT, target.chat(text, stream=True, max_tokens=24))).expect(200)
    for block in answer.stream().blocks:
        try:
            block.raw.decode("utf-8")
        except UnicodeDecodeError as error:
            check.fail(f"an event is not UTF-8: {error}", got=block.raw)
    _no_surrogates(streamed(answer.stream()))
    cut = streamed(answer.stream()).count("\ufffd")
    if cut:
        target.note(f"{cut} replacement characters in the text")


def _no_surrogates(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        check.fail(f"half a character stands alone in the text: {error}", got=ascii(text))


@PROFILE.case(
    "stream.accept-json",
    "Accept: application/json does not turn streaming off",
    source=f"{PYTHON} and {NODE} send it with stream: true",
)
async def accept_json(target: Target) -> None:
    answer = await target.ask(CHAT, target.chat(stream=True), headers=[("accept", "application/json")])
    well_ended(answer.expect(200).stream())


@PROFILE.case(
    "stream.not-compressed",
    "A stream is not compressed though the client would take it",
    source=f"{PYTHON} sends accept-encoding: gzip, deflate; compression holds events back",
    level=Level.SHOULD,
)
async def not_compressed(target: Target) -> None:
    answer = await target.ask(CHAT, target.chat(stream=True), headers=[("accept-encoding", "gzip, deflate")])
    check.equal(answer.expect(200).headers.get("content-encoding", "identity"), "identity", "the content encoding")
    well_ended(answer.stream())


@PROFILE.case(
    "stream.cache-headers",
    "A stream tells proxies not to keep or collect it",
    source="nginx, X-Accel-Buffering; RFC 9111 §5.2.2.4",
    level=Level.INFO,
)
async def cache_headers(target: Target) -> None:
    headers = (await target.ask(CHAT, target.chat(stream=True))).expect(200).headers
    for name in ("cache-control", "x-accel-buffering"):
        target.note(f"{name}: {headers.get(name, '(none)')}")
    check.matches(headers.get("cache-control", ""), "no-cache|no-store", "cache-control of a stream")
