"""Public providers and engines that speak OpenAI with an accent: DeepSeek, Gemini, Hugging Face, Ollama… (P)

Invariant: a member the provider would ignore is renamed to one it heeds, or refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import msgspec

from adapters import constraint, dialect, turns, usage, vocabulary
from adapters.chunk import Chunk
from adapters.openai import OpenAI
from adapters.stream import MendingDecoder, StreamDecoder, mender
from adapters.vllm import NOT_OPENAI_ON_ENGINES
from adapters.whole import Answer, AnswerDecoder, MendedWhole
from gateway.ports import Decoder
from gateway.types import PLAIN, Endpoint, Headers, InferenceRequest, ModelCard, Operation, UpstreamRequest
from gateway.wire import splice


class _OwnModels(OpenAI):
    """OpenAI's own API, at Azure too: what it complains of is refused by name, so that a route can have it dropped."""

    title = "OpenAI"
    refused: ClassVar[Mapping[str, dialect.Refuses]] = dialect.EXTRAS
    constraints = constraint.OPENAI


class Compatible(OpenAI):
    """Whatever is called OpenAI-compatible: nobody knows what all of these servers know, but for OpenAI itself."""

    def __init__(self, trusted: frozenset[str] = frozenset()) -> None:
        super().__init__(trusted)
        self._own = _OwnModels(trusted)

    def encode(self, request: InferenceRequest, endpoint: Endpoint, model: str, /) -> UpstreamRequest:
        if endpoint.deployments or endpoint.host == "api.openai.com":
            return self._own.encode(request, endpoint, model)
        return super().encode(request, endpoint, model)


class Plain(Compatible):
    """What answers like no engine that is known, and is to be asked all the same: nothing is expected of it."""

    name = PLAIN
    rationed = None


class _MaxTokens(OpenAI):
    """For those that know ``max_tokens`` only: a limit by its newer name would be ignored."""

    limit = "max_tokens"

    def translate(self, request: InferenceRequest, body: bytes, endpoint: Endpoint, model: str) -> bytes:
        if request.operation is Operation.CHAT:
            body = _with_max_tokens(body)
        return super().translate(request, body, endpoint, model)


def _with_max_tokens(body: bytes) -> bytes:
    found = dialect.members(body)
    limit = found.get("max_completion_tokens")
    if limit is None:
        return body
    if bytes(limit) == b"null":
        return splice.remove(body, ["max_completion_tokens"])
    if "max_tokens" in found:
        body = splice.remove(body, ["max_tokens"])
    return splice.rename(body, "max_completion_tokens", "max_tokens", present=True)


class DeepSeek(_MaxTokens):
    """Keeps a queued request alive with comments or blank lines; names cached tokens in a way of its own."""

    name = "deepseek"
    title = "DeepSeek"
    calls_one = False
    paths: ClassVar[Mapping[Operation, bytes]] = {
        Operation.CHAT: b"/v1/chat/completions",
        Operation.MESSAGES: b"/anthropic/v1/messages",
    }
    refused: ClassVar[Mapping[str, dialect.Refuses]] = {
        **NOT_OPENAI_ON_ENGINES,
        **dialect.EXTRAS,
        "n": dialect.above_one,
        "seed": dialect.given,
        "logit_bias": dialect.always,
        "presence_penalty": dialect.not_zero,
        "frequency_penalty": dialect.not_zero,
    }
    strange = frozenset(dialect.IDLE)
    constraints = constraint.OBJECTS
    thoughts = "reasoning_content"

    def whole(self, request: InferenceRequest, headers: Headers) -> Decoder:
        return (
            _DeepSeekWhole(request, headers) if request.operation is Operation.CHAT else super().whole(request, headers)
        )

    def events(self, request: InferenceRequest, headers: Headers) -> Decoder:
        return (
            _DeepSeekEvents(request, headers)
            if request.operation is Operation.CHAT
            else super().events(request, headers)
        )

    def translate(self, request: InferenceRequest, body: bytes, endpoint: Endpoint, model: str) -> bytes:
        """``reasoning_effort`` turns thinking on and off; a model that thinks has to be told what it thought before."""
        if request.operation is Operation.CHAT:
            body = _thinking(body)
        return super().translate(request, body, endpoint, model)


class _DeepSeekEvents(StreamDecoder):
    def _chunk(self, data: bytes, read: Chunk, *, named: bool) -> bytes:
        return super()._chunk(_with_cached(data, read.usage), read, named=named)


class _DeepSeekWhole(AnswerDecoder):
    def _passed(self, body: bytes, answer: Answer) -> bytes:
        return super()._passed(_with_cached(body, answer.usage), answer)


def _with_cached(body: bytes, counts: usage.Counts | None) -> bytes:
    """Cached tokens where clients of OpenAI look for them, too."""
    hit = None if counts is None or counts.prompt_tokens_details is not None else counts.prompt_cache_hit_tokens
    if hit is None:
        return body
    return splice.merge(body, "usage", "prompt_tokens_details", b'{"cached_tokens":%d}' % hit)


