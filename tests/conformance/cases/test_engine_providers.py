"""Providers' profiles: every case passes on a simulated provider that is well, and notices one that is broken."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import pytest

from conformance.cases.engines import anthropic, deepseek, gemini, huggingface, openai
from conformance.engines import Mutation, Settings
from tests.conformance.cases import playing
from tests.conformance.cases.playing import KEY, Broken, Stage, answers, at, chunks, document, request

CHAT, MESSAGES, GEMINI = "/v1/chat/completions", "/v1/messages", "/v1beta/openai/chat/completions"
MODEL = "org/reasoner"


def settings(model: str = MODEL, **more: Any) -> Settings:
    return Settings(models=(model,), api_key=KEY, itl=0.001, **more)


STAGES = {
    "openai": Stage(openai.PROFILE, "openai", settings("plain")),
    "deepseek": Stage(deepseek.PROFILE, "deepseek", settings()),
    "gemini": Stage(gemini.PROFILE, "gemini", settings(), root="/v1beta/openai"),
    "huggingface": Stage(huggingface.PROFILE, "huggingface", settings()),
    "anthropic": Stage(anthropic.PROFILE, "anthropic", settings()),
}
SKIPPED: Mapping[str, Mapping[str, str]] = {}


def headers(path: str, change: Callable[[bytes, bytes], tuple[bytes, bytes] | None]) -> Broken:
    """Every header field is another, or none."""
    return at(path, Mutation(headers=lambda fields: tuple(filter(None, (change(n, v) for n, v in fields)))))


def without(path: str, name: bytes) -> Broken:
    return headers(path, lambda n, v: None if n == name else (n, v))


def valued(path: str, name: bytes, value: bytes) -> Broken:
    return headers(path, lambda n, v: (n, value if n == name else v))


def usage(change: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, Any]], None]:
    """Of an answer or a chunk, its usage is another."""

    def changed(body: dict[str, Any]) -> None:
        if body.get("usage"):
            change(body["usage"])

    return changed


def only(kind: str, change: Callable[[dict[str, Any]], Any]) -> Mutation:
    """Events of one type are others."""

    def changed(event: dict[str, Any]) -> None:
        if event.get("type") == kind:
            change(event)

    return chunks(changed)


def deltas(change: Callable[[dict[str, Any]], Any]) -> Mutation:
    def changed(chunk: dict[str, Any]) -> None:
        for choice in chunk.get("choices", ()):
            change(choice.get("delta", {}))

    return chunks(changed)


def calls(change: Callable[[dict[str, Any]], Any]) -> Mutation:
    return deltas(lambda delta: [change(call) for call in delta.get("tool_calls", ())])


def reordered(events: list[bytes]) -> list[bytes]:
    """A thought comes last."""
    first = next(event for event in events if b'"reasoning_content":"' in event)
    return [*events[:-1], first, events[-1]]


def falling() -> Mutation:
    counts = itertools.count(1000, -1)
    return chunks(usage(lambda found: found.update(total_tokens=next(counts))))


def renamed(old: str, new: str) -> Mutation:
    return deltas(lambda delta: delta.update({new: delta.pop(old)}) if old in delta else None)


def dropped(*names: str) -> Callable[[dict[str, Any]], Any]:
    return lambda found: [found.pop(name, None) for name in names]


def set_to(**members: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda found: found.update(members)


def finish(reason: str) -> Mutation:
    return document(lambda answer: answer["choices"][0].update(finish_reason=reason) if "choices" in answer else None)


def finishes(reason: str) -> Mutation:
    def change(chunk: dict[str, Any]) -> None:
        for choice in chunk["choices"]:
            if choice.get("finish_reason"):
                choice["finish_reason"] = reason

    return chunks(change)


def thinks_aloud(delta: dict[str, Any]) -> None:
    if "reasoning" in delta:
        delta["content"] = "<think>" + delta.pop("reasoning")


def chosen(body: dict[str, Any]) -> None:
    body["model"] = body["model"].replace(":cheapest", ":none")


def text_blocks(events: list[bytes]) -> list[bytes]:
    return [event.replace(b'"index":0', b'"index":3') if b"content_block_stop" in event else event for event in events]


ACCEPTS = answers(200, msgspec.json.encode({"choices": []}))

BROKEN = {
    "openai.key": at(CHAT, Mutation(status=403)),
    "openai.ration": without(CHAT, b"x-ratelimit-remaining-requests"),
    "openai.ration.spent": valued(CHAT, b"x-ratelimit-remaining-requests", b"7"),
    "openai.key.code": at(CHAT, document(lambda body: body["error"].update(code=None))),
    "openai.request-id": valued(CHAT, b"x-request-id", b"always-the-same"),
    "openai.unknown-member": at(CHAT, document(lambda body: body.get("error", {}).update(param=None))),
    "openai.limit": at(CHAT, document(usage(set_to(completion_tokens=99)))),
    "openai.usage.details": at(CHAT, document(usage(dropped("completion_tokens_details")))),
    "openai.usage.null": at(CHAT, chunks(lambda chunk: chunk.pop("usage") if chunk.get("usage") is None else None)),
    "openai.usage.cached": at(CHAT, document(usage(lambda u: u["prompt_tokens_details"].update(cached_tokens=0)))),
    "openai.error.context": at(CHAT, document(lambda body: body.get("error", {}).update(code="too_long"))),
    "openai.error.model": at(CHAT, document(lambda body: body.get("error", {}).update(code=None))),
    "deepseek.key": at(CHAT, Mutation(status=200)),
    "deepseek.models": at("/v1/models", document(set_to(data=[]))),
    "deepseek.limit": at(CHAT, finish("stop")),
    "deepseek.usage.cache": at(CHAT, document(usage(set_to(prompt_cache_hit_tokens=1000)))),
    "deepseek.usage.stream": at(CHAT, chunks(usage(dropped("prompt_cache_miss_tokens")))),
    "deepseek.usage.hit": at(CHAT, document(usage(set_to(prompt_cache_hit_tokens=0)))),
    "deepseek.reasoning": at(CHAT, Mutation(events=reordered)),
    "deepseek.error.model": at(CHAT, answers(404, b'"no"')),
    "deepseek.no-v1": at("/chat/completions", answers(404)),
    "gemini.key": at(GEMINI, Mutation(status=500)),
    "gemini.models": at("/v1beta/openai/models", document(lambda body: body["data"][0].update(id="plain"))),
    "gemini.model.plain": at(GEMINI, request(set_to(model="another"))),
    "gemini.error.shape": at(GEMINI, document(lambda body: body[0]["error"].pop("status"))),
    "gemini.error.list": at(GEMINI, document(lambda body: body[0])),
    "gemini.unknown-member": at(GEMINI, request(dropped("no_such_member_8c1d"))),
    "gemini.usage": at(GEMINI, chunks(usage(set_to(total_tokens=1)))),
    "gemini.usage.cumulative": at(GEMINI, falling()),
    "gemini.thoughts": at(GEMINI, document(usage(set_to(completion_tokens_details={"reasoning_tokens": 3})))),
    "gemini.tools": at(GEMINI, calls(lambda call: call["function"].update(arguments="{"))),
    "gemini.tools.index": at(GEMINI, calls(set_to(index=0))),
    "gemini.tools.finish": at(GEMINI, finishes("tool_calls")),
    "gemini.tools.signature": at(GEMINI, calls(dropped("extra_content"))),
    "huggingface.key": at(CHAT, Mutation(status=500)),
    "huggingface.models": at("/v1/models", document(lambda body: body["data"][0].update(id="plain"))),
    "huggingface.suffix": at(CHAT, request(chosen)),
    "huggingface.provider": without(CHAT, b"x-inference-provider"),
    "huggingface.usage": at(CHAT, chunks(dropped("usage"))),
    "huggingface.reasoning": at(CHAT, deltas(thinks_aloud)),
    "huggingface.error.model": at(CHAT, document(set_to(error="no"))),
    "huggingface.chats-only": at("/v1/embeddings", answers(200)),
    "anthropic.key": at(MESSAGES, Mutation(status=403)),
    "anthropic.ration": valued(MESSAGES, b"anthropic-ratelimit-requests-reset", b"60s"),
    "anthropic.ration.spent": valued(MESSAGES, b"anthropic-ratelimit-requests-remaining", b"7"),
    "anthropic.message": at(MESSAGES, document(set_to(content=[]))),
    "anthropic.usage": at(MESSAGES, document(usage(dropped("cache_read_input_tokens")))),
    "anthropic.limit": at(MESSAGES, document(set_to(stop_reason="end_turn"))),
    "anthropic.limit.required": at(MESSAGES, request(set_to(max_tokens=8))),
    "anthropic.system": at(MESSAGES, request(dropped("system"))),
    "anthropic.unknown-member": at(MESSAGES, request(dropped("no_such_member_8c1d"))),
    "anthropic.count": at(f"{MESSAGES}/count_tokens", document(set_to(input_tokens=500))),
    "anthropic.models": at("/v1/models", document(lambda body: body["data"][0].update(type="engine"))),
    "anthropic.stream": at(MESSAGES, Mutation(events=lambda events: [*events, b"data: [DONE]\n\n"])),
    "anthropic.stream.names": at(MESSAGES, only("message_stop", set_to(type="message_end"))),
    "anthropic.stream.blocks": at(MESSAGES, Mutation(events=text_blocks)),
    "anthropic.stream.usage": at(MESSAGES, only("message_delta", lambda event: event["usage"].update(output_tokens=0))),
    "anthropic.tools": at(MESSAGES, document(set_to(stop_reason="end_turn"))),
    "anthropic.tools.stream": at(
        MESSAGES, only("content_block_delta", lambda event: event["delta"].pop("partial_json", None))
    ),
    "anthropic.tools.result": at(
        MESSAGES, document(lambda body: [block.update(id="toolu_no") for block in body["content"] if "id" in block])
    ),
    "anthropic.version": at(MESSAGES, Mutation(status=500)),
    "anthropic.error.model": at(MESSAGES, document(lambda body: body["error"].update(type="model_error"))),
    "anthropic.request-id": without(MESSAGES, b"request-id"),
    "anthropic.error.context": at(MESSAGES, document(lambda body: body.get("error", {}).update(message="no"))),
}  # fmt: skip


def stage(case: str) -> Stage:
    return STAGES[case.partition(".")[0]]


@pytest.mark.parametrize("engine", STAGES)
def test_a_well_provider_conforms(engine: str) -> None:
    playing.well(STAGES[engine].play(), SKIPPED.get(engine, {}))


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_provider_is_noticed(case: str) -> None:
    playing.noticed(stage(case), case, BROKEN[case])


@pytest.mark.parametrize("engine", STAGES)
def test_every_case_can_fail(engine: str) -> None:
    playing.covers(STAGES[engine].profile, [case for case in BROKEN if case.startswith(f"{engine}.")])
