"""OpenAI's published objects as types: lenient to members they do not know, strict in those they do. (P)

Source: OpenAI's openapi.json, ``#/components/schemas``, corrected where the API itself differs from it (a chunk's
``finish_reason`` may be null). Members that the SDKs read as absent when they are missing have defaults here; cases
hold them separately.

Invariant: `conform` returns, or raises a Failure whose message says at which path what is wrong.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from conformance.suite import check

T = TypeVar("T")
Count = Annotated[int, Meta(ge=0)]
Finish = Literal["stop", "length", "tool_calls", "content_filter", "function_call"]


class Shape(msgspec.Struct):
    """Base of all."""


class PromptDetails(Shape):
    cached_tokens: Count | None = None


class CompletionDetails(Shape):
    reasoning_tokens: Count | None = None


class Usage(Shape):
    prompt_tokens: Count
    completion_tokens: Count
    total_tokens: Count
    prompt_tokens_details: PromptDetails | None = None
    completion_tokens_details: CompletionDetails | None = None


class Function(Shape):
    name: str
    arguments: str


class ToolCall(Shape):
    id: str
    type: Literal["function"]
    function: Function


class Alternative(Shape):
    token: str
    logprob: Annotated[float, Meta(le=0)]
    bytes: list[int] | None = None


class TokenLogprob(Alternative, kw_only=True):
    top_logprobs: list[Alternative]


class Logprobs(Shape):
    content: list[TokenLogprob] | None = None


class Message(Shape):
    role: Literal["assistant"]
    content: str | None = None
    refusal: str | None = None
    tool_calls: list[ToolCall] | None = None


class ChatChoice(Shape):
    index: Count
    message: Message
    finish_reason: Finish
    logprobs: Logprobs | None = None


class Chat(Shape):
    """``chat.completion``."""

    id: str
    object: Literal["chat.completion"]
    created: Count
    model: str
    choices: Annotated[list[ChatChoice], Meta(min_length=1)]
    usage: Usage | None = None
    system_fingerprint: str | None = None
    service_tier: str | None = None


class FunctionDelta(Shape):
    name: str | None = None
    arguments: str | None = None


class ToolDelta(Shape):
    """Typed clients sort by ``index`` and refuse a delta without one."""

    index: Count
    id: str | None = None
    type: Literal["function"] | None = None
    function: FunctionDelta | None = None


class Delta(Shape):
    role: Literal["assistant"] | None = None
    content: str | None = None
    refusal: str | None = None
    tool_calls: list[ToolDelta] | None = None


class ChunkChoice(Shape):
    index: Count
    delta: Delta
    finish_reason: Finish | None = None
    logprobs: Logprobs | None = None


class Chunk(Shape):
    """``chat.completion.chunk``."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: Count
    model: str
    choices: list[ChunkChoice]
    usage: Usage | None = None
    system_fingerprint: str | None = None


class LegacyLogprobs(Shape, kw_only=True):
    text_offset: list[int] | None = None
    token_logprobs: list[float | None]
    tokens: list[str]
    top_logprobs: list[dict[str, float] | None] | None = None


class TextChoice(Shape):
    index: Count
    text: str
    finish_reason: Literal["stop", "length", "content_filter"]
    logprobs: LegacyLogprobs | None = None


class Completion(Shape):
    """``text_completion``, whole."""

    id: str
    object: Literal["text_completion"]
    created: Count
    model: str
    choices: Annotated[list[TextChoice], Meta(min_length=1)]
    usage: Usage | None = None


class TextChunkChoice(Shape):
    index: Count
    text: str
    finish_reason: Literal["stop", "length", "content_filter"] | None = None
    logprobs: LegacyLogprobs | None = None


class CompletionChunk(Shape):
    """``text_completion``, streamed."""

    id: str
    object: Literal["text_completion"]
    created: Count
    model: str
    choices: list[TextChunkChoice]
    usage: Usage | None = None


class Embedding(Shape):
    object: Literal["embedding"]
    index: Count
    embedding: Annotated[list[float], Meta(min_length=1)] | Annotated[str, Meta(min_length=1)]


class EmbeddingUsage(Shape):
    prompt_tokens: Count
    total_tokens: Count


class Embeddings(Shape):
    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage


class Model(Shape):
    id: Annotated[str, Meta(min_length=1)]
    object: Literal["model"]
    created: Count
    owned_by: str


class Models(Shape):
    object: Literal["list"]
    data: list[Model]


class ErrorObject(Shape):
    """All four are required; a code is a string or null, never a number."""

    message: Annotated[str, Meta(min_length=1)]
    type: str
    param: str | None
    code: str | None


class Error(Shape):
    error: ErrorObject


class OutputItem(Shape):
    type: str
    id: str | None = None


class InputDetails(Shape):
    cached_tokens: Count


class OutputDetails(Shape):
    reasoning_tokens: Count


class ResponseUsage(Shape):
    input_tokens: Count
    output_tokens: Count
    total_tokens: Count
    input_tokens_details: InputDetails | None = None
    output_tokens_details: OutputDetails | None = None


class Incomplete(Shape):
    reason: str | None = None


class Response(Shape):
    """``response`` of the Responses API."""

    id: str
    object: Literal["response"]
    created_at: float
    model: str
    status: Literal["completed", "failed", "in_progress", "cancelled", "queued", "incomplete"]
    output: list[OutputItem]
    parallel_tool_calls: bool | None = None
    usage: ResponseUsage | None = None
    incomplete_details: Incomplete | None = None


def conform(value: Any, shape: type[T], what: str) -> T:
    """``value`` as ``shape``. Raises Failure."""
    try:
        return msgspec.convert(value, shape)
    except msgspec.ValidationError as error:
        raise check.Failure(f"{what} has not the published shape: {error}", got=value) from None
