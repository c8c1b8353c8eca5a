"""DeepSeek: what its adapter takes for granted. (T)"""

from __future__ import annotations

from conformance.cases.engines.deviations import DEVIATIONS
from conformance.cases.engines.shared import asked, providers
from conformance.suite import check
from conformance.suite.case import Level, Profile
from conformance.suite.target import CHAT, MODELS, Target

PROFILE = Profile("engine/deepseek", "DeepSeek", deviations=DEVIATIONS.get("deepseek", {}))

_API = "DeepSeek API docs, Create chat completion"
_CACHE = "DeepSeek API docs, Context caching"
_THINKING = "DeepSeek API docs, Thinking mode"

providers.add_key(PROFILE, "DeepSeek API docs, Error codes", (401,), CHAT, providers.SAY)


@PROFILE.case("models", "Models are listed, with their owner", source="DeepSeek API docs, List models")
async def models(target: Target) -> None:
    cards = check.kind(check.member((await target.ask(MODELS)).expect(200).json, "data"), list, "data")
    check.true(cards, "no model is listed")
    for card in cards:
        check.kind(card.get("id"), str, "a model's id")


@PROFILE.case("limit", "max_tokens ends an answer", source=_API)
async def limit(target: Target) -> None:
    answer = await target.chatted("Count to one hundred.", max_tokens=8)
    check.equal(check.member(answer, "choices.0.finish_reason"), "length", "the finish reason")
    check.at_most(check.member(answer, "usage.completion_tokens"), 8, "completion_tokens")


@PROFILE.case("usage.cache", "Usage splits the prompt into cache hits and misses", source=_CACHE)
async def usage_cache(target: Target) -> None:
    usage = check.member(await target.chatted(), "usage")
    providers.sums(usage)
    parts = [check.member(usage, f"prompt_cache_{part}_tokens", "the usage") for part in ("hit", "miss")]
    check.equal(sum(parts), usage["prompt_tokens"], "the sum of hits and misses, against prompt_tokens,")


@PROFILE.case("usage.stream", "A stream's last chunk before [DONE] has them too, if asked", source=_CACHE)
async def usage_stream(target: Target) -> None:
    stream = await providers.streamed_usage(target)
    usage = check.kind(stream.usage, dict, "the stream's usage")
    check.member(usage, "prompt_cache_miss_tokens", "the usage")
    check.equal(stream.done, 1, "the number of [DONE]")


@PROFILE.case("usage.hit", "A long prompt sent again hits the cache", source=_CACHE, level=Level.INFO, alone=True)
async def usage_hit(target: Target) -> None:
    prompt = providers.long_prompt()
    for _ in range(2):
        answer = await target.chatted(prompt)
    check.at_least(check.member(answer, "usage.prompt_cache_hit_tokens"), 1, "prompt_cache_hit_tokens of the second")


@PROFILE.case("reasoning", "Thoughts are reasoning_content, and end before content begins", source=_THINKING)
async def reasoning(target: Target) -> None:
    stream = await target.streamed(max_tokens=400)
    deltas = stream.deltas()
    thoughts = [index for index, delta in enumerate(deltas) if delta.get("reasoning_content")]
    if not thoughts:
        if any(delta.get("reasoning") for delta in deltas):
            check.fail("thoughts are called reasoning", "reasoning_content", "reasoning")
        target.skip("this model does not think aloud")
    words = [index for index, delta in enumerate(deltas) if delta.get("content")]
    check.true(not words or thoughts[-1] < words[0], "a thought comes behind the answer's beginning")


@PROFILE.case("error.model", "A model nobody has is a 400 or 404 with an error object", source=_API)
async def model(target: Target) -> None:
    answer = await target.ask(CHAT, target.chat(model=asked.UNKNOWN))
    check.kind(answer.expect(400, 404).error.get("message"), str, "the error's message")


@PROFILE.case("no-v1", "Paths work without /v1", source="DeepSeek API docs, Your first API call", level=Level.INFO)
async def no_v1(target: Target) -> None:
    (await target.ask("/chat/completions", target.chat())).expect(200)