def _thinking(body: bytes) -> bytes:
    found = dialect.members(body)
    effort, thinking = dialect.value(found, "reasoning_effort"), dialect.value(found, "thinking")
    if effort is not None and thinking is None:
        thinking = {"type": "disabled" if effort == "none" else "enabled"}
        body = splice.insert(body, "thinking", msgspec.json.encode(thinking))
    if effort == "none":
        body = splice.remove(body, ["reasoning_effort"])
    if isinstance(thinking, dict) and thinking.get("type") == "enabled":
        body = turns.with_thoughts_named(body, "reasoning_content", "reasoning")
        body = turns.with_thoughts(body, "reasoning_content")
    return body


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
    calls_one = False
    rationed = None
    paths: ClassVar[Mapping[Operation, bytes]] = {
        Operation.CHAT: b"/v1/chat/completions",
        Operation.COMPLETIONS: b"/v1/completions",
        Operation.EMBEDDINGS: b"/v1/embeddings",
    }
    refused: ClassVar[Mapping[str, dialect.Refuses]] = {
        **NOT_OPENAI_ON_ENGINES,
        **dialect.EXTRAS,
        "n": dialect.above_one,
        "best_of": dialect.above_one,
        "logit_bias": dialect.always,
        "tool_choice": dialect.other_than("auto"),
        "echo": dialect.always,
        "logprobs": dialect.counted,  # chats have them
    }
    constraints = constraint.OPENAI

    def refuse(self, watched: dialect.Members, endpoint: Endpoint) -> None:
        """Where there are no tools, none is what it chooses."""
        if "tool_choice" in watched and not dialect.value(watched, "tools"):
            watched = {name: raw for name, raw in watched.items() if name != "tool_choice" or bytes(raw) != b'"none"'}
        super().refuse(watched, endpoint)

    def constrained(self, operation: Operation, body: bytes, watched: dialect.Members, endpoint: Endpoint) -> bytes:
        """Completions cannot be held to a form."""
        found = constraint.foreign(watched, ()) if operation is Operation.COMPLETIONS else []
        if found:
            raise dialect.unsupported(self.title, found[0].member)
        return super().constrained(operation, body, watched, endpoint)

    def whole(self, request: InferenceRequest, headers: Headers) -> Decoder:
        return (
            super().whole(request, headers)
            if request.operation is Operation.EMBEDDINGS
            else _OllamaWhole(request, headers)
        )

    def events(self, request: InferenceRequest, headers: Headers) -> Decoder:
        return _OllamaEvents(request, headers)


class _OllamaEvents(MendingDecoder):
    """Its ids are numbers below 1000, by chance: those of a few dozen answers are not all different."""

    def __init__(self, request: InferenceRequest, headers: Headers = ()) -> None:
        super().__init__(request, headers)
        self._mender = mender(request, headers, renamed=True)


class _OllamaWhole(MendedWhole):
    def __init__(self, request: InferenceRequest, headers: Headers = ()) -> None:
        super().__init__(request, headers)
        self._mender = mender(request, headers, renamed=True)


_UNKNOWN_TO_TENSORRT = (
    "bad_words", "allowed_token_ids", "prompt_logprobs", "logprob_token_ids", "stop_regex", "typical_p",
)  # fmt: skip


class TensorRT(OpenAI):
    """trtllm-serve: close to vLLM."""

    name = "trtllm"
    title = "TensorRT-LLM"
    calls_one = False
    rationed = None
    vocabulary = vocabulary.TensorRT()
    refused: ClassVar[Mapping[str, dialect.Refuses]] = {
        **NOT_OPENAI_ON_ENGINES,
        **{name: dialect.EXTRAS[name] for name in _UNKNOWN_TO_TENSORRT},
    }
    strange = frozenset(dialect.IDLE)
    constraints = constraint.TENSORRT


class Gemini(OpenAI):
    """Google's OpenAI-compatible endpoint; the base path is ``/v1beta/openai``."""

    name = "gemini"
    title = "Gemini"
    calls_one = False
    paths: ClassVar[Mapping[Operation, bytes]] = {
        Operation.CHAT: b"/chat/completions",
        Operation.EMBEDDINGS: b"/embeddings",
    }
    refused: ClassVar[Mapping[str, dialect.Refuses]] = {
        **dialect.EXTRAS,
        "logprobs": dialect.always,  # most models leave them out and say nothing
    }
    strange = frozenset(dialect.IDLE) - {"service_tier"}
    constraints = constraint.OPENAI

    def translate(self, request: InferenceRequest, body: bytes, endpoint: Endpoint, model: str) -> bytes:
        if request.operation is Operation.CHAT:
            body = turns.with_result_names(body)
        return super().translate(request, body, endpoint, model)

    def whole(self, request: InferenceRequest, headers: Headers) -> Decoder:
        return (
            _GeminiWhole(request, headers) if request.operation is Operation.CHAT else super().whole(request, headers)
        )

    def events(self, request: InferenceRequest, headers: Headers) -> Decoder:
        return _GeminiEvents(request, headers)

    def models_path(self) -> bytes:
        return b"/models"

    def parse_models(self, body: bytes, /) -> Sequence[ModelCard]:
        """Listed as "models/gemini…"; asked for, and known to everybody, without."""
        cards = super().parse_models(body)
        return [msgspec.structs.replace(card, id=card.id.removeprefix("models/")) for card in cards]


class _GeminiEvents(MendingDecoder):
    """Its counts grow from chunk to chunk, and there are clients that add them up: they are told at the end."""

    def __init__(self, request: InferenceRequest, headers: Headers = ()) -> None:
        super().__init__(request, headers)
        self._mender = mender(request, headers, counts=False)

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
