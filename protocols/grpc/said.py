"""What is read of OpenAI's answers: null is as absent, members without a name here are skipped. (P)"""

from __future__ import annotations

import json
from typing import Any, Final, TypeVar

import msgspec

_T = TypeVar("_T")
Number = Any
"""Whatever it is: a count that is none does not make an answer a bad one."""


class Cached(msgspec.Struct, gc=False):
    cached_tokens: Number = None


class Reasoned(msgspec.Struct, gc=False):
    reasoning_tokens: Number = None


class Usage(msgspec.Struct, gc=False):
    prompt_tokens: Number = None
    completion_tokens: Number = None
    total_tokens: Number = None
    prompt_tokens_details: Cached | None = None
    completion_tokens_details: Reasoned | None = None


class Function(msgspec.Struct, gc=False):
    name: str | None = None
    arguments: str | None = None


class Call(msgspec.Struct, gc=False):
    index: int | None = None
    id: str | None = None
    function: Function | None = None


class Part(msgspec.Struct, gc=False):
    text: str | None = None


class Message(msgspec.Struct, gc=False):
    """A whole message and a delta alike. Engines call what a model thinks by two names."""

    role: str | None = None
    content: str | list[Part] | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    tool_calls: list[Call] | None = None


class Top(msgspec.Struct, gc=False):
    token: str | None = None
    logprob: float | None = None
    bytes: list[int] | None = None


class Token(Top, gc=False):
    top_logprobs: list[Top] | None = None


class Logprobs(msgspec.Struct, gc=False):
    """Of chats (``content``, ``refusal``) and, in columns, of completions."""

    content: list[Token] | None = None
    refusal: list[Token] | None = None
    tokens: list[str | None] | None = None
    token_logprobs: list[float | None] | None = None
    text_offset: list[int] | None = None
    top_logprobs: list[dict[str, float | None] | None] | None = None


class Choice(msgspec.Struct, gc=False):
    index: int | None = None
    delta: Message | None = None
    message: Message | None = None
    text: str | None = None
    finish_reason: str | None = None
    logprobs: Logprobs | None = None


class Answer(msgspec.Struct, gc=False):
    id: str | None = None
    created: Number = None
    model: str | None = None
    choices: list[Choice] | None = None
    usage: Usage | None = None
    system_fingerprint: str | None = None
    service_tier: str | None = None


class Vector(msgspec.Struct, gc=False):
    embedding: str | list[float]
    index: int | None = None


class Embeddings(msgspec.Struct, gc=False):
    data: list[Vector]
    model: str | None = None
    usage: Usage | None = None


class Tokens(msgspec.Struct, gc=False):
    count: int | None = None
    max_model_len: int | None = None
    tokens: list[int] | None = None


ANSWER: Final = msgspec.json.Decoder(Answer)
EMBEDDINGS: Final = msgspec.json.Decoder(Embeddings)
TOKENS: Final = msgspec.json.Decoder(Tokens)


def read(decoder: msgspec.json.Decoder[_T], data: bytes) -> _T:
    """Raises ValueError, and RecursionError for what is nested too deep."""
    try:
        return decoder.decode(data)
    except ValueError:
        # NaN and halves of surrogate pairs, which engines write, are not JSON
        document = json.loads(data, parse_constant=lambda _: None)
        return decoder.decode(json.dumps(document, ensure_ascii=False).encode("utf-8", "replace"))
