"""A client that leaves frees the engine, whatever it was waiting for. (T)

Held against the engines' own gauges, so any engine that has metrics will do.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any, NamedTuple

import trio

from conformance.cases import behind
from conformance.cases.gateway.profile import PROFILE
from conformance.cases.gateway.raw import head, raw
from conformance.suite import check
from conformance.suite.case import Level
from conformance.suite.target import CHAT, Target
from conformance.suite.wire import Address, WireError

_LONG = 1000
"""Tokens of an answer that nobody waits for to the end."""
_TOO_QUICK_S = 1.0
_TEXT = "Tell a very long story."
_SOURCE = "vLLM, SGLang and TGI abort a request when its connection closes; LiteLLM #13774"


async def _settled(target: Target) -> list[Address]:
    """The engines, once they are at rest."""
    engines = await behind.serving(target)

    async def idle() -> bool:
        return await behind.busy(target, engines) == 0

    if await behind.until(idle, 3.0) is None:
        target.skip("the engines behind are busy with something else")
    return engines


async def _taken(target: Target, engines: Sequence[Address]) -> None:
    """Until the engine has the request; skips where it is done sooner than that can be seen."""

    async def at_work() -> bool:
        return await behind.busy(target, engines) > 0

    if await behind.until(at_work, 2.0) is None:
        target.skip("the engine was done before its gauges showed the request")


async def _freed(target: Target, engines: Sequence[Address], whole: float, what: str) -> None:
    """Within a third of what the ``whole`` answer takes, or it could have come to its end."""

    async def idle() -> bool:
        return await behind.busy(target, engines) == 0

    bound = whole / 3
    seconds = await behind.until(idle, bound)
    if seconds is None:
        check.fail(f"the engine still works for a client that left {what}", f"none within {bound:.1f} s", "at work")
    target.note(f"free after {seconds:.2f} s")


class _Story(NamedTuple):
    """A chat of `_LONG` tokens, and the seconds that all of it takes."""

    document: dict[str, Any]
    seconds: float


async def _story(target: Target) -> _Story:
    """How long it takes is told by a short answer and a shorter one. Skips for engines that are too quick."""
    for more in ({"ignore_eos": True}, {}):  # a model of noise ends whenever it likes
        short, longer = await _timed(target, 8, more), await _timed(target, 40, more)
        if short is None or longer is None:
            continue
        tokens = max(1, longer[0] - short[0])
        seconds = (longer[1] - short[1]) / tokens * _LONG
        if seconds < _TOO_QUICK_S:
            target.skip(f"the engine makes {_LONG} tokens within {_TOO_QUICK_S:g} s: too quick to tell")
        return _Story(target.chat(_TEXT, max_tokens=_LONG, **more), seconds)
    raise check.Skip("the engine answers no chat of 40 tokens")


async def _timed(target: Target, tokens: int, more: dict[str, Any]) -> tuple[int, float] | None:
    """The tokens of a short answer, and the seconds it took; None if the engine does not know ``more``."""
    began = trio.current_time()
    answer = await target.ask(CHAT, target.chat(_TEXT, max_tokens=tokens, **more))
    if answer.status != 200:
        return None
    made = (answer.json.get("usage") or {}).get("completion_tokens") or tokens
    return made, trio.current_time() - began


@PROFILE.case("leave.stream", "…in the middle of a stream", source=_SOURCE, alone=True, needs=("behind",))
async def stream(target: Target) -> None:
    engines, story = await _settled(target), await _story(target)
    async with target.open(CHAT, story.document | {"stream": True}) as answer:
        answer.expect(200)
        await answer.chunk()
        await _taken(target, engines)
    await _freed(target, engines, story.seconds, "in the middle of a stream")


@PROFILE.case("leave.whole", "…while a whole answer is made", source=_SOURCE, alone=True, needs=("behind",))
async def whole(target: Target) -> None:
    engines, story = await _settled(target), await _story(target)
    await _leaves(target, engines, story.document)
    await _freed(target, engines, story.seconds, "before its whole answer")


async def _leaves(target: Target, engines: Sequence[Address], document: dict[str, Any]) -> None:
    """Ask, and go once an engine has taken it up."""
    async with trio.open_nursery() as nursery:

        async def asking() -> None:
            await target.ask(CHAT, document)

        nursery.start_soon(asking)
        await _taken(target, engines)
        nursery.cancel_scope.cancel()


@PROFILE.case("leave.unanswered", "…before the first token", source=_SOURCE, alone=True, needs=("behind",))
async def unanswered(target: Target) -> None:
    engines = await _settled(target)
    await behind.simulators(target)
    before = sum(await behind.requests(target, engines))
    async with behind.failing(target, engines, "slow:1"):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(target.ask, CHAT, target.chat(_TEXT, max_tokens=_LONG, stream=True))

            async def arrived() -> bool:
                return sum(await behind.requests(target, engines)) > before

            if await behind.until(arrived, 3.0) is None:
                target.skip("no engine got the request: --behind names others than the gateway uses")
            nursery.cancel_scope.cancel()
        await trio.sleep(1.3)  # an engine that still has the request would begin with it now
        at_work = await behind.busy(target, engines)
    check.equal(at_work, 0.0, "the number of requests that the engine began after their client had left")


@PROFILE.case(
    "leave.many", "…twenty clients at once", source=_SOURCE, alone=True, needs=("behind",), level=Level.SHOULD
)
async def many(target: Target) -> None:
    engines, story = await _settled(target), await _story(target)
    async with AsyncExitStack() as stack:
        for _ in range(20):
            answer = await stack.enter_async_context(target.open(CHAT, story.document | {"stream": True}))
            answer.expect(200)
        await _taken(target, engines)
    await _freed(target, engines, story.seconds, "with nineteen others")


@PROFILE.case(
    "leave.others-stay",
    "A client that leaves takes nobody with it",
    source="RFC 9110 §3.3: requests stand for themselves",
)
async def others_stay(target: Target) -> None:
    async with target.open(CHAT, target.chat(stream=True, max_tokens=64)) as stays:
        stays.expect(200)
        async with target.open(CHAT, target.chat(stream=True, max_tokens=64)) as leaves:
            leaves.expect(200)
            await leaves.chunk()
        await stays.read()
    check.equal(stays.stream().done, 1, "the number of [DONE] of the one that stayed")


@PROFILE.case(
    "leave.half-closed",
    "What becomes of a client that closes only its sending side",
    source="RFC 9112 §9.6 leaves it open",
    level=Level.INFO,
)
async def half_closed(target: Target) -> None:
    body = b'{"model": "%s", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}'
    body = body.replace(b"%s", target.setup.model.encode())
    data = head(
        target, f"POST {target.path(CHAT)} HTTP/1.1", "Content-Type: application/json", f"Content-Length: {len(body)}"
    )
    reply = await raw(target, data + body, wait=5.0, answers=1, eof=True)
    served = f"it is answered: {reply.status}" if reply.status else "it counts as gone"
    target.note(f"half-closed after its request, {served}")


@PROFILE.case("leave.mid-request", "A client that leaves inside its request disturbs nobody", source="RFC 9112 §8")
async def mid_request(target: Target) -> None:
    line = head(target, f"POST {target.path(CHAT)} HTTP/1.1", "Content-Type: application/json", "Content-Length: 5000")
    for data in (line[: len(line) // 2], line, line + b'{"model"'):
        async with target.connect() as connection:
            await connection.send_raw(data)
    try:
        (await target.ask(CHAT, target.chat())).expect(200)
    except WireError as error:
        check.fail("the next client is not served", 200, error.message)
