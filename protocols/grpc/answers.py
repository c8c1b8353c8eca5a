"""OpenAI's answers and events as messages of inference.v1, serialised. (P)

Invariant: what an engine says and a message has a field for is in it, whatever else the answer holds; null is the same
as absent. An answer that cannot be told in messages is an UpstreamError, for the engine is what went wrong.
"""

from __future__ import annotations

import struct
from base64 import b64decode
from collections.abc import Callable
from typing import Any, Final

from gateway.errors import UpstreamError
from gateway.wire import sse
from protocols.grpc import said
from protocols.grpc.generated.upb import inference as pb

REASONS: Final = {"stop": 1, "length": 2, "tool_calls": 3, "content_filter": 4, "function_call": 5}
"""Finish reasons by number. One that is none of them has still ended the choice: it counts as ``stop``."""
_MOST: Final = 1e15


def _told(tell: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    """``tell``, with whatever an answer can make it raise as the error that stands for it."""

    def told(data: bytes) -> bytes:
        try:
            return tell(data)
        except (ValueError, TypeError, OverflowError, RecursionError, struct.error) as error:
            raise UpstreamError(f"the engine's answer does not fit into a message: {error}"[:300]) from None

    return told


# -- parts of messages ----------------------------------------------------------------------------------------------


def _count(number: object) -> int:
    """0 for what is no count: an answer is good without."""
    return int(number) if isinstance(number, int | float) and 0 <= number < _MOST else 0


def _usage(usage: said.Usage | None) -> dict[str, Any] | None:
    if usage is None:
        return None
    prompt, completion = _count(usage.prompt_tokens), _count(usage.completion_tokens)
    cached, reasoned = usage.prompt_tokens_details, usage.completion_tokens_details
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": _count(usage.total_tokens) or prompt + completion,
        "prompt_tokens_details": None if cached is None else {"cached_tokens": _count(cached.cached_tokens)},
        "completion_tokens_details": None
        if reasoned is None
        else {"reasoning_tokens": _count(reasoned.reasoning_tokens)},
    }


def _finish(reason: str | None) -> int:
    return REASONS.get(reason, 1) if reason else 0


def _call(call: said.Call) -> dict[str, Any]:
    function = call.function
    called = None if function is None else {"name": function.name, "arguments": function.arguments}
    return {"id": call.id, "function": called}


def _piece(call: said.Call) -> dict[str, Any]:
    return {"index": call.index, **_call(call)}


def _message(message: said.Message | None, call: Callable[[said.Call], dict[str, Any]]) -> dict[str, Any]:
    if message is None:
        return {}
    content = message.content
    return {
        "role": message.role,
        "content": "".join([part.text or "" for part in content]) if isinstance(content, list) else content,
        "reasoning_content": message.reasoning if message.reasoning_content is None else message.reasoning_content,
        "refusal": message.refusal,
        "tool_calls": [call(it) for it in message.tool_calls or ()],
    }


def _top(top: said.Top) -> dict[str, Any]:
    return {
        "token": top.token,
        "logprob": top.logprob,
        "token_bytes": None if top.bytes is None else bytes(top.bytes),
    }


def _token(token: said.Token) -> dict[str, Any]:
    return {**_top(token), "top_logprobs": [_top(top) for top in token.top_logprobs or ()]}


def _chat_logprobs(logprobs: said.Logprobs | None) -> dict[str, Any] | None:
    if logprobs is None:
        return None
    return {
        "content": [_token(token) for token in logprobs.content or ()],
        "refusal": [_token(token) for token in logprobs.refusal or ()],
    }


def _completion_logprobs(logprobs: said.Logprobs | None) -> dict[str, Any] | None:
    """Columns as rows; columns that engines leave out or cut short say nothing of their rows."""
    if logprobs is None:
        return None
    rows: list[dict[str, Any]] = [{"token": token} for token in logprobs.tokens or ()]
    for row, logprob in zip(rows, logprobs.token_logprobs or (), strict=False):
        row["logprob"] = logprob
    for row, offset in zip(rows, logprobs.text_offset or (), strict=False):
        row["text_offset"] = offset
    for row, tops in zip(rows, logprobs.top_logprobs or (), strict=False):
        row["top_logprobs"] = {token: logprob for token, logprob in (tops or {}).items() if logprob is not None}
    return {"tokens": rows}


def _head(answer: said.Answer) -> dict[str, Any]:
    return {
        "id": answer.id,
        "created": _count(answer.created),
        "model": answer.model,
        "usage": _usage(answer.usage),
        "system_fingerprint": answer.system_fingerprint,
    }


