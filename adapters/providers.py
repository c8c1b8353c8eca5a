"""Public providers and engines that speak OpenAI with an accent: DeepSeek, Gemini, Hugging Face, Ollama… (P)

Invariant: a member the provider would ignore is renamed to one it heeds, or refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from adapters import dialect, usage, vocabulary
from adapters.chunk import Chunk
from adapters.openai import OpenAI
from adapters.stream import MendingDecoder
from adapters.vllm import GUIDED, NOT_OPENAI_ON_ENGINES
from adapters.whole import Answer, MendedWhole
from gateway.ports import Decoder
from gateway.types import Endpoint, Headers, InferenceRequest, Operation
from gateway.wire import splice


class _MaxTokens(OpenAI):
    """For those that know ``max_tokens`` only: a limit by its newer name would be ignored."""

    limit = "max_tokens"

    def translate(self, request: InferenceRequest, body: bytes, endpoint: Endpoint, model: str) -> bytes:
        if request.operation is Operation.CHAT:
            limit = dialect.members(body).get("max_completion_tokens")
            if limit is not None:
                body = splice.remove(body, ["max_completion_tokens", "max_tokens"])
                if bytes(limit) != b"null":
                    body = splice.insert(body, "max_tokens", bytes(limit))
        return super().translate(request, body, endpoint, model)


class DeepSeek(_MaxTokens):
    """Keeps a queued request alive with comments or blank lines; names cached tokens in a way of its own."""

    name = "deepseek"
    title = "DeepSeek"
    paths: ClassVar[Mapping[Operation, bytes]] = {
        Operation.CHAT: b"/v1/chat/completions",
        Operation.MESSAGES: b"/anthropic/v1/messages",
    }
    refused: ClassVar[Mapping[str, dialect.Refuses]] = {
        **GUIDED,
        "n": dialect.above_one,
        "structured_outputs": dialect.always,
        "seed": lambda value, _: value is not None,
        "web_search_options": dialect.always,
    }


class HuggingFace(OpenAI):
    """The router: chats only; ``model`` is ``org/name`` with an optional ``:provider``."""

    name = "huggingface"
    title = "Hugging Face"
    paths: ClassVar[Mapping[Operation, bytes]] = {
        Operation.CHAT: b"/v1/chat/completions",
        Operation.RESPONSES: b"/v1/responses",
    }


class Ollama(_MaxTokens):
    name = "ollama"
    title = "Ollama"
    rationed = None
    paths: ClassVar[Mapping[Operation, bytes]] = {
        Operation.CHAT: b"/v1/chat/completions",
        Operation.COMPLETIONS: b"/v1/completions",
        Operation.EMBEDDINGS: b"/v1/embeddings",
    }
    refused: ClassVar[Mapping[str, dialect.Refuses]] = {
        **NOT_OPENAI_ON_ENGINES,
        **GUIDED,
        "n": dialect.above_one,
        "best_of": dialect.above_one,
        "logit_bias": dialect.always,
        "tool_choice": lambda value, _: value not in (None, "auto"),
        "structured_outputs": dialect.always,
        "top_k": dialect.always,
        "min_p": dialect.always,
        "repetition_penalty": dialect.always,
    }

    def events(self, request: InferenceRequest, headers: Headers) -> Decoder:
        return MendingDecoder(request) if request.operation is Operation.CHAT else super().events(request, headers)


class TensorRT(OpenAI):
    """trtllm-serve: close to vLLM."""

    name = "trtllm"
    title = "TensorRT-LLM"
    rationed = None
    vocabulary = vocabulary.TensorRT()
    refused: ClassVar[Mapping[str, dialect.Refuses]] = {**NOT_OPENAI_ON_ENGINES, "structured_outputs": dialect.always}


class Gemini(OpenAI):
    """Google's OpenAI-compatible endpoint; the base path is ``/v1beta/openai``."""

    name = "gemini"
    title = "Gemini"
    paths: ClassVar[Mapping[Operation, bytes]] = {
        Operation.CHAT: b"/chat/completions",
        Operation.EMBEDDINGS: b"/embeddings",
    }
    refused: ClassVar[Mapping[str, dialect.Refuses]] = {**GUIDED, "structured_outputs": dialect.always}

    def whole(self, request: InferenceRequest, headers: Headers) -> Decoder:
        return _GeminiWhole(request) if request.operation is Operation.CHAT else super().whole(request, headers)

    def events(self, request: InferenceRequest, headers: Headers) -> Decoder:
        return _GeminiEvents(request)

    def models_path(self) -> bytes:
        return b"/models"


class _GeminiEvents(MendingDecoder):
    def _chunk(self, data: bytes, read: Chunk, *, named: bool) -> bytes:
        _count_thoughts(read.usage)
        return super()._chunk(data, read, named=named)


class _GeminiWhole(MendedWhole):
    def _passed(self, body: bytes, answer: Answer) -> bytes:
        _count_thoughts(answer.usage)
        self.usage = usage.read(answer.usage)
        return super()._passed(body, answer)


def _count_thoughts(counts: usage.Counts | None) -> None:
    """Gemini leaves thought tokens out of ``completion_tokens`` but not out of the total: the gap is the thinking."""
    if counts is None or not counts.total_tokens:
        return
    written = counts.completion_tokens or 0
    counts.completion_tokens = max(written, counts.total_tokens - (counts.prompt_tokens or 0))
    if counts.completion_tokens > written and not counts.reasoning_tokens:
        counts.reasoning_tokens = counts.completion_tokens - written
