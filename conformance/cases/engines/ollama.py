"""Ollama: what its adapter and its discovery take for granted; it has no metrics page. (T)

Source: Ollama 0.33, openai/openai.go and server/routes.go.
"""

from __future__ import annotations

import json
from typing import Any

from conformance.cases.engines.deviations import DEVIATIONS
from conformance.cases.engines.shared import asked
from conformance.suite import check
from conformance.suite.case import Level, Profile
from conformance.suite.target import CHAT, COMPLETIONS, Target

PROFILE = Profile("engine/ollama", "Ollama", deviations=DEVIATIONS.get("ollama", {}))

NO_MODEL = r"model.{0,200}(does not exist|not found|unknown)"
_OPENAI = "Ollama 0.33, openai/openai.go"
_ROUTES = "Ollama 0.33, server/routes.go"
_LONGEST_CONTEXT = 40_000


# --- what it is and serves --------------------------------------------------------------------------------------------


@PROFILE.case("version", "/api/version tells the release", source=_ROUTES)
async def version(target: Target) -> None:
    found = (await target.ask("/api/version")).expect(200).json
    check.matches(check.member(found, "version"), r"^\d+\.\d+", "the version, by which Ollama is recognised,")


@PROFILE.case("tags", "/api/tags and /v1/models list the same models", source=_ROUTES, level=Level.SHOULD)
async def tags(target: Target) -> None:
    found = check.member((await target.ask("/api/tags")).expect(200).json, "models")
    names = sorted(check.member(each, "name") for each in check.kind(found, list, "models"))
    check.equal(sorted(each["id"] for each in await asked.cards(target)), names, "the ids of /v1/models")


@PROFILE.case("loaded", "/api/ps shows a model that has been asked", source=_ROUTES, level=Level.SHOULD)
async def loaded(target: Target) -> None:
    await target.chatted(max_tokens=2)
    check.contains([each.get("name") for each in await _loaded(target)], _tagged(target), "the list of loaded models")


async def _loaded(target: Target) -> list[dict[str, Any]]:
    found = check.member((await target.ask("/api/ps")).expect(200).json, "models")
    return [check.kind(each, dict, "a loaded model") for each in check.kind(found, list, "models")]


def _tagged(target: Target) -> str:
    """A name without a tag means the latest."""
    name = target.setup.model
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


@PROFILE.case("tag", "A name without its tag means the latest", source=_ROUTES, level=Level.SHOULD)
async def tag(target: Target) -> None:
    if not _tagged(target).endswith(":latest"):
        target.skip("the model has another tag than latest")
    for name in (_tagged(target), _tagged(target).removesuffix(":latest")):
        answer = await target.chatted(model=name, max_tokens=2)
        check.equal(answer.get("model"), name, "the model of the answer")


@PROFILE.case("no-metrics", "There is no metrics page", source=_ROUTES, level=Level.INFO)
async def no_metrics(target: Target) -> None:
    check.equal((await target.ask("/metrics")).status, 404, "the status of a metrics page")


@PROFILE.case("native.lines", "The native chat streams lines of JSON by default", source=_ROUTES, level=Level.INFO)
async def native_lines(target: Target) -> None:
    messages = [{"role": "user", "content": "Say hello."}]
    body = {"model": target.setup.model, "messages": messages, "options": {"num_predict": 4}}
    answer = (await target.ask("/api/chat", body)).expect(200)
    check.equal(answer.media_type, "application/x-ndjson", "the content type")
    lines = [json.loads(line) for line in answer.text.splitlines() if line.strip()]
    check.equal([line.get("done") for line in lines], [False] * (len(lines) - 1) + [True], "that the last line is done")


@PROFILE.case("idle", "An idle connection is kept for two seconds", source="Go's net/http: no idle timeout is set")
async def idle(target: Target) -> None:
    await asked.idle(target)


# --- answers ----------------------------------------------------------------------------------------------------------


@PROFILE.case("limit", "max_tokens is heeded", source=_OPENAI)
async def limit(target: Target) -> None:
    made = check.member(await target.chatted("Count to a hundred.", max_tokens=3), "usage.completion_tokens")
    check.at_most(made, 3, "completion_tokens")


@PROFILE.case("stream.usage", "A usage chunk without choices comes when it is asked for", source=_OPENAI)
async def usage(target: Target) -> None:
    stream = await target.streamed(stream_options={"include_usage": True})
    check.equal(check.member(stream.chunks[-1], "choices", "the last chunk"), [], "the last chunk's choices")
    check.at_least(check.member(stream.chunks[-1], "usage.completion_tokens", "the last chunk"), 1, "completion_tokens")


