"""An engine that cannot serve is replaced by one that can: often enough, and no more often than that. (T)

All need simulated engines ``--behind``, and those that replace need two that serve the model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count

import trio

from conformance.cases import behind
from conformance.cases.gateway.errors import envelope
from conformance.cases.gateway.profile import PROFILE
from conformance.suite import check
from conformance.suite.case import Level
from conformance.suite.target import CHAT, Target
from conformance.suite.wire import Address

_BEHIND = ("behind",)
_RETRIES = "facts of SDKs: what a gateway could mend it mends, for clients try again two times themselves"
_MOST_TRIES = 12
_GOOD = 16
_AT_ONCE = 4
_RAMP_S = 12.0
_MOST_ATTEMPTS = 5


async def _in_credit(target: Target, engines: Sequence[Address]) -> None:
    """Serve requests well until every engine has had some: gateways leave those alone that failed a while ago, and
    retry a share of what they serve.
    """
    before = await behind.requests(target, engines)

    async def one(number: int) -> None:
        (await target.ask(CHAT, target.chat(f"{number} is a number", max_tokens=1))).expect(200)

    with trio.move_on_after(_RAMP_S):
        for number in count(0, _AT_ONCE):
            async with trio.open_nursery() as nursery:
                for each in range(number, number + _AT_ONCE):
                    nursery.start_soon(one, each)
            after = await behind.requests(target, engines)
            if number >= _GOOD and all(now > then for now, then in zip(after, before, strict=True)):
                return


async def _replaced(target: Target, spec: str, stream: bool) -> None:
    """One of several engines fails so: everybody is served all the same."""
    engines = await behind.simulators(target)
    if len(engines) < 2:
        target.skip("needs two engines --behind that serve the model")
    await _in_credit(target, engines)
    for victim in engines:
        before = await behind.requests(target, [victim])
        async with behind.failing(target, [victim], spec):
            for turn in range(_MOST_TRIES):
                answer = await target.ask(CHAT, target.chat(f"conformance {spec} {turn}", stream=stream))
                check.equal(answer.status, 200, f"the status while one of {len(engines)} engines fails ({spec})")
                if stream:
                    check.equal(answer.stream().done, 1, "the number of [DONE]")
                if await behind.requests(target, [victim]) > before:
                    return
    target.skip("the gateway never chose the engine that would have failed")


def _replacing(name: str, title: str, spec: str) -> None:
    for stream in (False, True):

        async def run(target: Target, stream: bool = stream) -> None:
            await _replaced(target, spec, stream)

        suffix = "-stream" if stream else ""
        PROFILE.case(
            f"failover.{name}{suffix}", f"{title}: another one answers{', streamed' if stream else ''}",
            source=_RETRIES, alone=True, needs=_BEHIND, timeout=40.0,
        )(run)  # fmt: skip


_replacing("refused", "An engine closes without an answer", "refuse")
_replacing("503", "An engine says 503", "503")
_replacing("429", "An engine says 429", "429")


@PROFILE.case(
    "failover.hang",
    "An engine says nothing: another one answers once its time is up",
    source=_RETRIES,
    alone=True,
    needs=("behind", "first_token_timeout"),
    timeout=120.0,
)
async def hang(target: Target) -> None:
    """``--set first_token_timeout=SECONDS``: as the gateway is configured."""
    seconds = float(target.setup.extra["first_token_timeout"])
    engines = await behind.simulators(target)
    before = await behind.requests(target, engines)
    async with behind.failing(target, engines, "hang"):
        began = trio.current_time()
        answer = await target.ask(CHAT, target.chat())
        waited = trio.current_time() - began
    check.true(answer.status in (503, 504), "engines that say nothing", 504, answer.status)
    envelope(answer, "engines that say nothing")
    tried = sum(await behind.requests(target, engines)) - sum(before)
    check.at_most(waited, (seconds + 1) * max(1, tried) + 2, "the time it took")


async def _attempts(target: Target, spec: str, *, stream: bool = False, **headers: str) -> tuple[int, int]:
    """How often engines were asked for one request while all of them fail so, and the status it got."""
    engines = await behind.simulators(target)
    before = await behind.requests(target, engines)
    async with behind.failing(target, engines, spec):
        answer = await target.ask(
            CHAT, target.chat(stream=stream), headers=[(k.replace("_", "-"), v) for k, v in headers.items()]
        )
        after = await behind.requests(target, engines)
    return sum(after) - sum(before), answer.status


@PROFILE.case(
    "retry.bounded",
    "Where all engines fail, a request is tried a few times only",
    source="SDKs' retries multiply with the gateway's",
    alone=True,
    needs=_BEHIND,
)
async def bounded(target: Target) -> None:
    attempts, status = await _attempts(target, "503")
    check.at_least(status, 429, "the status")
    check.true(attempts, "no engine was asked")
    check.at_most(attempts, _MOST_ATTEMPTS, "the number of attempts for one request")


async def _once(target: Target, spec: str, statuses: Callable[[int], bool], expected: str) -> None:
    attempts, status = await _attempts(target, spec)
    check.true(statuses(status), f"the status while engines answer {spec}", expected, status)
    check.equal(attempts, 1, f"the number of attempts for a request that gets {spec}")


@PROFILE.case(
    "retry.not-400",
    "What is the request's own fault is not tried again",
    source="RFC 9110 §15.5",
    level=Level.SHOULD,
    alone=True,
    needs=_BEHIND,
)
async def not_400(target: Target) -> None:
    await _once(target, "status:400", lambda status: status == 400, "400")


@PROFILE.case(
    "retry.not-after-tokens",
    "A stream that has begun is not begun again",
    source="its client would see both beginnings",
    alone=True,
    needs=_BEHIND,
)
async def not_after_tokens(target: Target) -> None:
    engines = await behind.simulators(target)
    before = await behind.requests(target, engines)
    async with behind.failing(target, engines, "error-event:3"):
        await target.ask(CHAT, target.chat(stream=True))
        attempts = sum(await behind.requests(target, engines)) - sum(before)
    check.equal(attempts, 1, "the number of attempts for a stream that broke after three tokens")


async def _told(target: Target, spec: str) -> None:
    engines: list[Address] = await behind.simulators(target)
    async with behind.failing(target, engines, spec):
        answer = await target.ask(CHAT, target.chat())
    await trio.sleep(1)  # the engines said so, and cases that follow want them
    check.true(answer.status in (429, 503), f"the status while engines answer {spec}", "429 or 503", answer.status)
    envelope(answer, f"engines that answer {spec}")
    told = answer.headers.get("retry-after", "")
    check.matches(told, r"^\d+$", "Retry-After")


@PROFILE.case(
    "retry-after.503",
    "A 503 says when to come again",
    source="RFC 9110 §10.2.3; openai-python reads it",
    alone=True,
    needs=_BEHIND,
)
async def after_503(target: Target) -> None:
    await _told(target, "503:1")


@PROFILE.case(
    "retry-after.429",
    "A 429 of the engine's says when to come again",
    source="RFC 6585 §4; openai-python reads it",
    alone=True,
    needs=_BEHIND,
)
async def after_429(target: Target) -> None:
    await _told(target, "429:1")


@PROFILE.case(
    "retry-after.heeded",
    "An engine that says when it wants to be asked again is left alone while others are there",
    source="RFC 9110 §10.2.3",
    level=Level.SHOULD,
    alone=True,
    needs=_BEHIND,
    timeout=40.0,
)
async def heeded(target: Target) -> None:
    engines = await behind.simulators(target)
    if len(engines) < 2:
        target.skip("needs two engines --behind that serve the model")
    await _in_credit(target, engines)
    for victim in engines:
        (before,) = await behind.requests(target, [victim])
        async with behind.failing(target, [victim], "503:3"):
            for turn in range(_MOST_TRIES):
                (await target.ask(CHAT, target.chat(f"conformance heeded {turn}"))).expect(200)
            (after,) = await behind.requests(target, [victim])
        if after > before:
            check.at_most(after - before, 2, f"how often it was asked in {_MOST_TRIES} requests after Retry-After: 3")
            return
    target.skip("the gateway never chose the engine that would have failed")
