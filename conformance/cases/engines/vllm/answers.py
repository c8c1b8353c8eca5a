"""vLLM's streams, what it refuses and what it drops. (T)"""

from __future__ import annotations

from typing import Any

from conformance.cases.engines.shared import asked
from conformance.cases.engines.shared.held import held
from conformance.cases.engines.shared.metrics import seen
from conformance.cases.engines.shared.signals import quiet, read, release
from conformance.cases.engines.vllm.profile import API, PROFILE, SIGNALS, known_release
from conformance.suite import check
from conformance.suite.case import Level
from conformance.suite.target import CHAT, Target

CONTEXT = r"maximum (?:context|input) length"
NO_MODEL = r"model.{0,200}(does not exist|not found|unknown)"


@PROFILE.case("stream.head", "The head comes before the first token", source=API, level=Level.INFO, alone=True)
async def head_first(target: Target) -> None:
    delay = await asked.delay_of_data(target)
    target.note(f"the first bytes came {1000 * delay:.1f} ms after the head")
    check.true(
        delay > 0.0005, "the head comes with the first token only: a gateway has to wait for it as long", "> 0.5 ms"
    )


@PROFILE.case("stream.role", "A stream's first chunk has the role and no text", source=API, level=Level.SHOULD)
async def role_first(target: Target) -> None:
    stream = await target.streamed()
    first = check.member(stream.chunks, "0.choices.0.delta", "the stream")
    check.equal(
        {name: first.get(name) for name in ("role", "content")}, {"role": "assistant", "content": ""}, "the first delta"
    )


@PROFILE.case("stream.continuous-usage", "continuous_usage_stats counts in every chunk", source=API, level=Level.SHOULD)
async def continuous_usage(target: Target) -> None:
    stream = await target.streamed(stream_options={"include_usage": True, "continuous_usage_stats": True})
    counts = [check.member(chunk, "usage.completion_tokens", "a chunk") for chunk in stream.chunks]
    check.equal(counts, sorted(counts), "completion_tokens, which only grow,")


@PROFILE.case("stream.options", "stream_options without stream are refused by name", source=API, level=Level.SHOULD)
async def options_without_stream(target: Target) -> None:
    answer = await target.ask(CHAT, target.chat(stream_options={"include_usage": True}))
    check.matches(answer.expect(400).text, "stream.options", "the refusal")


@PROFILE.case("stream.tools", "A tool call's first delta has index, id, type and name", source=API)
async def tool_delta(target: Target) -> None:
    choice = {"type": "function", "function": {"name": "get_weather"}}
    answer = await target.ask(CHAT, target.chat(tools=[asked.TOOL], tool_choice=choice, stream=True, max_tokens=64))
    if answer.status == 400 and "parser" in answer.text:
        target.skip("started without --tool-call-parser")
    stream = answer.expect(200).stream()
    calls = [call for delta in stream.deltas() for call in delta.get("tool_calls") or ()]
    if not calls and stream.finish() == ["length"]:
        target.skip("the model was cut short before it called the tool")
    check.true(calls, "no tool call came though one was demanded")
    check.equal(calls[0].get("index"), 0, "the first call's index")
    check.true(calls[0].get("id"), "the first delta of a tool call has no id", "a text", calls[0])
    check.equal(check.member(calls[0], "function.name", "the first delta"), "get_weather", "the tool's name")
    named = [call for call in calls[1:] if (call.get("function") or {}).get("name")]
    check.equal(named, [], "the later deltas that name the tool again")


@PROFILE.case(
    "reasoning", "Reasoning has the release's name", source="vLLM 0.11 to 0.16, reasoning", level=Level.SHOULD
)
async def reasoning(target: Target) -> None:
    version = known_release(target)
    message = check.member(await target.chatted(), "choices.0.message")
    wanted = "reasoning" if version >= (0, 16) else "reasoning_content"
    if not {"reasoning", "reasoning_content"} & set(message):
        target.skip("the answer has no member for reasoning")
    check.contains(message, wanted, f"the message of vLLM {target.setup.version}")