@PROFILE.case("stream.completion-usage", "The last usage of a completion's stream is the real one", source=_OPENAI)
async def completion_usage(target: Target) -> None:
    body = {"model": target.setup.model, "prompt": "Once", "max_tokens": 4, "stream": True}
    answer = await target.ask(COMPLETIONS, {**body, "stream_options": {"include_usage": True}})
    said = [chunk["usage"] for chunk in answer.expect(200).stream().chunks if chunk.get("usage")]
    check.true(said, "no chunk has usage")
    check.at_least(said[-1].get("completion_tokens", 0), 1, "the last completion_tokens")
    target.note(
        f"{len(said)} chunks have usage, {sum(not each.get('completion_tokens') for each in said)} of them zeros"
    )


@PROFILE.case("stream.tools", "A tool call comes whole, in one delta", source=_OPENAI, level=Level.INFO)
async def tools(target: Target) -> None:
    body = target.chat("Call get_weather for Paris.", tools=[asked.TOOL], stream=True, max_tokens=200)
    answer = await target.ask(CHAT, body)
    if answer.status == 400 and "tools" in answer.text:
        target.skip("the model does not know tools")
    calls = [call for delta in answer.expect(200).stream().deltas() for call in delta.get("tool_calls") or ()]
    if not calls:
        target.skip("the model called no tool")
    check.equal(len(calls), 1, "the number of deltas with a tool call")
    json.loads(check.member(calls[0], "function.arguments", "the tool call"))


# --- what it drops ----------------------------------------------------------------------------------------------------


@PROFILE.case("drops.n", "n is dropped without a word: an adapter has to refuse it", source=_OPENAI, level=Level.INFO)
async def drops_n(target: Target) -> None:
    check.equal(len(check.member(await target.chatted(n=2), "choices")), 1, "the number of choices")


@PROFILE.case(
    "drops.max_completion_tokens", "max_completion_tokens is dropped: an adapter has to rename it", source=_OPENAI,
    level=Level.INFO,
)  # fmt: skip
async def drops_limit(target: Target) -> None:
    with_limit = await target.chatted("Count to twelve.", max_completion_tokens=1, max_tokens=6)
    made = check.member(with_limit, "usage.completion_tokens")
    check.true(made > 1, "max_completion_tokens is heeded now: no adapter has to rename it", "more than 1 token", made)


@PROFILE.case("drops.tool_choice", "tool_choice is dropped: an adapter refuses it", source=_OPENAI, level=Level.INFO)
async def drops_tool_choice(target: Target) -> None:
    answer = await target.ask(
        CHAT, target.chat("Say hello.", tools=[asked.TOOL], tool_choice="required", max_tokens=24)
    )
    if answer.status == 400 and "tools" in answer.text:
        target.skip("the model does not know tools")
    message = check.member(answer.expect(200).json, "choices.0.message")
    check.true(not message.get("tool_calls"), "a tool was called as tool_choice demanded", "no call", message)


@PROFILE.case("drops.prompt", "A prompt longer than the context loses its beginning", source=_ROUTES, level=Level.INFO)
async def drops_prompt(target: Target) -> None:
    await target.chatted(max_tokens=2)
    lengths = [each.get("context_length") for each in await _loaded(target) if each.get("name") == _tagged(target)]
    if not lengths or not isinstance(lengths[0], int) or lengths[0] > _LONGEST_CONTEXT:
        target.skip("the context length is not told, or too long for a request")
    answer = await target.ask(CHAT, target.chat("word " * (lengths[0] + 64), max_tokens=2))
    check.at_most(check.member(answer.expect(200).json, "usage.prompt_tokens"), lengths[0], "prompt_tokens")


# --- refusals ---------------------------------------------------------------------------------------------------------


@PROFILE.case("error.unknown-model", "A model that is not there is 404 and says so", source=_OPENAI)
async def unknown_model(target: Target) -> None:
    answer = (await target.ask(CHAT, target.chat(model=asked.UNKNOWN))).expect(404)
    check.matches(asked.errors_of(answer).get("message", ""), NO_MODEL, "the message")


@PROFILE.case("error.no-route", "A path that is not served is 404 and says no more", source=_ROUTES)
async def no_route(target: Target) -> None:
    await asked.no_route(target)


@PROFILE.case("error.shape", "Errors are OpenAI's, with a null code", source=_OPENAI, level=Level.SHOULD)
async def error_shape(target: Target) -> None:
    error = (await target.ask(CHAT, target.chat(messages=[]))).expect(400).error
    check.kind(error.get("message"), str, "the error's message")
    check.kind(error.get("type"), str, "the error's type")
    check.equal(error.get("code"), None, "the error's code")


@PROFILE.case("error.native", "Native errors are a text", source=_ROUTES, level=Level.INFO)
async def native_error(target: Target) -> None:
    body = {"model": asked.UNKNOWN, "messages": [{"role": "user", "content": "Hello"}]}
    answer = (await target.ask("/api/chat", body)).expect(404)
    check.matches(check.member(answer.json, "error"), NO_MODEL, "the error")
