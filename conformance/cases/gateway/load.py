"""Many clients at once, large requests and slow readers: nobody gets or waits for what is another's. (T)"""

from __future__ import annotations

from collections.abc import Callable

import trio

from conformance.cases.gateway.profile import PROFILE
from conformance.suite import check
from conformance.suite.case import Level
from conformance.suite.target import CHAT, COMPLETIONS, Target

_STREAMS = 200
_CONNECTING = 50


@PROFILE.case(
    "load.not-mixed",
    f"{_STREAMS} streams at once, each with its own text",
    source="confidentiality",
    alone=True,
    timeout=60.0,
)
async def not_mixed(target: Target) -> None:
    probe = await target.ask(COMPLETIONS, _echo(target, 0, stream=True))
    echoes = probe.status == 200 and _mark(0) in probe.text
    ids: list[str] = []
    limit = trio.CapacityLimiter(_STREAMS)

    async def one(number: int) -> None:
        async with limit:
            if echoes:
                answer = await target.ask(COMPLETIONS, _echo(target, number, stream=True))
            else:
                answer = await target.ask(CHAT, target.chat(_mark(number), stream=True))
        stream = answer.expect(200).stream()
        found = {str(chunk.get("id")) for chunk in stream.chunks}
        check.equal(len(found), 1, "the number of ids in one of many streams")
        ids.extend(found)
        check.equal(stream.done, 1, "the number of [DONE] in one of many streams")
        if echoes:
            check.contains(stream.text(), _mark(number), "the text of one of many streams")

    await _together(one, _STREAMS)
    if not echoes:
        if "" not in ids:  # TGI has none to tell
            check.equal(len(set(ids)), _STREAMS, f"the number of ids of {_STREAMS} streams")
        target.note("`echo` is not served: streams were told apart by their ids only")


def _mark(number: int) -> str:
    return f"conformance stream {number:03} of {_STREAMS}"


def _echo(target: Target, number: int, *, stream: bool) -> dict[str, object]:
    return {"model": target.setup.model, "prompt": _mark(number), "max_tokens": 4, "echo": True, "stream": stream}


async def _together(one: Callable[[int], object], count: int) -> None:
    async with trio.open_nursery() as nursery:
        for number in range(count):
            nursery.start_soon(one, number)  # type: ignore[arg-type]
            if number % _CONNECTING == _CONNECTING - 1:
                await trio.sleep(0.02)  # a listener's backlog is finite


@PROFILE.case(
    "load.large-body",
    "A request of 1.5 megabytes is passed on, not refused for its size",
    source="images come as base64: OpenAI takes 50 MB",
    level=Level.SHOULD,  # TGI behind it takes no more than that
)
async def large_body(target: Target) -> None:
    answer = await target.ask(CHAT, target.chat("word " * 300_000))
    if answer.status != 200:
        check.among(answer.status, (400, 413, 422), "the status")
        said = answer.text.lower()
        check.true(
            "token" in said or "length" in said or "context" in said,
            "a request of 1.5 MB is refused for its size",
            "the model's limit, or 200",
            said,
        )


@PROFILE.case("load.slow-reader", "A client that does not read holds up nobody", source="RFC 9112 §9.4", alone=True)
async def slow_reader(target: Target) -> None:
    began = trio.current_time()
    (await target.ask(CHAT, target.chat())).expect(200)
    usual = trio.current_time() - began
    async with target.open(CHAT, target.chat("Tell a very long story.", stream=True, max_tokens=1000)) as unread:
        unread.expect(200)
        began = trio.current_time()
        for _ in range(5):
            (await target.ask(CHAT, target.chat())).expect(200)
        taken = trio.current_time() - began
    check.at_most(taken, 5 * usual + 3, "the seconds that five requests took beside a client that does not read")


@PROFILE.case(
    "load.connections",
    "Idle connections in number keep nobody out",
    source="SDKs keep pools of them",
    level=Level.SHOULD,
    alone=True,
)
async def connections(target: Target) -> None:
    async with trio.open_nursery() as nursery:

        async def idle(_: int, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
            async with target.connect():
                task_status.started()
                await trio.sleep_forever()

        for number in range(200):
            await nursery.start(idle, number)
        (await target.ask(CHAT, target.chat())).expect(200)
        nursery.cancel_scope.cancel()


@PROFILE.case(
    "load.many-models", "Errors under load name the model of their own request", source="confidentiality", alone=True
)
async def many_models(target: Target) -> None:
    async def one(number: int) -> None:
        name = f"no-such-model-{number:03}-end"
        answer = await target.ask(CHAT, target.chat(model=name))
        check.at_least(answer.status, 400, "the status of an unknown model")
        others = [
            other
            for other in (f"no-such-model-{n:03}-end" for n in range(60))
            if other != name and other in answer.text
        ]
        check.equal(others, [], "the models of other requests in an error")

    await _together(one, 60)
