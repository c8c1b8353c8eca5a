"""What a request may ask for beyond its messages: it is done, or refused by name. (P)"""

from __future__ import annotations

from typing import Any

from conformance.cases.openai.answers import completion_tokens, content, finish, said, well_ended
from conformance.cases.openai.profile import CHAT_CREATE, CHAT_OBJECT, NODE, PROFILE, PYTHON
from conformance.cases.openai.shapes import Chat, Chunk, Logprobs, TokenLogprob, conform
from conformance.suite import check
from conformance.suite.answer import Answer, Stream
from conformance.suite.case import Level
from conformance.suite.target import CHAT, Target

_N = f"{CHAT_CREATE}: n"
_LOGPROBS = f"{CHAT_CREATE}: logprobs, top_logprobs; {CHAT_OBJECT}: choices.logprobs"


def known(target: Target, answer: Answer, *names: str) -> Answer:
    """200, or the case is skipped because the server says by name that it does not know this."""
    return target.may_refuse(answer, *names).expect(200)


# -- n --------------------------------------------------------------------------------------------------------------


@PROFILE.case("n.whole", "n=2 gives two choices, numbered 0 and 1", source=_N)
async def n_whole(target: Target) -> None:
    answer = known(target, await target.ask(CHAT, target.chat(n=2)), "n").json
    choices = conform(answer, Chat, "the chat completion").choices
    check.equal(sorted(choice.index for choice in choices), [0, 1], "the indices of the choices")


@PROFILE.case("n.usage", "Usage counts the prompt once and the tokens of all choices", source=_N, level=Level.SHOULD)
async def n_usage(target: Target) -> None:
    one = check.member(await target.chatted("Tell a long story.", max_tokens=6), "usage")
    two = known(target, await target.ask(CHAT, target.chat("Tell a long story.", n=2, max_tokens=6)), "n").json
    usage = check.member(two, "usage")
    check.equal(usage["prompt_tokens"], one["prompt_tokens"], "prompt_tokens with n=2, against one choice,")
    if all(choice["finish_reason"] == "length" for choice in two["choices"]):
        check.equal(completion_tokens(usage), 12, "completion_tokens of two choices of 6")


@PROFILE.case("n.stream", "n=2 streams two choices, each with its role, its text and its finish", source=_N)
async def n_stream(target: Target) -> None:
    answer = known(target, await target.ask(CHAT, target.chat(n=2, stream=True)), "n")
    stream = answer.stream()
    well_ended(stream, 2)
    for index in (0, 1):
        check.equal(stream.deltas(index)[0].get("role"), "assistant", f"the role in choice {index}'s first delta")
    indices = {choice.get("index") for chunk in stream.chunks for choice in chunk.get("choices") or ()}
    check.equal(sorted(indices, key=str), [0, 1], "the indices of the choices")


# -- logprobs -------------------------------------------------------------------------------------------------------


def _checked(target: Target, entries: list[TokenLogprob], top: int) -> None:
    check.true(entries, "logprobs were asked for, but there are none")
    for entry in entries:
        check.at_most(len(entry.top_logprobs), top, "the number of top_logprobs of a token")
    values = [[each.logprob for each in entry.top_logprobs] for entry in entries]
    if any(each != sorted(each, reverse=True) for each in values):
        target.note("top_logprobs are not in the order of their likelihood")


def _only_thoughts(target: Target, text: str, reason: str) -> None:
    """Skips the case: thoughts, hidden or not, have no logprobs."""
    if not text and reason == "length":
        target.skip("the model thinks beyond the limit: there is no text with logprobs")


def _content(found: Logprobs | None) -> list[TokenLogprob]:
    return (found.content if found else None) or []


@PROFILE.case("logprobs.whole", "logprobs: true gives every token of the text its logprob", source=_LOGPROBS)
async def logprobs_whole(target: Target) -> None:
    answer = known(target, await target.ask(CHAT, target.chat(logprobs=True)), "logprobs")
    choice = conform(answer.json, Chat, "the chat completion").choices[0]
    _only_thoughts(target, content(answer.json), finish(answer.json))
    _checked(target, _content(choice.logprobs), 20)
    tokens = [entry.token for entry in _content(choice.logprobs)]
    text = said(answer.json)
    if "".join(tokens) != text:
        target.note(f"the tokens {tokens!r} are not the text {text!r}")


@PROFILE.case("logprobs.top", "top_logprobs: 3 gives the 3 likeliest tokens of each position", source=_LOGPROBS)
async def logprobs_top(target: Target) -> None:
    answer = await target.ask(CHAT, target.chat(logprobs=True, top_logprobs=3))
    choice = conform(known(target, answer, "top_logprobs", "logprobs").json, Chat, "the chat completion").choices[0]
    _only_thoughts(target, content(answer.json), finish(answer.json))
    entries = _content(choice.logprobs)
    _checked(target, entries, 3)
    check.at_least(min(len(entry.top_logprobs) for entry in entries), 1, "the number of top_logprobs of a token")


