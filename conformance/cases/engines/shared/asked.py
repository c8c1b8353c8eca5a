"""Questions that several engines are asked alike; what is expected of the answer is each profile's to say. (T)"""

from __future__ import annotations

import re
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import trio

from conformance.cases.engines.shared.held import context_length
from conformance.suite import check
from conformance.suite.answer import Answer
from conformance.suite.sse import Event
from conformance.suite.target import CHAT, MODELS, Target

_IDLE_S = 2.0
"""Shorter than any engine keeps an idle connection: uvicorn's 5 s are the shortest."""
_LONGEST_CONTEXT = 200_000
UNKNOWN = "no-such-model-9f3a"
CHOICE = "zzqy-17"
"""A word that no model says by itself."""


class LoraPaths(NamedTuple):
    """Where LoRAs come and go at run time."""

    load: str
    unload: str


TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


async def cards(target: Target) -> list[dict[str, Any]]:
    """What ``/v1/models`` lists."""
    answer = await target.ask(MODELS)
    listed = check.member(answer.expect(200).json, "data", "the list of models")
    return [check.kind(card, dict, "a model's card") for card in check.kind(listed, list, "data")]


async def card(target: Target, name: str) -> dict[str, Any]:
    """The card of one model. A Failure if it is not listed."""
    found = await cards(target)
    for each in found:
        if each.get("id") == name:
            return each
    raise check.Failure(f"{name} is not listed", name, [each.get("id") for each in found])


async def too_long(target: Target, **members: Any) -> Answer:
    """The answer to a prompt that is longer than the context. Skips where nobody says how long that is."""
    context = await context_length(target)
    if context is None:
        target.skip("the server does not tell its context length")
    if context > _LONGEST_CONTEXT:
        target.skip(f"a prompt for a context of {context} tokens is not sent")
    return await target.ask(CHAT, target.chat("word " * (context + 64), **members))


async def idle(target: Target) -> None:
    """A connection that has been idle for two seconds takes another request."""
    async with target.connect() as connection:
        for wait in (_IDLE_S, 0.0):
            (await target.ask(CHAT, target.chat(max_tokens=2), on=connection)).expect(200)
            check.true(connection.reusable, "the server does not keep the connection open after an answer")
            await _undisturbed(connection.silence, wait)


async def _undisturbed(silence: Any, seconds: float) -> None:
    with trio.move_on_after(seconds) as scope:
        await silence()
    closed = not scope.cancelled_caught and seconds > 0
    check.true(not closed, f"an idle connection was closed within {seconds:g} s", "open", "closed")


NO_ROUTE = r"(404:? )?((file|page) )?not found\.?"
"""What web frameworks say of a path they do not serve: of a model that is missing, engines say more."""


async def no_route(target: Target) -> None:
    """A path that is not served is 404, and what is said of it is not what is said of a missing model."""
    answer = await target.ask("/v1/no-such-route", {"model": target.setup.model})
    text = said(answer.expect(404))
    if text:
        check.matches(text, f"^{NO_ROUTE}$", "what is said of a path that is not served")


def said(answer: Answer) -> str:
    """The message of an error, whatever its shape."""
    if answer.media_type != "application/json":
        return answer.text
    error = check.kind(answer.json, dict, "the error's body")
    inner = error.get("error", error)
    return str(inner.get("message") or inner.get("detail") or "") if isinstance(inner, dict) else str(inner)


async def unconstrained(target: Target, name: str, value: Any) -> None:
    """A member that should constrain the answer to `CHOICE` is dropped: neither refused nor heeded."""
    answer = await target.ask(CHAT, target.chat("Say anything.", **{name: value}, max_tokens=6))
    if answer.status in (400, 422):
        check.fail(f"{name} is refused now: no gateway has to do that any more", "200, unconstrained", answer.text)
    text = check.member(answer.expect(200).json, "choices.0.message.content") or ""
    heeded = CHOICE.startswith(text.strip()[: len(CHOICE)]) and bool(text.strip())
    check.true(not heeded, f"{name} is heeded now: a gateway that refuses it refuses too much", "any text", text)


