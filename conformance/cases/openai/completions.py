"""The completions endpoint: older, still what evaluation harnesses speak. (P)"""

from __future__ import annotations

from typing import Any

from conformance.cases.openai.answers import completion_tokens
from conformance.cases.openai.profile import COMPLETION, PROFILE
from conformance.cases.openai.shapes import Completion, CompletionChunk, conform
from conformance.cases.openai.stream_usage import ASKED
from conformance.suite import check
from conformance.suite.answer import Stream
from conformance.suite.case import Level
from conformance.suite.target import COMPLETIONS, Target


def asked(target: Target, prompt: Any = "Once upon a time", **members: Any) -> dict[str, Any]:
    return {"model": target.setup.model, "prompt": prompt, "max_tokens": 6, **members}


async def completed(target: Target, *params: str, prompt: Any = "Once upon a time", **members: Any) -> dict[str, Any]:
    """The 200 of a small completion; the case is skipped where the endpoint or one of ``params`` is not offered."""
    answer = target.may_refuse(await target.ask(COMPLETIONS, asked(target, prompt, **members)), *params)
    return check.kind(answer.expect(200).json, dict, "the answer")


async def _streamed(target: Target, *params: str, prompt: Any = "Once upon a time", **members: Any) -> Stream:
    answer = await target.ask(COMPLETIONS, asked(target, prompt, stream=True, **members))
    return target.may_refuse(answer, *params).expect(200).stream()


@PROFILE.case("completions.shape", "A completion has the published shape", source=COMPLETION)
async def shape(target: Target) -> None:
    found = conform(await completed(target), Completion, "the completion")
    check.equal([choice.index for choice in found.choices], [0], "the choices' indices")


@PROFILE.case("completions.usage", "Usage is there, adds up, and keeps to max_tokens", source=f"{COMPLETION}: usage")
async def usage(target: Target) -> None:
    found = conform(await completed(target), Completion, "the completion").usage
    if found is None:
        check.fail("a whole completion has no usage")
    check.equal(found.total_tokens, found.prompt_tokens + found.completion_tokens, "total_tokens, as a sum,")
    check.at_least(found.prompt_tokens, 1, "prompt_tokens")
    check.at_most(found.completion_tokens, 6, "completion_tokens")


@PROFILE.case("completions.stream", "A completion's chunks have the published shape", source=f"{COMPLETION}: stream")
async def stream(target: Target) -> None:
    found = await _streamed(target)
    check.true(found.chunks, "the stream has no chunk")
    for at, chunk in enumerate(found.chunks):
        conform(chunk, CompletionChunk, f"chunk {at}")
    check.equal(len({chunk["id"] for chunk in found.chunks}), 1, "the number of ids in a stream")


@PROFILE.case(
    "completions.stream-end",
    "A completion's stream ends with one finish reason and one [DONE]",
    source=f"{COMPLETION}: stream, terminated by data: [DONE]",
)
async def stream_end(target: Target) -> None:
    found = await _streamed(target)
    check.equal(found.errors, [], "the errors inside the stream")
    check.equal(len(found.finish()), 1, "the number of finish reasons")
    check.equal((found.done, found.after_done, found.rest), (1, 0, b""), "[DONE], events and bytes behind it")


@PROFILE.case(
    "completions.stream-usage", "Usage that was asked for is in the last chunk", source=f"{COMPLETION}: stream_options"
)
async def stream_usage(target: Target) -> None:
    found = await _streamed(target, stream_options=ASKED)
    check.true(found.chunks, "the stream has no chunk")
    last = found.chunks[-1]
    check.equal(last.get("choices"), [], "the choices of the last chunk, which has the usage,")
    check.at_most(completion_tokens(last.get("usage")), 6, "completion_tokens")


@PROFILE.case(
    "completions.stream-usage-unasked",
    "Without usage asked for there is no chunk without choices",
    source=f"{COMPLETION}: stream_options; clients read choices[0] of every chunk",
)
async def usage_unasked(target: Target) -> None:
    found = await _streamed(target)
    check.equal([chunk for chunk in found.chunks if not chunk.get("choices")], [], "the chunks without choices")
    if found.usage is not None:
        target.note("usage is told though nobody asked for it")


