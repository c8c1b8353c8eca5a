"""Deadlines, and clients that wait no more. (T)"""

from __future__ import annotations

import trio

from conformance.cases import behind
from conformance.cases.grpc.calls import called, chat, linked, path, reason, streamed
from conformance.cases.grpc.messages import api
from conformance.cases.grpc.profile import HTTP2, NEEDS, PROFILE
from conformance.suite import check, rpc
from conformance.suite.case import Level
from conformance.suite.target import Target

_LONG = 1000
_REPLY = api.StreamChatCompletionResponse


@PROFILE.case(
    "deadline.passed",
    "A deadline that has passed: DEADLINE_EXCEEDED, in every unit",
    source=f"{HTTP2}, Timeout",
    level=Level.SHOULD,
    needs=NEEDS,
)
async def passed(target: Target) -> None:
    for timeout in ("1n", "1u"):
        for method in ("CreateChatCompletion", "StreamChatCompletion"):
            message = streamed(target) if method.startswith("Stream") else chat(target)
            (await called(target, method, message, timeout=timeout)).expect(rpc.DEADLINE_EXCEEDED)


@PROFILE.case("deadline.far", "A deadline that is far off changes nothing", source=f"{HTTP2}, Timeout", needs=NEEDS)
async def far(target: Target) -> None:
    for timeout in ("1H", "10M", "3600S", "99999999m", "99999999H"):
        (await called(target, "ListModels", api.ListModelsRequest(), timeout=timeout)).expect(rpc.OK)


@PROFILE.case(
    "deadline.within",
    "A deadline ends a call that is under way, in time",
    source="grpc.io, deadlines",
    alone=True,
    needs=("grpc", "behind"),
)
async def within(target: Target) -> None:
    engines = await behind.simulators(target)
    for method in ("CreateChatCompletion", "StreamChatCompletion"):
        async with behind.failing(target, engines, "stall:1"):
            message = streamed(target) if method.startswith("Stream") else chat(target)
            began = trio.current_time()
            call = await called(target, method, message, timeout="300m")
            waited = trio.current_time() - began
        call.expect(rpc.DEADLINE_EXCEEDED)
        check.true(reason(call) != "UPSTREAM_TIMEOUT", "the call ended by a time limit of the server's own")
        check.true(
            0.25 <= waited <= 5, f"a deadline of 0.3 s ended {method} at another time", "0.3 s", f"{waited:.2f} s"
        )


@PROFILE.case(
    "deadline.malformed",
    "A grpc-timeout that is none does not stop the server",
    source=f"{HTTP2}, Timeout: up to 8 digits",
    level=Level.SHOULD,
    needs=NEEDS,
)
async def malformed(target: Target) -> None:
    for timeout in ("abc", "-1S", "5", "123456789S", "1.5S", "S"):
        call = await called(target, "ListModels", api.ListModelsRequest(), timeout=timeout)
        check.true(
            call.code in (rpc.OK, rpc.INTERNAL, rpc.INVALID_ARGUMENT, rpc.UNKNOWN),
            f"grpc-timeout: {timeout}",
            "OK or a refusal",
            call.code,
        )
    (await called(target, "ListModels", api.ListModelsRequest())).expect(rpc.OK)


@PROFILE.case(
    "cancel.frees",
    "A call that is cancelled frees the engine",
    source="grpc.io, cancellation; vLLM aborts when its client leaves",
    alone=True,
    needs=("grpc", "behind"),
)
async def frees(target: Target) -> None:
    for way in ("reset", "closed"):
        engines = await behind.serving(target)
        async with linked(target) as link:
            call = await link.open(path("StreamChatCompletion"), _REPLY)
            began = trio.current_time()
            await call.send(streamed(target, "Tell a very long story.", max_tokens=_LONG), end=True)
            for _ in range(10):
                await call.next()
            if await behind.busy(target, engines) == 0:
                target.skip("the engine is done before its gauges show the call")
            whole = (trio.current_time() - began) / 10 * _LONG
            if whole < 1:
                target.skip(f"the engine makes {_LONG} tokens in {whole:.1f} s: too quick to tell")
            if way == "reset":
                await call.cancel()
                await _idle(target, way, whole)
        await _idle(target, way, whole)


async def _idle(target: Target, way: str, whole: float) -> None:
    engines = await behind.serving(target)

    async def idle() -> bool:
        return await behind.busy(target, engines) == 0

    bound = min(6.0, max(0.5, whole / 3))
    seconds = await behind.until(idle, bound)
    check.true(
        seconds is not None,
        f"the engine still works for a call that was {way}",
        f"idle within {bound:.1f} s",
        "at work",
    )


@PROFILE.case("cancel.others", "A call that is cancelled takes no other with it", source="RFC 9113 §5.4.2", needs=NEEDS)
async def others(target: Target) -> None:
    async with linked(target) as link:
        stays, goes = [await link.open(path("StreamChatCompletion"), _REPLY) for _ in range(2)]
        for call in (stays, goes):
            await call.send(streamed(target, max_tokens=32), end=True)
        await goes.next()
        await goes.cancel()
        (await stays.finish()).expect(rpc.OK)
        after = await link.unary(path("ListModels"), api.ListModelsRequest(), api.ListModelsResponse)
        after.expect(rpc.OK)


@PROFILE.case(
    "cancel.early",
    "Calls that are cancelled before their message disturb nobody",
    source="RFC 9113 §5.4.2",
    needs=NEEDS,
)
async def early(target: Target) -> None:
    async with linked(target) as link:
        for _ in range(20):
            call = await link.open(path("StreamChatCompletion"), _REPLY)
            await call.send_raw(b"\0\0\0")
            await call.cancel()
        after = await link.unary(path("ListModels"), api.ListModelsRequest(), api.ListModelsResponse)
        after.expect(rpc.OK)
