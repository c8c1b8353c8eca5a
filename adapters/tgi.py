"""Text Generation Inference 3: its Messages API for chats, its native ``/generate`` for completions. (P)

Invariant: what TGI would ignore, mangle or answer with a puzzling 422 is translated or refused by name before it is
sent. Its chunks are mended, as they carry no id, a new time each, and finish reasons of their own (source: TGI 3.3.7).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import msgspec

from adapters import constraint, dialect, vocabulary
from adapters.openai import OpenAI, fixed_headers, own_headers
from adapters.stream import MendingDecoder
from adapters.tgi_native import (
    GenerateDecoder,
    GenerateStreamDecoder,
    TokenizeDecoder,
    generate,
    response_format,
    tokenize,
)
from adapters.vllm import NOT_OPENAI_ON_ENGINES
from adapters.whole import MendedWhole
from gateway.ports import Decoder
from gateway.types import Endpoint, Headers, InferenceRequest, ModelCard, Operation, UpstreamRequest

LORAS = "loras"
"""The endpoint label that lists, comma-separated, the LoRAs it serves: any other model name is the base model's."""


class _Info(msgspec.Struct):
    model_id: str
    max_total_tokens: int | None = None


class TGI(OpenAI):
    name = "tgi"
    title = "TGI"
    limit = "max_tokens"
    rationed = None
    vocabulary = vocabulary.TGI()
    paths: ClassVar[Mapping[Operation, bytes]] = {
        Operation.CHAT: b"/v1/chat/completions",
        Operation.COMPLETIONS: b"/generate",
        Operation.TOKENIZE: b"/tokenize",
    }
    refused: ClassVar[Mapping[str, dialect.Refuses]] = {
        **NOT_OPENAI_ON_ENGINES,
        **dialect.but(dialect.EXTRAS, "best_of", "top_k", "typical_p", "repetition_penalty"),  # those of completions
        "n": dialect.above_one,
        "logit_bias": dialect.always,
        "presence_penalty": dialect.not_zero,  # TGI makes it a repetition penalty of 2.0 and more
        "echo": lambda value, others: bool(value and others.get("stream")),
        "suffix": dialect.always,
    }
    constraints = constraint.TGI

    def __init__(self, trusted: frozenset[str] = frozenset()) -> None:
        super().__init__(trusted)
        self._chats = dialect.Watch(self.title, _OF_COMPLETIONS)

    def encode(self, request: InferenceRequest, endpoint: Endpoint, model: str, /) -> UpstreamRequest:
        if request.operation is Operation.MESSAGES:
            return super().encode(request, endpoint, model)
        path = self.path(request.operation, endpoint)
        found = dialect.members(request.body)
        lora = model if model in dict(endpoint.labels).get(LORAS, "").split(",") else None
        body: dict[str, Any]
        if request.operation is Operation.TOKENIZE:
            path, body = tokenize(found)
        else:
            found = self._checked(request, found, endpoint)
            if request.operation is Operation.CHAT:
                body = _chat(found, request.stream, lora)
            else:
                path, body = generate(found, request.stream, lora)
        return UpstreamRequest(b"POST", path, fixed_headers(request), dialect.encode(body), own_headers(request))

    def _checked(self, request: InferenceRequest, found: dialect.Members, endpoint: Endpoint) -> dialect.Members:
        """The members, with what holds an answer to a form in TGI's words. Raises Unsupported."""
        self.refuse(found, endpoint)
        if request.operation is Operation.CHAT:
            self._chats.refuse(found)
            dialect.check_choice(found)
        body = self.constrained(request.operation, request.body, found, endpoint)
        return found if body is request.body else dialect.members(body)

    def whole(self, request: InferenceRequest, headers: Headers) -> Decoder:
        if request.operation is Operation.COMPLETIONS:
            return GenerateDecoder(request, headers)
        return TokenizeDecoder() if request.operation is Operation.TOKENIZE else MendedWhole(request, headers)

    def events(self, request: InferenceRequest, headers: Headers) -> Decoder:
        if request.operation is Operation.COMPLETIONS:
            return GenerateStreamDecoder(request, headers)
        return MendingDecoder(request, headers)

    def models_path(self) -> bytes:
        return b"/info"

    def parse_models(self, body: bytes, /) -> Sequence[ModelCard]:
        info = msgspec.json.decode(body, type=_Info)
        return [ModelCard(id=info.model_id, max_model_len=info.max_total_tokens, owned_by="tgi")]


_OF_COMPLETIONS: Mapping[str, dialect.Refuses] = {
    **{name: dialect.EXTRAS[name] for name in ("best_of", "top_k", "typical_p", "repetition_penalty")},
    "reasoning_effort": dialect.other_than("none"),
}
"""Members TGI's native API has and its Messages API ignores, and one that neither has."""

_DROPPED = frozenset(
    ("n", "logit_bias", "presence_penalty", "max_completion_tokens", "stream_options",
     "parallel_tool_calls",  # its grammar yields one call
     *dialect.STEERING),
)  # fmt: skip


def _chat(found: dialect.Members, stream: bool, lora: str | None) -> dict[str, Any]:
    limit = dialect.value(found, "max_completion_tokens")
    body: dict[str, Any] = {name: raw for name, raw in found.items() if name not in _DROPPED}
    body["model"] = lora or "tgi"  # any other name is taken for a LoRA
    if limit is not None:  # an alias of max_tokens: both together are a 422
        body["max_tokens"] = limit
    if (dialect.number(dialect.value(found, "top_p"), "top_p") or 0) >= 1:
        del body["top_p"]
    stop = dialect.value(found, "stop")
    if isinstance(stop, str):
        body["stop"] = [stop]
    if not dialect.value(found, "tools"):
        for name in ("tools", "tool_choice"):
            body.pop(name, None)
    grammar = response_format(dialect.value(found, "response_format"))
    body.pop("response_format", None)
    if grammar is not None:
        if "tools" in body:
            raise dialect.unsupported("TGI", "response_format", why="it cannot be combined with 'tools'")
        body["response_format"] = grammar
    if stream:
        body["stream_options"] = {"include_usage": True}
    return body