@PROFILE.case("logprobs.stream", "Streamed chunks have the logprobs of their tokens", source=_LOGPROBS)
async def logprobs_stream(target: Target) -> None:
    answer = await target.ask(CHAT, target.chat(logprobs=True, top_logprobs=2, stream=True))
    stream = known(target, answer, "logprobs", "top_logprobs").stream()
    well_ended(stream)
    _only_thoughts(target, stream.text(), stream.finish()[0])
    entries = [entry for choice in _choices(stream) for entry in _content(choice.logprobs)]
    _checked(target, entries, 2)


def _choices(stream: Stream) -> list[Any]:
    return [choice for chunk in stream.chunks for choice in conform(chunk, Chunk, "a chunk").choices]


@PROFILE.case("logprobs.unasked", "Logprobs that were not asked for are null", source=_LOGPROBS, level=Level.SHOULD)
async def logprobs_unasked(target: Target) -> None:
    choice = check.member(await target.chatted(), "choices.0")
    check.equal(choice.get("logprobs"), None, "logprobs of a request without them")


# -- sampling -------------------------------------------------------------------------------------------------------


@PROFILE.case("parameters.seed", "The same seed gives the same text", source=f"{CHAT_CREATE}: seed", level=Level.SHOULD)
async def seed(target: Target) -> None:
    asked = target.chat("Tell a story.", seed=12345, temperature=1)
    texts = [said(known(target, await target.ask(CHAT, asked), "seed").json) for _ in range(2)]
    check.equal(texts[1], texts[0], "the text with the same seed")


_SAMPLING = {
    "temperature": 0,
    "top_p": 0.5,
    "presence_penalty": 0.5,
    "frequency_penalty": -0.5,
    "logit_bias": {"50": -100},
}


@PROFILE.case(
    "parameters.sampling",
    "Each of OpenAI's sampling parameters is taken, or refused by name",
    source=f"{CHAT_CREATE}: temperature, top_p, presence_penalty, frequency_penalty, logit_bias",
)
async def sampling(target: Target) -> None:
    for name, value in _SAMPLING.items():
        await taken_or_refused(target, name, value)


async def taken_or_refused(target: Target, name: str, value: Any) -> None:
    """200, or 400 that names it; a refusal is noted."""
    answer = await target.ask(CHAT, target.chat(**{name: value}))
    if answer.status != 200:
        answer.expect(200, 400, 422)
        check.contains(answer.text, name, f"the refusal of {name}")
        target.note(f"{name} is refused")


_HARMLESS = {
    "user": "user-1",
    "metadata": {"tag": "a"},
    "store": False,
    "service_tier": "auto",
    "prompt_cache_key": "k",
    "safety_identifier": "s",
    "reasoning_effort": "low",
    "verbosity": "low",
}


@PROFILE.case(
    "parameters.harmless",
    "OpenAI's parameters that change no text are taken, or refused by name",
    source=f"{CHAT_CREATE}: user, metadata, store, service_tier, prompt_cache_key, safety_identifier, verbosity",
)
async def harmless(target: Target) -> None:
    for name, value in _HARMLESS.items():
        await taken_or_refused(target, name, value)


@PROFILE.case(
    "parameters.unknown",
    "A member nobody knows is taken, or refused by name",
    source=f"{CHAT_CREATE}; {PYTHON}: extra_body",
)
async def unknown(target: Target) -> None:
    await taken_or_refused(target, "x_unknown_member", {"deep": [1, None]})


@PROFILE.case(
    "parameters.null",
    "Optional members may be null",
    source=f"{CHAT_CREATE}: nullable members; Go and Java clients send them",
    level=Level.SHOULD,
)
async def null(target: Target) -> None:
    names = ("stop", "n", "temperature", "top_p", "seed", "stream_options", "presence_penalty", "logprobs")
    answer = await target.ask(CHAT, {**target.chat(), **dict.fromkeys(names)})
    answer.expect(200)


@PROFILE.case(
    "parameters.sdk-headers",
    "The headers that SDKs send are taken",
    source=f"{PYTHON} and {NODE}: x-stainless-*, openai-organization, openai-beta, idempotency-key",
)
async def sdk_headers(target: Target) -> None:
    headers = [
        ("user-agent", "OpenAI/Python 3.52.0"),
        ("accept", "application/json"),
        ("accept-encoding", "gzip, deflate"),
        *((f"x-stainless-{name}", value) for name, value in _STAINLESS.items()),
        ("openai-organization", "org-1"),
        ("openai-project", "proj_1"),
        ("openai-beta", "assistants=v2"),
        ("idempotency-key", "stainless-python-retry-1"),
    ]
    answer = await target.ask(CHAT, target.chat(stream=True), headers=headers)
    well_ended(answer.expect(200).stream())


_STAINLESS = {
    "lang": "python",
    "package-version": "3.52.0",
    "os": "Linux",
    "arch": "x64",
    "runtime": "CPython",
    "runtime-version": "3.12.3",
    "async": "async:trio",
    "retry-count": "0",
    "read-timeout": "600",
}