@PROFILE.case(
    "completions.same-text",
    "A stream says what the whole completion says",
    source=f"{COMPLETION}; temperature 0",
    level=Level.SHOULD,
)
async def same_text(target: Target) -> None:
    whole = await completed(target, temperature=0)
    found = await _streamed(target, temperature=0)
    check.equal(found.text(), check.member(whole, "choices.0.text"), "the text of the stream, against the whole one,")


@PROFILE.case(
    "completions.prompts", "Several prompts give a choice each, told apart by index", source=f"{COMPLETION}: prompt"
)
async def prompts(target: Target) -> None:
    found = conform(await completed(target, "prompt", prompt=["One", "Two", "Three"]), Completion, "the completion")
    check.equal(sorted(choice.index for choice in found.choices), [0, 1, 2], "the choices' indices")


@PROFILE.case(
    "completions.prompts-stream",
    "Several prompts stream side by side, told apart by index",
    source=f"{COMPLETION}: prompt",
)
async def prompts_stream(target: Target) -> None:
    found = await _streamed(target, "prompt", prompt=["One", "Two"])
    for index in (0, 1):
        check.equal(len(found.finish(index)), 1, f"the number of finish reasons of choice {index}")
    indices = {choice.get("index") for chunk in found.chunks for choice in chunk.get("choices") or ()}
    check.equal(indices, {0, 1}, "the choices' indices")


@PROFILE.case("completions.n", "n counts for each prompt", source=f"{COMPLETION}: n")
async def n(target: Target) -> None:
    found = await completed(target, "n", "prompt", prompt=["One", "Two"], n=2)
    indices = sorted(choice.index for choice in conform(found, Completion, "the completion").choices)
    check.equal(indices, [0, 1, 2, 3], "the choices' indices")


@PROFILE.case("completions.token-ids", "A prompt may be token ids, one list or several", source=f"{COMPLETION}: prompt")
async def token_ids(target: Target) -> None:
    one = conform(await completed(target, "prompt", prompt=[5, 6, 7, 8]), Completion, "the completion")
    check.equal(one.usage and one.usage.prompt_tokens, 4, "prompt_tokens of a prompt of four ids")
    two = conform(await completed(target, "prompt", prompt=[[5, 6], [7, 8]]), Completion, "the completion")
    check.equal(len(two.choices), 2, "the number of choices for two lists of ids")


@PROFILE.case("completions.echo", "echo repeats the prompt in front of the text", source=f"{COMPLETION}: echo")
async def echo(target: Target) -> None:
    text = check.member(await completed(target, "echo", prompt="Once upon a time", echo=True), "choices.0.text")
    check.true(
        str(text).lstrip().startswith("Once upon a time"), "the prompt is not repeated", "Once upon a time…", text
    )


@PROFILE.case("completions.logprobs", "logprobs: 2 gives the published shape", source=f"{COMPLETION}: logprobs")
async def logprobs(target: Target) -> None:
    choice = conform(await completed(target, "logprobs", logprobs=2), Completion, "the completion").choices[0]
    found = choice.logprobs
    if found is None:
        check.fail("logprobs were asked for, but there are none")
    check.equal(len(found.token_logprobs), len(found.tokens), "the number of token_logprobs, against that of tokens,")
    check.true(found.tokens, "logprobs are of no token")


@PROFILE.case("completions.stop", "The text ends before a stop string", source=f"{COMPLETION}: stop")
async def stop(target: Target) -> None:
    greedy = {"temperature": 0, "max_tokens": 16}
    text = str(check.member(await completed(target, **greedy), "choices.0.text"))
    part = next((p for p in (text[at : at + 3] for at in range(4, len(text) - 2)) if p.strip() == p), "")
    if not part or "\ufffd" in part:
        target.skip(f"the model's text has nothing to stop at: {text!r}")
    found = str(check.member(await completed(target, "stop", **greedy, stop=[part]), "choices.0.text"))
    check.true(part not in found, "the text contains the stop string", f"a text without {part!r}", found)


@PROFILE.case(
    "completions.suffix",
    "suffix is taken, or refused by name",
    source=f"{COMPLETION}: suffix",
    level=Level.SHOULD,
)
async def suffix(target: Target) -> None:
    await completed(target, "suffix", suffix=" The end.")
    target.note("suffix is taken")


@PROFILE.case("completions.no-prompt", "A completion without a prompt is refused with 400", source=COMPLETION)
async def no_prompt(target: Target) -> None:
    answer = await target.ask(COMPLETIONS, {"model": target.setup.model, "max_tokens": 2})
    target.may_refuse(answer).expect(400, 422)