async def named_events(target: Target, text: str = "Say hello.") -> list[Event]:
    """The events of a streamed request to Anthropic's ``/v1/messages``. Skips where that is not offered."""
    body = {"model": target.setup.model, "max_tokens": 6, "stream": True}
    answer = await target.ask("/v1/messages", {**body, "messages": [{"role": "user", "content": text}]})
    target.may_refuse(answer).expect(200)
    return answer.stream().events


async def messages_stream(target: Target) -> None:
    """Events of ``/v1/messages`` begin with message_start and end with message_stop; vLLM 0.12 adds a [DONE]."""
    events = await named_events(target)
    if events and events[-1].data == "[DONE]":
        target.note("[DONE] follows message_stop")
        events = events[:-1]
    names = [event.name for event in events]
    check.equal(names[:1], ["message_start"], "the first event")
    check.contains(names, "content_block_delta", "the list of events")
    check.equal(names[-1:], ["message_stop"], "the last event")


@asynccontextmanager
async def loaded(target: Target, paths: LoraPaths) -> AsyncIterator[str]:
    """A LoRA loaded at run time, under a name of its own, and unloaded in the end. Skips where that is switched off."""
    name = f"conformance-{secrets.token_hex(4)}"
    answer = await target.ask(paths.load, {"lora_name": name, "lora_path": target.setup.lora_path})
    if answer.status == 404 and re.fullmatch(NO_ROUTE, said(answer), re.IGNORECASE):
        target.skip("loading LoRAs at run time is switched off")
    answer.expect(200)
    try:
        yield name
    finally:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 5):
            gone = await target.ask(paths.unload, {"lora_name": name})
    gone.expect(200)


@asynccontextmanager
async def lora(target: Target, paths: LoraPaths) -> AsyncIterator[str]:
    """The name of a LoRA that is there: the one named on the command line if it is listed, else one that is loaded."""
    named = target.setup.lora.rpartition(":")[2]
    if named and any(card.get("id") in (named, target.setup.lora) for card in await cards(target)):
        yield named
    elif target.setup.lora_path:
        async with loaded(target, paths) as name:
            yield name
    else:
        target.skip("needs --lora, of one that is loaded, or --lora-path")


async def loading(target: Target, paths: LoraPaths) -> None:
    """A LoRA that is loaded at run time is listed and answers; unloaded it is gone from the list at once."""
    async with loaded(target, paths) as name:
        await has_parent(target, name)
    listed = [each.get("id") for each in await cards(target)]
    check.true(name not in listed, "a LoRA that was unloaded is still listed", f"no {name}", listed)
    again = await target.ask(paths.unload, {"lora_name": name})
    check.true(again.status in (400, 404), "unloading an unknown LoRA is no error", "400 or 404", again.status)


async def has_parent(target: Target, lora: str) -> dict[str, Any]:
    """The card of a LoRA, which names its base model as parent."""
    found = await card(target, lora)
    parent = check.kind(found.get("parent"), str, f"the parent of {lora}")
    check.contains([each.get("id") for each in await cards(target)], parent, "the list of models")
    return found


async def reranked(target: Target) -> Any:
    """The answer of ``/v1/rerank``. Skips where the model cannot do that."""
    body = {"model": target.setup.model, "query": "a red fruit", "documents": ["an apple", "a stone", "a red cherry"]}
    answer = await target.ask("/v1/rerank", body)
    if answer.status in (400, 404, 405, 422, 501):
        target.skip(f"this model does not rerank ({answer.status})")
    ranked = answer.expect(200).json
    if isinstance(ranked, dict) and "error" in ranked:  # vLLM 0.12 refuses with 200
        target.skip(f"this model does not rerank: {said(answer)}")
    return ranked


async def delay_of_data(target: Target) -> float:
    """Seconds between the head of a stream and its first bytes."""
    async with target.open(CHAT, target.chat("Say hello. " * 20, stream=True)) as answer:
        await answer.chunk()
        first = trio.current_time()
        answer.expect(200)
        return first - answer.began


def errors_of(answer: Answer) -> dict[str, Any]:
    """The error object of a body: nested under ``error``, or the body itself."""
    body = check.kind(answer.json, dict, "the error's body")
    inner = body.get("error", body)
    return check.kind(inner, dict, "the error")