# --- refusals --------------------------------------------------------------------------------------------------------


@PROFILE.case("error.context", "A prompt longer than the context is 400 and says so, streamed or not", source=API)
async def context(target: Target) -> None:
    for stream in (False, True):
        answer = await asked.too_long(target, stream=stream)
        answer.expect(400)
        check.matches(asked.errors_of(answer).get("message", ""), CONTEXT, "the message")


@PROFILE.case("error.unknown-model", "A model that is not served is 404 and says so", source=API)
async def unknown_model(target: Target) -> None:
    answer = await target.ask(CHAT, target.chat(model=asked.UNKNOWN))
    answer.expect(404)
    check.matches(asked.errors_of(answer).get("message", ""), NO_MODEL, "the message")


@PROFILE.case("error.no-route", "A path that is not served is 404 and says no more", source=API)
async def no_route(target: Target) -> None:
    await asked.no_route(target)


@PROFILE.case("no-model", "A chat that names no model is answered by the first", source=API, level=Level.INFO)
async def no_model(target: Target) -> None:
    answer = await target.ask(CHAT, target.chat(model=None))
    target.note(f"answered as {check.member(answer.expect(200).json, 'model')}")


@PROFILE.case("error.shape", "Errors are objects with the status as code", source=API, level=Level.SHOULD)
async def error_shape(target: Target) -> None:
    answer = await target.ask(CHAT, target.chat(temperature=-3))
    error = asked.errors_of(answer.expect(400))
    check.true(error.get("message"), "the error has no message", "a text", error)
    check.equal(check.kind(error.get("code"), int, "the error's code"), 400, "the error's code")
    version = release(target)
    if version:
        check.equal("error" in answer.json, version >= (0, 10, 1), "that the error is nested")


@PROFILE.case("error.key", "A wrong key is 401", source="vLLM 0.33, --api-key")
async def wrong_key(target: Target) -> None:
    if not target.setup.key:
        target.skip("needs --api-key: a server that demands one")
    answer = await target.ask(CHAT, target.chat(), key="sk-wrong")
    answer.expect(401)


@PROFILE.case(
    "error.queue-full", "A full queue is 503, streamed or not", source="vLLM 0.30, --max-num-queued-reqs",
    alone=True, needs=("full_at",),
)  # fmt: skip
async def queue_full(target: Target) -> None:
    count = int(target.setup.extra["full_at"])
    await quiet(target, SIGNALS)
    async with held(target, count) as requests:
        before = await seen(target, SIGNALS, requests, lambda page: SIGNALS.held(page) >= count, f"{count} requests")
        for stream in (True, False):
            answer = await target.ask(CHAT, target.chat(stream=stream))
            answer.expect(503)
            check.true(asked.errors_of(answer).get("message"), "the error has no message", "a text", answer.text)
        after = await read(target, SIGNALS)
    if release(target) >= (0, 32):
        rejected = [page.total(["vllm:admission_rejections_total"]) or 0 for page in (before, after)]
        check.equal(rejected[1] - rejected[0], 2, "the growth of vllm:admission_rejections_total")


# --- what it drops ----------------------------------------------------------------------------------------------------


def _drops(name: str, value: Any) -> None:
    @PROFILE.case(
        f"drops.{name}", f"{name} is dropped without a word: an adapter has to refuse it",
        source="vLLM 0.12, ChatCompletionRequest", level=Level.INFO,
    )  # fmt: skip
    async def dropped(target: Target) -> None:
        if release(target) and release(target) < (0, 12):
            target.skip("before 0.12 it was heeded")
        await asked.unconstrained(target, name, value)


_drops("guided_choice", [asked.CHOICE])
_drops("guided_regex", asked.CHOICE)
_drops("regex", asked.CHOICE)
