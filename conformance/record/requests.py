"""The exchanges that are recorded: everything an adapter translates, reads or has to recognise, by name. (P)

Invariant: the same names and bodies for every engine, so that recordings of two can be laid side by side.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import msgspec

CHAT, COMPLETIONS, MESSAGES = "/v1/chat/completions", "/v1/completions", "/v1/messages"
JSON = "application/json"
_MESSAGES = [{"role": "user", "content": "Hello there, tell me a story."}]
_USAGE: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}
_CITY = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}
_TOOL = {"type": "function", "function": {"name": "get_weather", "description": "d", "parameters": _CITY}}
_FORCED = {"type": "function", "function": {"name": "get_weather"}}

PAGES = {"vllm": "/metrics", "sglang": "/metrics", "tgi": "/metrics", "llamacpp": "/metrics"} | {
    "trtllm": "/prometheus/metrics"
}
"""Where an engine tells its load."""


class Request(msgspec.Struct, frozen=True):
    """``path`` as an engine at a root has it. ``body`` None: a GET. ``headers``: those an exchange is about."""

    name: str
    path: str
    body: bytes | None = None
    headers: tuple[tuple[str, str], ...] = ()
    content_type: str = JSON

    @property
    def method(self) -> str:
        return "GET" if self.body is None else "POST"


def requests(model: str) -> list[Request]:
    """All of them. ``model`` is what is asked for, wherever nothing else is meant."""
    return [*_chats(model), *_tools(model), *_others(model), *_refused(model), *_asked(model)]


def load(model: str) -> bytes:
    """The body of a request that keeps an engine busy for a while."""
    return _body(_chat(model, max_tokens=512, ignore_eos=True, **_USAGE))


def _chat(model: str, /, max_tokens: Any = 2, **members: Any) -> dict[str, Any]:
    """A small chat; members of None are left out."""
    body = {"model": model, "messages": _MESSAGES, "max_tokens": max_tokens, "temperature": 0, **members}
    return {name: value for name, value in body.items() if value is not None}


def _body(document: Any) -> bytes:
    return json.dumps(document).encode()


def _chats(model: str) -> Iterator[Request]:
    schema = {"name": "x", "schema": _CITY}
    documents = {
        "chat": _chat(model, 16),
        "chat-default-tokens": _chat(model, None),
        "chat-max-completion-tokens": _chat(model, None, max_completion_tokens=3),
        "chat-stop": _chat(model, 32, stop=["a"]),
        "chat-logprobs": _chat(model, logprobs=True, top_logprobs=2),
        "chat-json-schema": _chat(model, 64, response_format={"type": "json_schema", "json_schema": schema}),
        "chat-extra-field": _chat(model, no_such_field={"x": 1}),
        "chat-cache-salt": _chat(model, cache_salt="tenant-a"),
        "chat-priority": _chat(model, priority=5),
        "chat-stream": _chat(model, 8, **_USAGE),
        "chat-stream-nousage": _chat(model, 4, stream=True),
        "chat-stream-contusage": _chat(
            model, 4, stream=True, stream_options={"include_usage": True, "continuous_usage_stats": True}
        ),
        "chat-stream-logprobs": _chat(model, logprobs=True, top_logprobs=1, **_USAGE),
        "chat-n2-stream": _chat(model, 3, n=2, **{**_USAGE, "temperature": 1}),
    }
    yield from (Request(name, CHAT, _body(document)) for name, document in documents.items())
    yield Request("chat-requestid", CHAT, _body(_chat(model)), (("X-Request-Id", "req-abc-123"),))


def _tools(model: str) -> Iterator[Request]:
    documents = {
        "chat-tools": _chat(model, 8, tools=[_TOOL]),
        "chat-tools-auto": _chat(model, 8, tools=[_TOOL], tool_choice="auto"),
        "chat-tools-required": _chat(model, 200, tools=[_TOOL], tool_choice="required"),
        "chat-tools-forced": _chat(model, 200, tools=[_TOOL], tool_choice=_FORCED, stream=False),
        "chat-tools-forced-stream": _chat(model, 200, tools=[_TOOL], tool_choice=_FORCED, stream=True),
    }
    yield from (Request(name, CHAT, _body(document)) for name, document in documents.items())


def _others(model: str) -> Iterator[Request]:
    """Every operation but chat."""
    short: dict[str, Any] = {"model": model, "max_tokens": 2, "temperature": 0}
    told = {**short, "max_tokens": 8, "prompt": "Once upon a time"}
    talk = _chat(model, 4)
    documents = {
        "completion": (COMPLETIONS, told),
        "completion-stream": (COMPLETIONS, {**told, **_USAGE}),
        "completion-multi": (COMPLETIONS, {**short, "prompt": ["Once", "Twice"]}),
        "completion-tokens": (COMPLETIONS, {**short, "prompt": [10, 20, 30]}),
        "completion-logprobs": (COMPLETIONS, {**short, "prompt": "Once", "logprobs": 1, "echo": True}),
        "embeddings": ("/v1/embeddings", {"model": model, "input": "hi"}),
        "responses": ("/v1/responses", {"model": model, "input": "hi", "max_output_tokens": 4}),
        "responses-stream": ("/v1/responses", {"model": model, "input": "hi", "max_output_tokens": 4, "stream": True}),
        "messages-anthropic": (MESSAGES, talk),
        "messages-anthropic-stream": (MESSAGES, {**talk, "stream": True}),
        "rerank": ("/v1/rerank", {"model": model, "query": "hi", "documents": ["hello", "bye"]}),
        "tokenize": ("/tokenize", {"model": model, "prompt": "Hello there"}),
        "tokenize-chat": ("/tokenize", {"model": model, "messages": _MESSAGES}),
        "detokenize": ("/detokenize", {"model": model, "tokens": [10, 20, 30]}),
    }
    yield from (Request(name, path, _body(document)) for name, (path, document) in documents.items())


def _refused(model: str) -> Iterator[Request]:
    """What an engine should refuse, and how; some do not."""
    long = [{"role": "user", "content": "word " * 4000}]
    odd = [{"role": "robot", "content": "x"}]
    documents = {
        "err-bad-role": _chat(model, 8, messages=odd),
        "err-context-too-long": _chat(model, messages=long),
        "err-context-too-long-stream": _chat(model, messages=long, stream=True),
        "err-empty-messages": _chat(model, 8, messages=[]),
        "err-max-tokens-huge": _chat(model, 100000),
        "err-max-tokens-negative": _chat(model, -1),
        "err-max-tokens-string": _chat(model, "many"),
        "err-max-tokens-zero": _chat(model, 0),
        "err-n0": _chat(model, 8, n=0),
        "err-no-messages": _chat(model, 8, messages=None),
        "err-no-model": _chat(model, model=None),
        "err-not-object": [1, 2],
        "err-stream-options-without-stream": _chat(model, 8, stream_options={"include_usage": True}),
        "err-temperature": _chat(model, 8, temperature=-3),
        "err-unknown-model": _chat("nope", 8),
        "err-unknown-model-stream": _chat("nope", 8, stream=True),
    }
    yield from (Request(name, CHAT, _body(document)) for name, document in documents.items())
    yield Request("err-invalid-json", CHAT, f'{{"model":{json.dumps(model)},"messages":['.encode())
    yield Request("err-content-type", CHAT, _body(_chat(model)), content_type="text/plain")


def _asked(model: str) -> Iterator[Request]:
    """What tells engines apart, and what they say of paths they do not have."""
    paths = {
        "models": "/v1/models",
        "model-one": f"/v1/models/{quote(model, safe='')}",
        "health": "/health",
        "health-generate": "/health_generate",
        "ping": "/ping",
        "version": "/version",
        "get-model-info": "/get_model_info",
        "get-server-info": "/get_server_info",
        "info": "/info",
        "props": "/props",
        "slots": "/slots",
        "api-version": "/api/version",
        "load": "/load",
        "notfound": "/v1/nope",
        "method-not-allowed": CHAT,
    }
    yield from (Request(name, path) for name, path in paths.items())
