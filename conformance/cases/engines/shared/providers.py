"""What public providers have in common, as makers of cases: keys, what is left of a ration, cached prompts. (T)"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

from conformance.cases.engines.shared import asked
from conformance.suite import check
from conformance.suite.answer import Answer, Stream
from conformance.suite.case import Level, Profile
from conformance.suite.target import CHAT, Target

GO_DURATION = r"^(?:\d+h)?(?:\d+m)?(?:\d+(?:\.\d+)?s)?$|^\d+(?:\.\d+)?ms$"
_WORDS = 1600
"""Enough for any provider's shortest cached prefix, 1,024 tokens."""


def add_key(profile: Profile, source: str, statuses: tuple[int, ...], path: str, body: Mapping[str, Any]) -> None:
    """A wrong key and a missing one are refused; the refusal does not repeat the key."""

    @profile.case("key", f"A wrong key or none is {_either(statuses)}", source=source)
    async def key(target: Target) -> None:
        if not target.setup.key:
            target.skip("needs --api-key: a server that demands one")
        wrong = f"sk-wrong-{secrets.token_hex(12)}"
        for given in (wrong, ""):
            answer = await target.ask(path, {"model": target.setup.model, **body}, key=given)
            answer.expect(*statuses)
            check.true(wrong not in answer.text, "the error repeats the whole key", "at most a part of it", answer.text)


def add_ration(profile: Profile, source: str, names: tuple[str, str, str], reset: str, path: str, body: Any) -> None:
    """What is left of a ration is said on every answer. ``names``: limit, remaining, reset; ``reset`` its pattern."""
    limit, remaining, until = names

    @profile.case("ration", "Answers tell what is left of the caller's ration", source=source, level=Level.SHOULD)
    async def ration(target: Target) -> None:
        answer = (await target.ask(path, {"model": target.setup.model, **body})).expect(200)
        counts = [_number(answer, name) for name in (limit, remaining)]
        check.at_most(counts[1], counts[0], f"{remaining}, of {limit},")
        check.matches(answer.headers.get(until, ""), reset, until)

    @profile.case("ration.spent", "A request makes it less", source=source, level=Level.INFO, alone=True)
    async def spent(target: Target) -> None:
        request = {"model": target.setup.model, **body}
        left = [_number((await target.ask(path, request)).expect(200), remaining) for _ in range(2)]
        check.true(left[1] < left[0], "it is not less after another request", f"less than {left[0]}", left[1])


def _number(answer: Answer, name: str) -> int:
    value = answer.headers.get(name, "")
    check.matches(value, r"^\d+$", name)
    return int(value)


def _either(statuses: tuple[int, ...]) -> str:
    return " or ".join(map(str, statuses))


def long_prompt() -> str:
    """One that nobody has sent before, long enough to be cached."""
    return f"{secrets.token_hex(8)} " + "the quick brown fox jumps over the lazy dog " * (_WORDS // 9)


async def streamed_usage(target: Target, text: str = "Say hello.", **members: Any) -> Stream:
    """A stream that was asked for its usage."""
    return await target.streamed(text, stream_options={"include_usage": True}, **members)


async def unknown_member(target: Target, *statuses: int) -> Answer:
    """The refusal of a member that nobody knows; a failure if it is taken."""
    answer = await target.ask(CHAT, target.chat(no_such_member_8c1d=1))
    return answer.expect(*statuses)


def sums(usage: Mapping[str, Any]) -> None:
    """prompt_tokens and completion_tokens are total_tokens."""
    parts = [check.kind(usage.get(name), int, name) for name in ("prompt_tokens", "completion_tokens", "total_tokens")]
    check.equal(parts[2], parts[0] + parts[1], "total_tokens")


ASKS_TOOL = "What is the weather in Paris? Use get_weather."
SAY = {"messages": [{"role": "user", "content": "Say hello."}]}


async def called(target: Target, limit: int = 400) -> Stream:
    """A stream in which the tool was called. Skips where the model does not do it."""
    stream = await target.streamed(ASKS_TOOL, tools=[asked.TOOL], tool_choice="required", max_tokens=limit)
    if not any(delta.get("tool_calls") for delta in stream.deltas()):
        target.skip("the model called no tool")
    return stream
