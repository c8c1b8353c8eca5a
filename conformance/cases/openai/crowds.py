"""Many clients at once, and clients that leave or stop reading: the others notice nothing. (T)"""

from __future__ import annotations

import trio

from conformance.cases.openai.answers import said, streamed, well_ended
from conformance.cases.openai.profile import CHUNK_OBJECT, PROFILE
from conformance.cases.openai.stream_usage import ASKED
from conformance.suite import check
from conformance.suite.case import Level
from conformance.suite.target import CHAT, Target

_CROWD = 32
_LEAVE = "RFC 9112 §9.5: either side may close at any time"


@PROFILE.case(
    "crowds.streams",
    "32 streams at once are all complete, each with one id",
    source=CHUNK_OBJECT,
    alone=True,
    timeout=40.0,
)
async def streams(target: Target) -> None:
    async def one(number: int) -> None:
        stream = await target.streamed(f"Client {number} says hello.", stream_options=ASKED)
        well_ended(stream)
        found = {chunk.get("id") for chunk in stream.chunks}
        check.equal(len(found), 1, "the number of ids in a stream")

    async with trio.open_nursery() as nursery:
        for number in range(_CROWD):
            nursery.start_soon(one, number)


@PROFILE.case(
    "crowds.not-mixed-up",
    "Streams at once say what each says alone",
    source="temperature 0; engines whose batches change their arithmetic deviate",
    level=Level.SHOULD,
    alone=True,
    timeout=40.0,
)
async def not_mixed_up(target: Target) -> None:
    greedy = {"temperature": 0}
    texts = [f"Write about the number {number}." for number in range(8)]
    alone = [said(await target.chatted(text, **greedy)) for text in texts]
    together = dict[int, str]()

    async def one(at: int) -> None:
        together[at] = streamed(await target.streamed(texts[at], **greedy))

    async with trio.open_nursery() as nursery:
        for at in range(len(texts)):
            nursery.start_soon(one, at)
    check.equal([together[at] for at in range(len(texts))], alone, "the texts of streams at once, against each alone,")


@PROFILE.case(
    "crowds.leaving", "Clients that leave in the middle of a stream do the server no harm", source=_LEAVE, alone=True
)
async def leaving(target: Target) -> None:
    async def leave() -> None:
        async with target.open(CHAT, target.chat("Tell a long story.", stream=True, max_tokens=200)) as answer:
            answer.expect(200)
            await answer.chunk()

    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(leave)
    well_ended(await target.streamed())


@PROFILE.case(
    "crowds.leaving-early", "Clients that leave before their answer do the server no harm", source=_LEAVE, alone=True
)
async def leaving_early(target: Target) -> None:
    async def leave(stream: bool) -> None:
        with trio.move_on_after(0.05):
            await target.ask(CHAT, target.chat("Tell a long story.", stream=stream, max_tokens=200))

    async with trio.open_nursery() as nursery:
        for at in range(8):
            nursery.start_soon(leave, at % 2 == 0)
    await target.chatted()


@PROFILE.case(
    "crowds.not-reading",
    "A client that does not read its stream holds nobody up, and finds all of it later",
    source="RFC 9293 §3.8: flow control is each connection's own",
    alone=True,
)
async def not_reading(target: Target) -> None:
    async with target.open(CHAT, target.chat("Tell a long story.", stream=True, max_tokens=100)) as answer:
        answer.expect(200)
        for _ in range(3):
            well_ended(await target.streamed())
        await answer.read()
        well_ended(answer.stream())


@PROFILE.case(
    "crowds.half-a-request",
    "Clients that send half a request hold nobody up",
    source="RFC 9112 §9.5; slow clients are common, malicious ones too",
    alone=True,
)
async def half(target: Target) -> None:
    head = f"POST {target.path(CHAT)} HTTP/1.1\r\nhost: {target.setup.address.authority}\r\ncontent-length: 1000\r\n"
    async with (
        target.connect() as first,
        target.connect() as second,
        target.connect() as third,
    ):
        await first.send_raw(head.encode())
        await second.send_raw((head + 'content-type: application/json\r\n\r\n{"model": ').encode())
        await third.send_raw(b"POS")
        await target.chatted()
        well_ended(await target.streamed())
