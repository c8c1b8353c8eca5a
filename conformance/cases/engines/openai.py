"""OpenAI itself: what its adapter takes for granted beside the published API. (T)"""

from __future__ import annotations

from conformance.cases.engines.deviations import DEVIATIONS
from conformance.cases.engines.shared import asked, providers
from conformance.suite import check
from conformance.suite.case import Level, Profile
from conformance.suite.target import CHAT, Target

PROFILE = Profile("engine/openai", "OpenAI", deviations=DEVIATIONS.get("openai", {}))

_API = "OpenAI API reference, 2.3.0"
_DEBUGGING = "OpenAI API reference, Debugging requests: response headers"

providers.add_key(PROFILE, _API, (401,), CHAT, providers.SAY)
providers.add_ration(
    PROFILE, _DEBUGGING,
    ("x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"),
    providers.GO_DURATION, CHAT, providers.SAY,
)  # fmt: skip


@PROFILE.case("key.code", "A wrong key's error has the code invalid_api_key", source=_API, needs=("key",))
async def key_code(target: Target) -> None:
    answer = await target.ask(CHAT, target.chat(), key="sk-wrong-0123456789")
    check.equal(answer.expect(401).error.get("code"), "invalid_api_key", "the code")


@PROFILE.case("request-id", "Answers and errors carry x-request-id", source=_DEBUGGING)
async def request_id(target: Target) -> None:
    seen = set()
    for body in (target.chat(), target.chat(messages=[])):
        answer = await target.ask(CHAT, body)
        check.contains(answer.headers, "x-request-id", f"the header of the {answer.status}")
        seen.add(answer.headers["x-request-id"])
    check.equal(len(seen), 2, "the number of different ids of two answers")


@PROFILE.case("unknown-member", "A member nobody knows is 400 unknown_parameter, by name", source=_API)
async def unknown_member(target: Target) -> None:
    error = (await providers.unknown_member(target, 400)).error
    check.equal(error.get("param"), "no_such_member_8c1d", "the error's param")
    check.equal(error.get("code"), "unknown_parameter", "the code")


@PROFILE.case("limit", "max_completion_tokens ends an answer", source=_API)
async def limit(target: Target) -> None:
    body = target.chat("Count to one hundred.", max_tokens=None, max_completion_tokens=16)
    answer = (await target.ask(CHAT, body)).expect(200).json
    check.equal(check.member(answer, "choices.0.finish_reason"), "length", "the finish reason")
    check.at_most(check.member(answer, "usage.completion_tokens"), 16, "completion_tokens")


@PROFILE.case("usage.details", "Usage tells cached and reasoning tokens", source=_API)
async def usage_details(target: Target) -> None:
    usage = check.member(await target.chatted(max_tokens=None, max_completion_tokens=16), "usage")
    providers.sums(usage)
    for path in ("prompt_tokens_details.cached_tokens", "completion_tokens_details.reasoning_tokens"):
        check.kind(check.member(usage, path, "the usage"), int, path)


@PROFILE.case(
    "usage.null", "Chunks before the last say usage: null when it is asked for", source=_API, level=Level.INFO
)
async def usage_null(target: Target) -> None:
    stream = await providers.streamed_usage(target, max_tokens=None, max_completion_tokens=16)
    said = ["usage" in chunk and chunk["usage"] is None for chunk in stream.chunks]
    check.equal(said, [True] * (len(said) - 1) + [False], "which chunks say usage: null")


@PROFILE.case("usage.cached", "A long prompt sent again is cached in part", source=_API, level=Level.INFO, alone=True)
async def usage_cached(target: Target) -> None:
    prompt = providers.long_prompt()
    for _ in range(2):
        answer = await target.chatted(prompt, max_tokens=None, max_completion_tokens=16)
    cached = check.member(answer, "usage.prompt_tokens_details.cached_tokens")
    check.at_least(cached, 1, "cached_tokens of the second")


@PROFILE.case("error.context", "A prompt too long has the code context_length_exceeded", source=_API)
async def context(target: Target) -> None:
    answer = await target.ask(CHAT, target.chat("word " * 300_000))
    if answer.status in (200, 413, 429):
        target.skip(f"300,000 words are answered with {answer.status}")
    check.equal(answer.expect(400).error.get("code"), "context_length_exceeded", "the code")


@PROFILE.case("error.model", "A model nobody has is 404 model_not_found", source=_API)
async def model(target: Target) -> None:
    answer = await target.ask(CHAT, target.chat(model=asked.UNKNOWN))
    check.equal(answer.expect(404).error.get("code"), "model_not_found", "the code")
