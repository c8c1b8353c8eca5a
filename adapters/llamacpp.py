"""llama.cpp's server: the OpenAI dialect, context length in its model card. (P)

Invariant: chats and completions go through as they are but for names it has of its own (source: llama-server of autumn
2026).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import ClassVar

import msgspec

from adapters import constraint, dialect, vocabulary
from adapters.llamacpp_responses import PlacedDecoder
from adapters.openai import OpenAI
from adapters.shapes import invalid
from adapters.vllm import ALL_PATHS, NOT_OPENAI_ON_ENGINES
from adapters.whole import Answer, WholeDecoder
from gateway.errors import UpstreamError
from gateway.ports import Decoder
from gateway.types import Endpoint, Headers, InferenceRequest, ModelCard, Operation
from gateway.wire import splice

_MISTAKEN = re.compile(
    rb"Failed to parse (messages|tools)|input is not supported|\[json\.exception|jinja", re.IGNORECASE
)
"""What it says with 500 of requests that are at fault themselves: it is well, and others would refuse them too."""


class _Meta(msgspec.Struct):
    n_ctx: int | None = None


class _Card(msgspec.Struct):
    id: str
    meta: _Meta | None = None


class _Listing(msgspec.Struct):
    data: list[_Card]


class LlamaCpp(OpenAI):
    name = "llamacpp"
    title = "llama.cpp"
    rationed = None
    vocabulary = vocabulary.LlamaCpp()
    paths = ALL_PATHS
    refused: ClassVar[Mapping[str, dialect.Refuses]] = {
        **NOT_OPENAI_ON_ENGINES,
        **dialect.but(
            dialect.EXTRAS, "top_k", "min_p", "typical_p", "repetition_penalty", "ignore_eos", "chat_template_kwargs"
        ),
        "suffix": dialect.always,
        "echo": dialect.always,
        "logprobs": dialect.counted,  # answered in a chat's shape
    }
    constraints = constraint.LLAMACPP
    spoken = frozenset({"json_schema"})
    thoughts = "reasoning_content"

    def translate(self, request: InferenceRequest, body: bytes, endpoint: Endpoint, model: str) -> bytes:
        if request.operation is Operation.TOKENIZE:
            body = _to_tokenize(body, model)
        if b'"repetition_penalty"' in body:
            body = splice.rename(body, "repetition_penalty", "repeat_penalty")
        if request.operation is Operation.CHAT:
            if b'"tool_choice"' in body:
                body = _with_one_tool(body)
            if b'"reasoning_effort"' in body:
                body = _with_effort(body)
        return super().translate(request, body, endpoint, model)

    def whole(self, request: InferenceRequest, headers: Headers) -> Decoder:
        made = _MADE.get(request.operation)
        return super().whole(request, headers) if made is None else made()

    def events(self, request: InferenceRequest, headers: Headers) -> Decoder:
        return PlacedDecoder() if request.operation is Operation.RESPONSES else super().events(request, headers)

    def error(self, status: int, headers: Headers, body: bytes, /) -> UpstreamError:
        return super().error(400 if status == 500 and _MISTAKEN.search(body) else status, headers, body)

    def parse_models(self, body: bytes, /) -> Sequence[ModelCard]:
        lengths = {c.id: c.meta.n_ctx for c in msgspec.json.decode(body, type=_Listing).data if c.meta is not None}
        cards = super().parse_models(body)
        return [msgspec.structs.replace(card, max_model_len=lengths.get(card.id)) for card in cards]


def _to_tokenize(body: bytes, model: str) -> bytes:
    """A prompt is its ``content``, to which it adds a beginning only if it is told. Raises Unsupported."""
    found = dialect.members(body)
    for name in ("messages", "return_token_strs"):
        if dialect.value(found, name):
            raise dialect.unsupported("llama.cpp", name)
    if "content" in found:
        return body
    prompt, special = dialect.value(found, "prompt"), dialect.value(found, "add_special_tokens")
    if not isinstance(prompt, str):
        raise invalid("prompt", "expected a string")
    return dialect.encode({"model": model, "content": prompt, "add_special": special is not False})


class _Tokens(WholeDecoder):
    """``tokens`` with their number, as vLLM has it."""

    def _passed(self, body: bytes, answer: Answer) -> bytes:
        tokens = dialect.value(dialect.members(body), "tokens")
        return splice.insert(body, "count", b"%d" % len(tokens)) if isinstance(tokens, list) else body


class _Text(WholeDecoder):
    """The text by vLLM's name for it, too."""

    def _passed(self, body: bytes, answer: Answer) -> bytes:
        text = dialect.members(body).get("content")
        return body if text is None else splice.insert(body, "prompt", bytes(text))


_MADE: Mapping[Operation, type[WholeDecoder]] = {Operation.TOKENIZE: _Tokens, Operation.DETOKENIZE: _Text}


class _Named(msgspec.Struct):
    name: str


class _Tool(msgspec.Struct):
    function: _Named


def _with_one_tool(body: bytes) -> bytes:
    """It takes a tool that is named for any: with no other to choose from, it has to be that one."""
    found = dialect.members(body)
    try:
        wanted = msgspec.json.decode(found.get("tool_choice", b""), type=_Tool).function.name
        listed = msgspec.json.decode(found.get("tools", b""), type=list[msgspec.Raw])
        kept = [tool for tool in listed if msgspec.json.decode(tool, type=_Tool).function.name == wanted]
    except msgspec.DecodeError:  # a word, or nothing that anybody could read
        return body
    if not kept:
        return body
    body = splice.replace(body, "tools", msgspec.json.encode(kept))
    return splice.replace(body, "tool_choice", b'"required"')


def _with_effort(body: bytes) -> bytes:
    """Its templates are told how hard to think by their own arguments."""
    found = dialect.members(body)
    effort, told = dialect.value(found, "reasoning_effort"), dialect.value(found, "chat_template_kwargs") or {}
    name, argument = ("enable_thinking", False) if effort == "none" else ("reasoning_effort", effort)
    if effort is None or not isinstance(told, dict) or name in told:
        return body
    return splice.merge(body, "chat_template_kwargs", name, msgspec.json.encode(argument))