def _chat_choice(choice: said.Choice) -> dict[str, Any]:
    return {
        "index": choice.index,
        "message": _message(choice.message, _call),
        "finish_reason": _finish(choice.finish_reason),
        "logprobs": _chat_logprobs(choice.logprobs),
    }


def _delta_choice(choice: said.Choice) -> dict[str, Any]:
    return {
        "index": choice.index,
        "delta": _message(choice.delta, _piece),
        "finish_reason": _finish(choice.finish_reason),
        "logprobs": _chat_logprobs(choice.logprobs),
    }


def _completion_choice(choice: said.Choice) -> dict[str, Any]:
    return {
        "index": choice.index,
        "text": choice.text,
        "finish_reason": _finish(choice.finish_reason),
        "logprobs": _completion_logprobs(choice.logprobs),
    }


# -- whole answers ----------------------------------------------------------------------------------------------------


@_told
def chat(body: bytes) -> bytes:
    """A CreateChatCompletionResponse. Raises UpstreamError, as all of these."""
    answer = said.read(said.ANSWER, body)
    choices = [_chat_choice(choice) for choice in answer.choices or ()]
    message = pb.CreateChatCompletionResponse(**_head(answer), service_tier=answer.service_tier, choices=choices)
    return message.SerializeToString()


@_told
def completion(body: bytes) -> bytes:
    """A CreateCompletionResponse."""
    answer = said.read(said.ANSWER, body)
    choices = [_completion_choice(choice) for choice in answer.choices or ()]
    return pb.CreateCompletionResponse(**_head(answer), choices=choices).SerializeToString()


@_told
def embeddings(body: bytes) -> bytes:
    """A CreateEmbeddingResponse. Vectors in base64 are float32 in little-endian order: on the wire they stay that."""
    answer = said.read(said.EMBEDDINGS, body)
    parts = [pb.CreateEmbeddingResponse(model=answer.model, usage=_usage(answer.usage)).SerializeToString()]
    for at, vector in enumerate(answer.data):
        given = vector.embedding
        floats = b64decode(given, validate=True) if isinstance(given, str) else struct.pack(f"<{len(given)}f", *given)
        if len(floats) % 4:
            raise ValueError("a vector in base64 ends within a number")
        index = pb.Embedding(index=at if vector.index is None else vector.index).SerializeToString()
        parts.append(_field(2, index + _field(2, floats)))
    return b"".join(parts)


def _field(number: int, data: bytes) -> bytes:
    """A length-delimited field; ``number`` is below 16."""
    size, prefix = len(data), bytearray((number << 3 | 2,))
    while size > 0x7F:
        prefix.append(size & 0x7F | 0x80)
        size >>= 7
    prefix.append(size)
    return bytes(prefix) + data


@_told
def count(body: bytes) -> bytes:
    """A CountTokensResponse without the tokens."""
    return _counted(said.read(said.TOKENS, body)).SerializeToString()


@_told
def tokens(body: bytes) -> bytes:
    """A CountTokensResponse with the tokens."""
    answer = said.read(said.TOKENS, body)
    message = _counted(answer)
    message.tokens.extend(answer.tokens or ())
    return message.SerializeToString()


def _counted(answer: said.Tokens) -> pb.CountTokensResponse:
    found = len(answer.tokens or ()) if answer.count is None else answer.count
    return pb.CountTokensResponse(count=found, max_model_len=answer.max_model_len)


# -- events -----------------------------------------------------------------------------------------------------------


@_told
def chat_event(data: bytes) -> bytes:
    """A StreamChatCompletionResponse."""
    answer = said.read(said.ANSWER, data)
    choices = [_delta_choice(choice) for choice in answer.choices or ()]
    message = pb.StreamChatCompletionResponse(**_head(answer), service_tier=answer.service_tier, choices=choices)
    return message.SerializeToString()


@_told
def completion_event(data: bytes) -> bytes:
    """A StreamCompletionResponse."""
    answer = said.read(said.ANSWER, data)
    choices = [_completion_choice(choice) for choice in answer.choices or ()]
    return pb.StreamCompletionResponse(**_head(answer), choices=choices).SerializeToString()


def events(chunk: bytes, tell: Callable[[bytes], bytes]) -> list[bytes]:
    """Whole events as messages, in order; comments and ``[DONE]`` have none. Raises UpstreamError."""
    found = []
    for block in chunk.split(b"\n\n"):
        if not block:
            continue
        data = block[6:] if block.startswith(b"data: ") and b"\n" not in block else sse.parse(block).data
        if data and data != b"[DONE]":
            found.append(tell(data))
    return found
