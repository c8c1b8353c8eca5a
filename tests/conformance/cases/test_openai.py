"""Every case of the `openai` profile passes on an engine that is well, and fails on one that is broken so."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import count
from typing import Any

import pytest
import trio

from conformance.cases import profile
from conformance.engines import Mutation, Seen
from tests.conformance.cases.playing import (
    KEY,
    MODEL,
    WELL,
    Broken,
    Change,
    Stage,
    answers,
    at,
    chunks,
    covers,
    document,
    handled,
    noticed,
    request,
    well,
)

PROFILE = profile("openai")
STAGE = Stage(PROFILE, "openai")
CHAT, TEXT, EMBED, MODELS, RESPONSES = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/models",
    "/v1/responses",
)
SKIPPED = {"openai.others.rerank": "not offered", "openai.others.tokenize": "not offered"}
NOTED = {"openai.stream.cache-headers"}


# -- what may be wrong ----------------------------------------------------------------------------------------------


def put(path: str, value: Any) -> Change:
    """A member is another, wherever it is; ``value`` may be a function of what it was."""

    def change(found: Any) -> None:
        *steps, last = [int(step) if step.isdigit() else step for step in path.split(".")]
        try:
            for step in steps:
                found = found[step]
            old = found[last] if isinstance(last, int) else found.get(last)
            found[last] = value(old) if callable(value) else value
        except (KeyError, IndexError, TypeError, AttributeError):
            pass

    return change


def drop(path: str) -> Change:
    def change(found: Any) -> None:
        *steps, last = [int(step) if step.isdigit() else step for step in path.split(".")]
        try:
            for step in steps:
                found = found[step]
            del found[last]
        except (KeyError, IndexError, TypeError):
            pass

    return change


def whole(path: str, member: str, value: Any) -> Broken:
    """A member of a whole answer."""
    return at(path, document(put(member, value)))


def less(path: str, member: str) -> Broken:
    """A member of a whole answer is missing."""
    return at(path, document(drop(member)))


def chunk(member: str, value: Any, path: str = CHAT) -> Broken:
    """A member of every chunk."""
    return at(path, chunks(put(member, value)))


def events(change: Callable[[list[bytes]], list[bytes]], path: str = CHAT) -> Broken:
    """The events of a stream."""
    return at(path, Mutation(events=change))


def ignored(member: str, path: str = CHAT) -> Broken:
    """The engine does not see a member of the request."""
    return at(path, request(drop(member)))


def fields(change: Callable[[dict[bytes, bytes]], dict[bytes, bytes]], path: str = CHAT, **how: Any) -> Broken:
    """The header fields of an answer."""
    return at(path, Mutation(headers=lambda found: tuple(change(dict(found)).items())), **how)


def refused(status: int, when: Callable[[Seen], object] = lambda seen: True, path: str = CHAT) -> Broken:
    return at(path, answers(status), when=when)


def asks(text: bytes) -> Callable[[Seen], bool]:
    return lambda seen: text in seen.body


def lenient(path: str = CHAT) -> Broken:
    """Whatever is asked for, the engine sees a good request."""
    good = {"model": MODEL, "messages": [{"role": "user", "content": "Hi."}], "prompt": "Hi.", "input": "Hi."}
    keep = ("model", "messages") if path == CHAT else ("model", "prompt") if path == TEXT else ("model", "input")
    return at(path, Mutation(request=lambda body: json.dumps({name: good[name] for name in keep}).encode()))


def error(member: str, value: Any, path: str = CHAT) -> Broken:
    return whole(path, f"error.{member}", value)


def failing_after(number: int, when: Callable[[Seen], object]) -> Broken:
    """Every request is refused once so many of a kind have come: what they left behind broke the engine."""
    seen = count(1)
    state = {"seen": 0}

    def mutate(found: Seen) -> Mutation | None:
        if when(found):
            state["seen"] = next(seen)
            return None
        return answers(500) if state["seen"] >= number else None

    return Broken(mutate)


def once(change: Callable[[int], Change]) -> Broken:
    """Each chunk is changed by its number."""
    numbers = count()
    return at(CHAT, chunks(lambda found: change(next(numbers))(found)))


def numbered(member: str) -> Broken:
    """A member has another value in every chunk."""
    return once(lambda number: put(member, number if member == "created" else str(number)))


def _insert(where: int, *raw: bytes) -> Callable[[list[bytes]], list[bytes]]:
    return lambda found: [*found[:where], *raw, *found[where:]]


def _swapped(old: bytes, new: bytes) -> Callable[[list[bytes]], list[bytes]]:
    return lambda found: [event.replace(old, new) for event in found]


def _without(text: bytes) -> Callable[[list[bytes]], list[bytes]]:
    return lambda found: [event for event in found if text not in event]


async def _never_closing(well: Any, exchange: Any) -> None:
    await well(exchange)
    if dict(exchange.request.headers).get(b"connection") == b"close" or exchange.request.http10:
        await trio.sleep_forever()


async def _cutting(well: Any, exchange: Any) -> None:
    if len(exchange.request.body) > 1_000_000:
        exchange.abort()
    else:
        await well(exchange)


EXTRA = b'data: {"id":"x","object":"chat.completion.chunk","created":1,"model":"m","choices":[]}\n\n'
FINISH = "choices.0.finish_reason"
CALL = "choices.0.message.tool_calls"
DELTA = "choices.0.delta"
NUMBERS = count()
NO_KEY = Broken(settings={"api_key": ""}, setup={"key": KEY})
CLOSE = fields(lambda found: {**found, b"connection": b"close"})


BODIES: dict[str, Broken] = {
    "chunked": refused(411, lambda seen: (b"transfer-encoding", b"chunked") in seen.headers),
    "in-pieces": at(CHAT, Mutation(request=lambda body: body[:9])),
    "expect": refused(417, lambda seen: any(name == b"expect" for name, _ in seen.headers)),
    "large": handled(_cutting),
    "charset": refused(415, lambda seen: (b"content-type", b"application/json; charset=utf-8") in seen.headers),
    "other-type": refused(500, lambda seen: (b"content-type", b"text/plain") in seen.headers),
    "header-names": refused(400),
    "many-headers": refused(431, lambda seen: len(seen.headers) > 30),
    "query": refused(404),
    "compressed-answer": fields(lambda found: {**found, b"content-encoding": b"gzip"}),
    "accept": refused(406, lambda seen: (b"accept", b"text/event-stream") in seen.headers),
}

CHATS: dict[str, Broken] = {
    "shape": whole(CHAT, FINISH, "eos_token"),
    "content-type": fields(lambda found: {**found, b"content-type": b"text/plain"}),
    "ids": whole(CHAT, "id", "chatcmpl-1"),
    "created": whole(CHAT, "created", lambda was: was * 1000),
    "model": whole(CHAT, "model", "/models/whatever.gguf"),
    "required-members": less(CHAT, "choices.0.message.refusal"),
    "usage": whole(CHAT, "usage.total_tokens", 1),
    "usage-grows": whole(CHAT, "usage.prompt_tokens", 7),
    "choice": whole(CHAT, "choices.0.index", 1),
    "no-tools-no-calls": whole(CHAT, FINISH, "tool_calls"),
    "stream-false": at(CHAT, request(put("stream", True))),
    "repeats": whole(CHAT, "choices.0.message.content", lambda was: f"{was}{next(NUMBERS)}"),
}

STREAMS: dict[str, Broken] = {
    "content-type": fields(lambda found: {**found, b"content-type": b"text/plain"}),
    "shape": at(CHAT, chunks(drop(DELTA))),
    "required-members": at(CHAT, chunks(lambda found: drop(FINISH)(found) if found["choices"] else None)),
    "role-first": at(CHAT, chunks(drop(f"{DELTA}.role"))),
    "role-once": chunk(f"{DELTA}.role", "assistant"),
    "same-id": numbered("id"),
    "id": chunk("id", ""),
    "same-created": numbered("created"),
    "same-model": chunk("model", "other"),
    "finish-once": chunk(FINISH, None),
    "finish-last": events(lambda found: [*found[:-2], found[-3], found[-2], found[-3], found[-1]]),
    "finish-empty": chunk(f"{DELTA}.content", "text"),
    "done": events(lambda found: found[:-1]),
    "done-exact": events(_swapped(b"[DONE]", b"[DONE] ")),
    "data-only": events(_insert(1, b"event: ping\n\n")),
    "one-line": events(_swapped(b'"choices"', b'\ndata: "choices"')),
    "whole-events": at(CHAT, Mutation(body=lambda body: body[:-1])),
    "same-text": events(lambda found: [*found[:2], *found[3:]]),
    "arrives-over-time": Broken(lambda seen: Mutation(), settings={"itl": 0.005}),
    "utf8": events(_swapped(b'content":" ', b'content":"\xe6\x97')),
    "accept-json": at(
        CHAT, request(drop("stream")), when=lambda seen: (b"accept", b"application/json") in seen.headers
    ),
    "not-compressed": fields(lambda found: {**found, b"content-encoding": b"gzip"}),
    "cache-headers": WELL,
    "usage": events(lambda found: [*found[:-2], found[-1]]),
    "usage-once": events(lambda found: [*found[:-2], found[-2], *found[-2:]]),
    "usage-null-elsewhere": at(CHAT, chunks(lambda found: found if found.get("usage") else drop("usage")(found))),
    "usage-unasked": events(_insert(-1, EXTRA)),
    "usage-false": at(CHAT, request(put("stream_options.include_usage", True))),
    "usage-only-when-asked": chunk("usage", {"prompt_tokens": 1}),
    "usage-same": chunk("usage.prompt_tokens", 1),
    "options-alone": refused(500, lambda seen: b"stream_options" in seen.body),
}


CONNECTIONS: dict[str, Broken] = {
    "reuse": CLOSE,
    "after-error": fields(lambda found: {**found, b"connection": b"close"}, when=asks(b"no list")),
    "after-stream": fields(lambda found: {**found, b"connection": b"close"}, when=asks(b'"stream"')),
    "close": handled(_never_closing),
    "stray-method": at(MODELS, answers(500), "OPTIONS"),
    "http10": handled(_never_closing),
    "request-id": fields(lambda found: {n: v for n, v in found.items() if n != b"x-request-id"}),
    "request-id-errors": fields(lambda found: {n: v for n, v in found.items() if n != b"x-request-id"}),
    "request-id-own": fields(lambda found: {**found, b"x-request-id": b"req_1"}),
}

CROWDS: dict[str, Broken] = {
    "streams": numbered("id"),
    "not-mixed-up": chunk(f"{DELTA}.content", "somebody else's"),
    "leaving": failing_after(8, asks(b'"max_tokens": 200')),
    "leaving-early": failing_after(8, asks(b'"max_tokens": 200')),
    "not-reading": at(CHAT, Mutation(events=lambda found: found[:-2]), when=asks(b'"max_tokens": 100')),
    "half-a-request": refused(503),
}

PROMPTS: dict[str, Broken] = {
    "system": whole(CHAT, "usage.prompt_tokens", 9),
    "developer": refused(500, asks(b"developer")),
    "turns": at(CHAT, request(put("messages", lambda was: was[:1]))),
    "parts": at(CHAT, request(put("messages.0.content", lambda was: was if isinstance(was, str) else was[:1]))),
    "name": refused(500, asks(b"alice")),
    "many-messages": refused(413),
    "image": refused(500, asks(b"image_url")),
    "empty-content": refused(500),
    "unicode": refused(400, asks("日本語".encode())),
    "unicode-stream": at(CHAT, Mutation(events=lambda found: found[:-2]), when=asks("日本語".encode())),
    "escapes": at(CHAT, request(put("messages.0.content", "Hi.")), when=asks(rb"\ud83d")),
}

ERRORS: dict[str, Broken] = {
    "envelope": at(CHAT, document(lambda found: found["error"])),
    "shape": error("code", 400),
    "shape-json": less(CHAT, "error.param"),
    "shape-model": error("type", None),
    "shape-path": whole("/v1/no-such-path", "error.code", 404),
    "shape-completions": error("code", 400, TEXT),
    "param": error("param", None),
    "message": error("message", "wrong"),
    "key-missing": NO_KEY,
    "key-wrong": NO_KEY,
    "key-shape": error("code", 401),
    "key-hidden": at(CHAT, Mutation(body=lambda body: body + b"sk-of-nobody-at-all")),
    "key-before-body": refused(400, lambda seen: seen.body == b"{"),
    "types-survived": refused(500, asks(b'"hammer"')),
    "unknown-model-code": error("code", "not_found"),
    "context": refused(500),
    "context-code": error("code", "invalid_value"),
    "path": at("/v1/no-such-path", answers(200)),
    "method": at(CHAT, answers(500), "GET"),
    "deep": refused(500, asks(b"[[[[")),
    "stream-status": fields(lambda found: {**found, b"content-type": b"text/event-stream"}),
    **dict.fromkeys(
        (
            *("not-json", "not-object", "no-body", "not-utf8", "no-messages", "empty-messages", "messages-type"),
            *("role", "no-role", "content-type", "part-type", "types", "max-tokens", "n", "temperature-negative"),
            *("top-p", "ranges", "huge-numbers", "unknown-model", "unknown-model-stream", "no-model", "model-type"),
        ),
        lenient(),
    ),
}

PARAMETERS: dict[str, Broken] = {
    "n.whole": ignored("n"),
    "n.usage": whole(CHAT, "usage.completion_tokens", 6),
    "n.stream": at(CHAT, chunks(put("choices.0.index", 0))),
    "logprobs.whole": ignored("logprobs"),
    "logprobs.top": ignored("top_logprobs"),
    "logprobs.stream": chunk("choices.0.logprobs", None),
    "logprobs.unasked": at(CHAT, request(put("logprobs", True))),
    "parameters.seed": CHATS["repeats"],
    "parameters.sampling": refused(500, asks(b"logit_bias")),
    "parameters.harmless": refused(400, asks(b"verbosity")),
    "parameters.unknown": refused(500, asks(b"x_unknown")),
    "parameters.null": refused(400, asks(b"null")),
    "parameters.sdk-headers": refused(400, lambda seen: any(n.startswith(b"x-stainless") for n, _ in seen.headers)),
    "limits.max-tokens": ignored("max_tokens"),
    "limits.max-completion-tokens": ignored("max_completion_tokens"),
    "limits.one-token": ignored("max_tokens"),
    "limits.finish-length": whole(CHAT, FINISH, "stop"),
    "limits.stream": ignored("max_tokens"),
    "limits.stop": ignored("stop"),
    "limits.stop-list": ignored("stop"),
    "limits.stop-stream": ignored("stop"),
    "formats.text": refused(500),
    "formats.json-object": whole(CHAT, "choices.0.message.content", "Sure! {}"),
    "formats.json-schema": at(CHAT, request(put("response_format", {"type": "json_object"}))),
    "formats.stream": at(CHAT, request(put("response_format", {"type": "json_object"}))),
    "formats.unknown": ignored("response_format"),
    "formats.bad-schema": refused(500),
}

TOOLS: dict[str, Broken] = {
    "required": whole(CHAT, CALL, None),
    "named": whole(CHAT, f"{CALL}.0.function.arguments", {"city": "Paris"}),
    "ids": whole(CHAT, f"{CALL}.0.id", "0"),
    "auto": whole(CHAT, FINISH, "stop"),
    "default": refused(500),
    "none": at(CHAT, request(put("tool_choice", "required"))),
    "parallel": whole(CHAT, CALL, lambda was: was and [*was, *was]),
    "stream": chunk(f"{DELTA}.tool_calls.0.function.arguments", "x"),
    "stream-opening": chunk(f"{DELTA}.tool_calls.0.id", "call_1"),
    "stream-indices": chunk(f"{DELTA}.tool_calls.0.index", 1),
    "stream-named": at(CHAT, chunks(put(f"{DELTA}.tool_calls.0.function.name", lambda was: was and "other"))),
    "results": refused(500),
    "results-null-content": refused(400, lambda seen: b'"content": null' in seen.body),
    "unknown-name": at(CHAT, request(put("tool_choice", "required"))),
    "empty": refused(500),
}

TEXTS: dict[str, Broken] = {
    "shape": whole(TEXT, FINISH, "eos_token"),
    "usage": ignored("max_tokens", TEXT),
    "stream": chunk(FINISH, "", TEXT),
    "stream-end": events(lambda found: found[:-1], TEXT),
    "stream-usage": ignored("stream_options", TEXT),
    "stream-usage-unasked": events(_insert(-1, EXTRA), TEXT),
    "same-text": chunk("choices.0.text", "x", TEXT),
    "prompts": at(TEXT, request(put("prompt", "One"))),
    "prompts-stream": chunk("choices.0.index", 0, TEXT),
    "n": ignored("n", TEXT),
    "token-ids": whole(TEXT, "usage.prompt_tokens", 5),
    "echo": ignored("echo", TEXT),
    "logprobs": ignored("logprobs", TEXT),
    "stop": ignored("stop", TEXT),
    "suffix": refused(500, path=TEXT),
    "no-prompt": lenient(TEXT),
}

EMBEDDINGS: dict[str, Broken] = {
    "shape": whole(EMBED, "data.0.object", "vector"),
    "usage": whole(EMBED, "usage.prompt_tokens", 3),
    "several": at(EMBED, document(put("data", lambda was: was[:1]))),
    "base64": ignored("encoding_format", EMBED),
    "dimensions": ignored("dimensions", EMBED),
    "token-ids": refused(500, asks(b"[5, 6, 7]"), EMBED),
    "empty": lenient(EMBED),
    "no-input": lenient(EMBED),
}

LISTED: dict[str, Broken] = {
    "list": less(MODELS, "data.0.owned_by"),
    "listed-once": at(MODELS, document(put("data", lambda was: was * 2))),
    "created": whole(MODELS, "data.0.created", 0),
    "one": whole("/v1/models/*", "id", "other"),
    "one-with-slash": refused(404, lambda seen: "%" not in seen.path, "/v1/models/*"),
    "unknown": at("/v1/models/*", answers(200)),
    "unknown-error": whole("/v1/models/*", "error.code", 404),
}

RESPONSE: dict[str, Broken] = {
    "shape": less(RESPONSES, "output"),
    "usage": whole(RESPONSES, "usage.total_tokens", 1),
    "required-members": less(RESPONSES, "usage.output_tokens_details"),
    "incomplete": whole(RESPONSES, "status", "completed"),
    "event-names": events(_swapped(b"event: response.created\n", b""), RESPONSES),
    "events": events(_without(b"response.content_part.added"), RESPONSES),
    "numbers": chunk("sequence_number", 3, RESPONSES),
    "text": chunk("delta", "x", RESPONSES),
    "no-done": events(lambda found: [*found, b"data: [DONE]\n\n"], RESPONSES),
    "error": less(RESPONSES, "error.param"),
}

BY_GROUP = {
    "bodies": BODIES,
    "chat": CHATS,
    "stream": STREAMS,
    "connections": CONNECTIONS,
    "crowds": CROWDS,
    "prompts": PROMPTS,
    "errors": ERRORS,
    "tools": TOOLS,
    "completions": TEXTS,
    "embeddings": EMBEDDINGS,
    "models": LISTED,
    "responses": RESPONSE,
}
OTHERS = {
    "openai.others.rerank": Broken(
        at("/v1/rerank", document(put("results.0.index", 5))).mutate, engine="vllm", setup={"engine": "vllm"}
    ),
    "openai.others.tokenize": Broken(at("/tokenize", document(put("count", 0))).mutate, engine="vllm"),
}
TABLE = {
    **{f"openai.{group}.{name}": broken for group, rows in BY_GROUP.items() for name, broken in rows.items()},
    **{f"openai.{name}": broken for name, broken in PARAMETERS.items()},
    **OTHERS,
}


def test_the_table_has_every_case() -> None:
    covers(PROFILE, TABLE)


def test_all_cases_pass_on_an_engine_that_is_well() -> None:
    well(STAGE.play(), SKIPPED, NOTED)


@pytest.mark.parametrize("case", TABLE)
def test_a_broken_engine_is_noticed(case: str) -> None:
    noticed(STAGE, case, TABLE[case])


FAULTS = [
    ("refuse", "openai.chat.shape"),
    ("503", "openai.chat.shape"),
    ("429:7", "openai.stream.shape"),
    ("cut:3", "openai.stream.done"),
    ("cut:3", "openai.chat.shape"),
    ("error-event:3", "openai.stream.finish-once"),
    ("error-event:0", "openai.stream.role-first"),
    ("error-event:3", "openai.chat.content-type"),
    ("rubbish", "openai.chat.shape"),
    ("rubbish:sse", "openai.stream.shape"),
    ("rubbish:http", "openai.stream.content-type"),
    ("hang", "openai.chat.shape"),
    ("stall:3", "openai.stream.done"),
    ("stall", "openai.chat.shape"),
    ("503@p=0.5", "openai.crowds.streams"),
    ("cut:3@every=9", "openai.crowds.streams"),
]


@pytest.mark.parametrize(("fault", "case"), FAULTS)
def test_a_fault_is_noticed(fault: str, case: str) -> None:
    noticed(STAGE, case, Broken(settings={"fail": (fault,)}, setup={"timeout": 0.5}))
